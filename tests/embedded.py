"""A text's tokens and vector by an embedding engine alone, without the worker that takes the parts of many in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mayfly.engines import long_texts
from mayfly.engines.base import BatchEmbeddingEngine, EmbeddingEngine, PartEmbeddingEngine, Tokenized
from mayfly.wire.calls import LongText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def parts(engine: EmbeddingEngine, text: str, long_text: LongText = "mean") -> list[str]:
    """Return the parts of a text."""
    return [part for part in engine.parts(text, long_text) if part is not None]


def tokenized(engine: BatchEmbeddingEngine, text: str, long_text: LongText = "mean") -> list[Tokenized]:
    """Return the tokens of each part of a text."""
    return [engine.tokenize(part, long_text) for part in parts(engine, text, long_text)]


def joined(made: list[Tokenized], rows: list[npt.NDArray[np.float32]]) -> bytes:
    """Return the vector of a text from those of its chunks."""
    return long_texts.join_chunks([len(part.chunks) for part in made], [part.count for part in made], rows)


def embed(engine: EmbeddingEngine, text: str, long_text: LongText = "mean") -> tuple[bytes, int]:
    """Return the vector of a text, little-endian float32, and how many tokens were evaluated."""
    if isinstance(engine, BatchEmbeddingEngine):
        made = tokenized(engine, text, long_text)
        rows = [engine.embed_batch([chunk])[0] for part in made for chunk in part.chunks]
        return joined(made, rows), sum(part.count for part in made)
    assert isinstance(engine, PartEmbeddingEngine)
    vectors, counts = zip(*(engine.embed(part, long_text) for part in parts(engine, text, long_text)), strict=True)
    return long_texts.join_parts(vectors, counts), sum(counts)
