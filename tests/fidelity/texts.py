"""The texts whose vectors are compared with sentence-transformers' own.

texts.json holds the short ones by kind; the long ones are made here, the same in every Python.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent

# Words of different lengths: some are one token of the model, some several.
_TEXT = (
    "river mountain window bread silver summer letter paper candle forest island bridge garden winter morning "
    "she he they said went looked found carried forgot remembered opened closed because although while until "
    "quickly slowly beautiful enormous quiet thermodynamics photosynthesis Reykjavik unbelievably antiquarian "
    "café naïve 1984 3.14 don't mother's well-known etc. lighthouse-keeper JSON embedding"
)
_WORDS = _TEXT.split()
_LONG = (50, 100, 150, 180, 200, 220, 250, 300, 500, 1000, 2000)


class Sample(NamedTuple):
    """A text and what it is there for."""

    kind: str
    text: str


def alike() -> list[Sample]:
    """Return the texts whose vectors have to agree: the first rows of reference.npy."""
    return _listed("alike") + [Sample(f"{words} words", _prose(words)) for words in _LONG]


def different() -> list[Sample]:
    """Return the known exceptions, which docs/models.md explains: the other rows of reference.npy."""
    return _listed("different")


def _listed(group: str) -> list[Sample]:
    kinds = json.loads((FOLDER / "texts.json").read_text(encoding="utf-8"))[group]
    return [Sample(kind, text) for kind, texts in kinds.items() for text in texts]


def _prose(words: int) -> str:
    """Return `words` random words as sentences."""
    # Only random() is promised to give the same numbers in every Python.
    number = random.Random(words).random
    text = []
    for at in range(words):
        word = _WORDS[int(number() * len(_WORDS))]
        text.append(word.capitalize() if at % 12 == 0 else word + "." if at % 12 == 11 else word)
    return " ".join(text)
