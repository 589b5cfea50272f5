"""What is known of each engine without loading it: `BACKENDS`, the one list of them.

The watchdog, the web process and the settings ask here, so this needs nothing but the standard library. Another engine
is a module of this folder and an entry of the list.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Kind = Literal["completion", "embedding"]

GGUF = ".gguf"
#: What names the engine for a kind of models.
SETTINGS: Mapping[Kind, str] = {"completion": "CHAT_ENGINE", "embedding": "EMBED_ENGINE"}
# How completion models pool that were trained to make vectors.
_POOLED = ("mean", "cls", "last")
#: Where a setting leaves the engine to the program.
AUTO = "auto"


class Backend:
    """An engine.

    Attributes:
        name: by which settings, messages and /health call it; `title` where its version is to be known.
        loaders: what makes it ready, "module:callable", for each kind of model that it computes. It is called with a
            path and these by name: `threads`, `model` (the public name), and for completions `context_length`, `device`
            and `form` (of the prompts; None leaves it to the file). It returns an engine (mayfly.engines.base), or
            raises ModelUnavailable.
        tokenizer: what opens a model's vocabulary alone, called with a path, the kind, how many tokens there are, and
            the form of the prompts. It returns a function (`mayfly.engines.base.Tokenize`).
        about: what tells of its library and what that uses of this processor; "" where that is a package's version.
        package: that it needs.
        suffix: how the names of its files end.
        architectures: the networks that it computes.
        features: what it can, of what not every engine can: fields of requests for completions, by their names;
            "precision" is that it takes EMBED_PRECISION.
    """

    name: str
    title: str
    loaders: Mapping[Kind, str]
    tokenizer: str
    about = ""
    package = ""
    suffix = GGUF
    architectures: Mapping[Kind, frozenset[str]]
    features: frozenset[str] = frozenset()

    def describe(self, path: Path) -> Mapping[str, Any] | None:
        """Return what a file says of itself that isn't GGUF: `kind`, `architecture`, `context_length`, and of one that
        completes its chat `template`.

        Raises:
            OSError, ValueError: it can't be read.
        """
        return None

    def objection(self, kind: Kind, architecture: str, tensor_types: frozenset[str], pooling: str | None = None) -> str:
        """Return why it can't take a file as a model of a kind, after the file's name; "" if it can.

        Args:
            pooling: how it makes one vector of many, if its file says that it does.
        """
        if architecture in self.architectures.get(kind, ()):
            return ""
        shown = architecture[:50]
        if kind_of(architecture) == kind:
            return f"has the architecture {shown!r}, which {self.title} can't run"
        if kind == "completion":
            return "is an embedding model and can't complete prompts; set MODEL_NAME to a completion model"
        known = " or ".join(sorted(self.architectures.get(kind, ())))
        return (f"is no embedding model (its architecture is {shown}); set EMBED_MODEL to one whose architecture is "
                f"{known}")

    def installed(self) -> bool:
        """Tell whether the package is there that it needs."""
        return not self.package or importlib.util.find_spec(self.package) is not None

    def may_fork(self, device: str) -> bool:
        """Tell whether a process that has loaded a model may be forked, and the fork compute."""
        return sys.platform.startswith("linux") and device == "cpu"

    def isolation(self, wanted: str, device: str) -> str:
        """Return how its completions get fresh processes: "fork", "respawn" or "none"; `wanted` is ISOLATION."""
        if wanted in (AUTO, "fork"):
            return "fork" if self.may_fork(device) else "respawn"
        return wanted

    def memory(self, weights: int, cache: int, threads: int) -> int:
        """Estimate the memory in bytes that a model takes.

        Args:
            weights: its files' size; they are mapped, and shared by all processes.
            cache: of keys and values, of all processes.
            threads: compute threads of the service.
        """
        return weights + cache


class OpenVino(Backend):
    """Embeddings, 1.5 to 3 times as fast in f32 as gpt4all's and faster in bf16, where it is installed."""

    name = title = "openvino"
    loaders: Mapping[Kind, str] = {"embedding": "mayfly.engines.openvino:OpenVinoEmbeddings"}
    tokenizer = "mayfly.engines.gpt4all.vocabulary:open_tokenizer"
    package = "openvino"
    architectures: Mapping[Kind, frozenset[str]] = {"embedding": frozenset({"bert"})}
    features = frozenset({"precision"})

    def memory(self, weights: int, cache: int, threads: int) -> int:
        """See Backend."""
        # Measured with all-MiniLM-L6-v2 in f16 (45 MB): 280 MB with one compiled form and 420 MB with two, and up to
        # 80 MB more for one after texts of all lengths. It keeps one for all threads, and one for the thread that is
        # left beside a completion.
        return (150 << 20) + (1 + 3 * min(2, threads)) * weights


