"""Which architectures gpt4all 2.8.2 runs.

The list is the answer of the wheel itself: its backend libraries export `is_arch_supported`, which gpt4all asks before
it loads a file. A test asks it again.
"""

from __future__ import annotations

EMBEDDING_ARCHITECTURES = frozenset({"bert", "nomic-bert"})
#: Those that the accelerated embedding engine computes.
ACCELERATED_ARCHITECTURES = frozenset({"bert"})

COMPLETION_ARCHITECTURES = frozenset({
    "baichuan", "bloom", "chatglm", "codeshell", "command-r", "deepseek2", "falcon", "gemma", "gemma2", "gpt2",
    "gptneox", "internlm2", "jais", "llama", "mpt", "olmo", "openelm", "orion", "phi2", "phi3", "qwen", "qwen2",
    "qwen2moe", "refact", "stablelm", "starcoder", "starcoder2", "xverse"})

# sentence-transformers cuts a text at 256 tokens for the models that this architecture is used for here.
_BERT_WINDOW = 256


def embedding_window(architecture: str, context_length: int) -> int:
    """Return how many tokens an embedding model takes at once; of a longer text parts are made, or it is cut.

    Args:
        context_length: what the model's file says, or 0.
    """
    if architecture == "bert":
        return min(_BERT_WINDOW, context_length or _BERT_WINDOW)
    return context_length or 2048
