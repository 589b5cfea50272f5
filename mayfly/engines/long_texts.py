"""Very long texts: cut into parts whose vectors become one.

100,000 words take minutes. Between two parts a worker can beat, look at the deadline and serve others; and every
engine cuts at the same places, so that it gives the same vector.
"""

from __future__ import annotations

import array
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mayfly.models import wordpiece
from mayfly.wire.calls import LongText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Bytes of a text that are one part: some 4,000 tokens of English or 5,000 of Chinese, which take seconds.
_LONGEST_PART = 16_000
_BLANKS = re.compile(r"[ \t\r\n]+")
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


def to_embed(text: str, long_text: LongText) -> Iterator[str | None]:
    """Yield the parts of a text that are embedded; see `EmbeddingEngine.parts`."""
    return iter([beginning(text)]) if long_text == "truncate" else cleaned_parts(text)


def cleaned_parts(text: str) -> Iterator[str | None]:
    """Yield the parts of a text, cleaned as a WordPiece vocabulary wants them unless there is only one, and before them
    None after each step of cleaning. Nothing takes more than some milliseconds, however long the text is."""
    if is_one_part(text):
        yield text
        return
    cleaned: list[str] = []
    for piece in wordpiece.normalised(text):
        if cleaned:
            yield None
        cleaned.append(piece)
    yield from parts("".join(cleaned))


def beginning(text: str) -> str:
    """Return as much of a text as surely fills the window of a model that cuts it there: as long as a part, its blanks
    not counted. A word that is longer is cut, as in `parts`.
    """
    if is_one_part(text):
        return text
    kept = []
    size = 0
    for part in parts(text):
        kept.append(_BLANKS.sub(" ", part))
        size += len(kept[-1].replace(" ", "").encode())
        if size >= _LONGEST_PART:
            break
    return "".join(kept)


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


def join_parts(vectors: Sequence[bytes], tokens: Sequence[int]) -> bytes:
    """Return the vector of a text from those of its parts, all as little-endian float32."""
    if len(vectors) == 1:
        return vectors[0]
    numbers = [array.array("f", vector) for vector in vectors]
    if sys.byteorder == "big":
        for vector in numbers:
            vector.byteswap()
    return join(numbers, tokens)


def join_chunks(lengths: Sequence[int], tokens: Sequence[int], vectors: Sequence[npt.NDArray[np.float32]]) -> bytes:
    """Return the vector of a text from those of its parts' chunks, in their order.

    As in gpt4all, a part's vector is the mean of its chunks' vectors, whatever their lengths, with norm 1.

    Args:
        lengths: how many chunks each part has.
        tokens: how many tokens were evaluated for it.
    """
    if len(vectors) == 1:
        return vectors[0].astype("<f4").tobytes()
    left = iter(vectors)
    means = []
    for length in lengths:
        total = next(left).astype("f8")
        for _ in range(length - 1):
            total += next(left)
        means.append((total / math.sqrt(total @ total)).tolist())
    return join(means, tokens)