class Gpt4All(Backend):
    """Completions and embeddings everywhere, of models that are no newer than its last release."""

    name = "gpt4all"
    title = "gpt4all 2.8.2"
    loaders: Mapping[Kind, str] = {"completion": "mayfly.engines.gpt4all.completions:Gpt4AllCompletions",
                                   "embedding": "mayfly.engines.gpt4all.embeddings:Gpt4AllEmbeddings"}
    tokenizer = "mayfly.engines.gpt4all.vocabulary:open_tokenizer"
    package = "gpt4all"
    # The answer of the wheel itself: its libraries export `is_arch_supported`, which it asks before it loads a file. A
    # test asks it again.
    architectures: Mapping[Kind, frozenset[str]] = {
        "embedding": frozenset({"bert", "nomic-bert"}),
        "completion": frozenset({
            "baichuan", "bloom", "chatglm", "codeshell", "command-r", "deepseek2", "falcon", "gemma", "gemma2", "gpt2",
            "gptneox", "internlm2", "jais", "llama", "mpt", "olmo", "openelm", "orion", "phi2", "phi3", "qwen", "qwen2",
            "qwen2moe", "refact", "stablelm", "starcoder", "starcoder2", "xverse"})}
    # Those of its ggml.h; it aborts on others.
    tensor_types = frozenset({
        "F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64",
        "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"})

    def objection(self, kind: Kind, architecture: str, tensor_types: frozenset[str], pooling: str | None = None) -> str:
        """See Backend."""
        strange = sorted(tensor_types - self.tensor_types)
        if strange:
            return f"has weights of the type {strange[0]}, which {self.title} doesn't know"
        return super().objection(kind, architecture, tensor_types, pooling)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


class LlamaCpp(Backend):
    """Completions and embeddings by the llama.cpp of today, where xllamacpp's wheel is installed or LLAMA_LIBRARY names
    another build."""

    name = "llamacpp"
    title = "llama.cpp"
    loaders: Mapping[Kind, str] = {"completion": "mayfly.engines.llamacpp.completions:LlamaCompletions",
                                   "embedding": "mayfly.engines.llamacpp.embeddings:LlamaEmbeddings"}
    tokenizer = "mayfly.engines.llamacpp.vocabulary:open_tokenizer"
    about = "mayfly.engines.llamacpp.library:about"
    package = "xllamacpp"
    # The answers of the wheel's library to files that have nothing but the name of an architecture. A test asks it
    # again. Those that it has beside these neither complete a text nor make a vector of one.
    architectures: Mapping[Kind, frozenset[str]] = {
        "embedding": _names("""
            bert eurobert gemma-embedding gemma-embedding2 jina-bert-v2 jina-bert-v3 llama-embed
            modern-bert neo-bert nomic-bert nomic-bert-moe
            """),
        "completion": _names("""
            afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bitnet bloom
            chameleon chatglm clef codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek
            deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1 dots3note ernie4_5 ernie4_5-moe exaone
            exaone-moe exaone4 falcon falcon-h1 gemma gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe
            glm5-next gpt-oss gpt2 gptj gptneox granite granite_swa granitehybrid granitemoe graniteswitch
            grok grovemoe hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2
            jamba k2-horizon kimi-k3 kimi-linear laguna lfm2 lfm2moe llama llama4 maincoder mamba mamba2
            maple mellum mimo2 minicpm minicpm3 minimax-01 minimax-m2 mistral3 mistral4 mpt muse-glimmer
            nanbeige nemotron nemotron_h nemotron_h_moe olmo olmo2 olmoe openelm orion paddleocr
            pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm qwen qwen2 qwen2moe qwen2vl qwen3
            qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe qwen4exp refact rwkv6 rwkv6qwen2 rwkv7
            seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 talkie xverse
            """)}
    features = frozenset({"seed", "typical_p", "presence_penalty", "frequency_penalty", "logit_bias", "dry_multiplier",
                          "xtc_probability", "logprobs", "top_logprobs", "n_ctx", "response_format", "format",
                          "grammar", "regex", "suffix", "tools"})

    # What it has removed: such weights were arranged for one processor, which it does itself when it loads a file now.
    removed_types: Mapping[str, str] = {
        **dict.fromkeys(("Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"), "Q4_0"),
        **dict.fromkeys(("IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8"), "IQ4_NL")}

    def objection(self, kind: Kind, architecture: str, tensor_types: frozenset[str], pooling: str | None = None) -> str:
        """See Backend. What completes can be trained to make vectors too."""
        removed = sorted(tensor_types & self.removed_types.keys())
        if removed:
            return (f"has weights of the type {removed[0]}, which {self.title} has removed: get the model in "
                    f"{self.removed_types[removed[0]]}")
        trained = kind == "embedding" and pooling in _POOLED and architecture in self.architectures["completion"]
        return "" if trained else super().objection(kind, architecture, tensor_types, pooling)

    def installed(self) -> bool:
        """See Backend."""
        return bool(os.environ.get("LLAMA_LIBRARY")) or super().installed()


