"""Which models fill the gap between two texts: those with a token for each part of such a prompt.

They are named by the header, or spelled in a way that llama.cpp knows (src/llama-vocab.cpp there).
"""

from __future__ import annotations

from collections.abc import Container

# Of what is before the gap, after it, and in it: the header's names of the token, and its spellings.
_TOKENS = (
    (("fim_pre", "prefix"), ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>",
                             "\u2581<PRE>", "<|code_prefix|>")),
    (("fim_suf", "suffix"), ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>",
                             "\u2581<SUF>", "<|code_suffix|>")),
    (("fim_mid", "middle"), ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>",
                             "\u2581<MID>", "<|code_middle|>")),
)

#: All spellings.
PIECES = frozenset(piece for _, spellings in _TOKENS for piece in spellings)


def fills_gaps(entries: Container[str], pieces: Container[str]) -> bool:
    """Tell whether a model does, by the keys of its header and those of `PIECES` that are in its vocabulary."""
    return all(any(f"tokenizer.ggml.{name}_token_id" in entries for name in names)
               or any(piece in pieces for piece in spellings) for names, spellings in _TOKENS)
