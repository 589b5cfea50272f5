"""Very long texts: cut into parts whose vectors become one.

100,000 words take minutes. Between two parts a worker can beat, look at the deadline and serve others; and every
engine cuts at the same places, so that it gives the same vector.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mayfly.models import wordpiece

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Bytes of a text that are one part: some 4,000 tokens of English or 5,000 of Chinese, which take seconds.
LONGEST_PART = 16_000
# What a character may become in UTF-8 once it is decomposed.
_MOST_BYTES = 12


def parts(text: str) -> list[str]:
    """Cut a very long text into parts, at blanks where there are any; a shorter one is its only part."""
    longest = LONGEST_PART * len(text) // max(1, len(text.encode()))
    found = []
    start = 0
    while len(text) - start > longest:
        end = start + longest
        blank = max(text.rfind(mark, end - longest // 2, end) for mark in " \n\t")
        found.append(text[start:end if blank < 0 else blank])
        start += len(found[-1])
    return [*found, text[start:]]


def cleaned_parts(text: str) -> Iterator[list[str]]:
    """Yield the parts of a text, cleaned as a WordPiece vocabulary wants them unless there is only one, and before them
    [] after each step of cleaning. Nothing takes more than some milliseconds, however long the text is."""
    if len(text) * (1 if text.isascii() else _MOST_BYTES) <= LONGEST_PART:
        yield [text]
        return
    cleaned = []
    for piece in wordpiece.normalised(text):
        cleaned.append(piece)
        yield []
    yield parts("".join(cleaned))


def join(lengths: Sequence[int], tokens: Sequence[int], vectors: Sequence[npt.NDArray[np.float32]]) -> bytes:
    """Return the vector of a text from those of its parts' chunks, in their order, as little-endian float32 of norm 1.

    As in gpt4all, a part's vector is the mean of its chunks' vectors, whatever their lengths, with norm 1; that of the
    text is the mean of its parts' vectors by their tokens.

    Args:
        lengths: how many chunks each part has.
        tokens: how many tokens were evaluated for it.
    """
    if len(vectors) == 1:
        return vectors[0].astype("<f4").tobytes()
    left = iter(vectors)
    means: list[Any] = [sum(vector.astype("f8") for vector in itertools.islice(left, length)) for length in lengths]
    total: Any = sum(count * mean / math.sqrt(mean @ mean) for count, mean in zip(tokens, means, strict=True))
    return bytes((total / math.sqrt(total @ total)).astype("<f4").tobytes())
