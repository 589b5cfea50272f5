"""Very long texts: cut into parts whose vectors become one.

100,000 words take minutes. Between two parts a worker can beat, look at the deadline and serve others; and every
engine cuts at the same places, so that it gives the same vector.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mayfly.engines.base import Tokenized
from mayfly.models import wordpiece

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Bytes of a text that are one part: some 4,000 tokens of English or 5,000 of Chinese, which take seconds.
_LONGEST_PART = 16_000
# What a character may become in UTF-8 once it is decomposed.
_MOST_BYTES = 12


def is_one_part(text: str) -> bool:
    """Tell whether a text surely has one part, whatever becomes of it as it is normalised."""
    return len(text) * (1 if text.isascii() else _MOST_BYTES) <= _LONGEST_PART


def parts(text: str) -> list[str]:
    """Cut a very long text into parts, at blanks where there are any; a shorter one is its only part."""
    longest = _LONGEST_PART * len(text) // max(1, len(text.encode()))
    found = []
    start = 0
    while len(text) - start > longest:
        end = start + longest
        blank = max(text.rfind(mark, end - longest // 2, end) for mark in " \n\t")
        found.append(text[start:end if blank < 0 else blank])
        start += len(found[-1])
    return [*found, text[start:]]


def cleaned_parts(text: str) -> Iterator[str | None]:
    """Yield the parts of a text as a WordPiece vocabulary wants them, and before them None after each step of cleaning:
    nothing takes more than some milliseconds, however long the text is."""
    cleaned = []
    for piece in wordpiece.normalised(text):
        cleaned.append(piece)
        if len(cleaned) > 1:
            yield None
    yield from parts("".join(cleaned))


def join(vectors: Sequence[Sequence[float]], tokens: Sequence[int]) -> bytes:
    """Return the vector of a text as little-endian float32: the mean of its parts' vectors by their tokens, norm 1."""
    if len(vectors) == 1:
        joined = array.array("f", vectors[0])
    else:
        total = [math.fsum(numbers) for numbers in zip(*([weight * number for number in vector] for vector, weight
                                                         in zip(vectors, tokens, strict=True)), strict=True)]
        norm = math.sqrt(math.fsum(number * number for number in total)) or math.nan
        joined = array.array("f", (number / norm for number in total))
    if sys.byteorder == "big":
        joined.byteswap()
    return joined.tobytes()


def join_chunks(text: Tokenized, vectors: Sequence[npt.NDArray[np.float32]]) -> bytes:
    """Return the vector of a text from those of its chunks, in their order.

    As in gpt4all, a part's vector is the mean of its chunks' vectors, whatever their lengths, with norm 1.
    """
    if len(vectors) == 1:
        return vectors[0].astype("<f4").tobytes()
    left = iter(vectors)
    means = []
    for part in text.parts:
        total = next(left).astype("f8")
        for _ in part[1:]:
            total += next(left)
        means.append((total / math.sqrt(total @ total)).tolist())
    return join(means, text.counts)