class Scripted(Backend):
    """Failures that no real model has on order; see mayfly.engines.scripted."""

    name = title = "scripted"
    loaders: Mapping[Kind, str] = {"completion": "mayfly.engines.scripted:ScriptedCompletions",
                                   "embedding": "mayfly.engines.scripted:ScriptedEmbeddings"}
    tokenizer = "mayfly.engines.scripted:open_tokenizer"
    suffix = ".script.json"
    architectures: Mapping[Kind, frozenset[str]] = {}
    features = frozenset({"tools"})

    def describe(self, path: Path) -> Mapping[str, Any]:
        """See Backend."""
        try:
            with path.open("rb") as stream:
                script = json.loads(stream.read(1 << 20))
            kind = "embedding" if script.get("kind") == "embedding" else "completion"
            return {"kind": kind, "architecture": "script", "context_length": int(script.get("context_length", 2048)),
                    "template": script.get("template")}
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise ValueError(f"{path.name} is no script") from exc


#: Every engine; of those that can take a file the first one that is installed serves it.
BACKENDS: tuple[Backend, ...] = (OpenVino(), LlamaCpp(), Gpt4All(), Scripted())

#: How the names of model files end.
SUFFIXES = tuple({backend.suffix: None for backend in BACKENDS})


def lacking(features: Sequence[str], engine: str) -> str | None:
    """Return the first of some features that an engine of this name hasn't, if there is one."""
    able = next((backend.features for backend in BACKENDS if backend.name == engine), frozenset())
    return next((name for name in features if name not in able), None)


def of_file(name: str) -> list[Backend]:
    """Return the engines that take files of this name."""
    return [backend for backend in BACKENDS if name.lower().endswith(backend.suffix)]


def suffix_of(name: str) -> str:
    """Return how a file's name ends, as it is spelt there (`.GGUF`), if so that it may be a model; else ""."""
    return next((name[-len(suffix):] for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def kind_of(architecture: str, pooling: str | None = None) -> Kind:
    """Return what a network does; one that nobody knows completes.

    Args:
        pooling: how it makes one vector of many, if its file says that it does.
    """
    embedding = {name for backend in BACKENDS for name in backend.architectures.get("embedding", ())}
    return "embedding" if pooling in _POOLED or architecture in embedding else "completion"


def names(kind: Kind) -> list[str]:
    """Return the names of the engines for a kind of GGUF files, the best first; the last one runs everywhere."""
    return [backend.name for backend in BACKENDS if backend.suffix == GGUF and kind in backend.loaders]


def candidates(kind: Kind, among: Collection[Backend], wanted: str = AUTO) -> list[Backend]:
    """Return the engines that may be tried with a model, the best one first.

    Args:
        among: engines.
        wanted: the name of the one that a setting asks for. A file of another form than GGUF has an engine of its own.
    """
    able = [backend for backend in among if kind in backend.loaders]
    return [backend for backend in able if backend.name == wanted] or able


def serving(kind: Kind, among: Collection[str], wanted: str = AUTO) -> Backend:
    """Return the engine that serves a model; where none can take it, one that says so.

    Args:
        among: the names of those that can take it; see `candidates`.
    """
    able = candidates(kind, [backend for backend in BACKENDS if backend.name in among], wanted)
    able = able or candidates(kind, BACKENDS, wanted)
    return next((backend for backend in able if backend.installed()), able[-1])
