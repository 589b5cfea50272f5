"""A text's tokens and vector by an embedding engine alone, without the worker that takes the parts of many in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mayfly.engines import long_texts
from mayfly.engines.base import EmbeddingEngine, Part
from mayfly.wire.calls import LongText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def parts(engine: EmbeddingEngine, text: str, long_text: LongText = "mean") -> list[Part]:
    """Return the parts of a text."""
    return [part for part in engine.plan(text, long_text) if part is not None]


def joined(made: list[Part], rows: list[npt.NDArray[np.float32]]) -> bytes:
    """Return the vector of a text from those of its chunks."""
    return long_texts.join([len(part.chunks) for part in made], [part.count for part in made], rows)


def embed(engine: EmbeddingEngine, text: str, long_text: LongText = "mean") -> tuple[bytes, int]:
    """Return the vector of a text, little-endian float32, and how many tokens were evaluated."""
    made = parts(engine, text, long_text)
    rows = [engine.compute([chunk])[0] for part in made for chunk in part.chunks]
    return joined(made, rows), sum(part.count for part in made)
