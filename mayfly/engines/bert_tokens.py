"""A text's tokens for a BERT, cut as gpt4all cuts them: the same ids, the same chunks, the same counts.

The vocabulary is asked through the library that gpt4all itself asks (`vocabulary.py`), so the ids can't differ. Words
are made tokens independently of one another, so each is asked for once and remembered.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mayfly.engines import long_texts
from mayfly.engines.base import Part
from mayfly.models import wordpiece
from mayfly.wire.calls import LongText

# gpt4all's `embedInternal` (llamamodel.cpp of 2.8.2): chunks overlap, and a text without tokens becomes this one.
_OVERLAP = 8
_PLACEHOLDER = "24df574ea1c998de59d5be15e769658e"

# What gpt4all puts before a text, by the name in the model's file (`EMBEDDING_MODEL_SPECS`).
_PREFIXES = {
    r"nomic-embed-text-v1(-ablated|-unsupervised|\.5)?": "search_document:",
    r"e5-(small|base|large)(-unsupervised|-v2)?": "passage:",
    r"llm-embedder": "Represent this document for retrieval:",
}
# The model whose vectors gpt4all moves so that their numbers' mean is 0 (`matryoshkaCapable`).
_CENTRED = "nomic-embed-text-v1.5"

_WORD = re.compile(r"[^ \t\r\n]+")
# Bytes of words in which a text's first chunk is looked for.
_MOST_READ = 64_000

# A language's common words fit; what they take is some 20 MB at most.
_MOST_WORDS = 100_000
_LONGEST_WORD = 40


def prefix_of(name: str | None) -> str:
    """Return what stands before each text of a model of this name."""
    return next((prefix for names, prefix in _PREFIXES.items() if re.fullmatch(names, name or "")), "")


def finished(rows: npt.NDArray[np.float32], name: str | None) -> npt.NDArray[np.float32]:
    """Return the vectors that a model of this name has computed, one a row, with norm 1."""
    if name == _CENTRED:
        rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


class BertTokens:
    """The tokenizer of an embedding engine.

    Args:
        tokenize: gives the ids of a text, framed by those that begin and end every text.
        window: tokens of a chunk at most, the frame included.
        prefix: what stands before the text in each chunk.
    """

    def __init__(self, tokenize: Callable[[str], list[int]], window: int, prefix: str = "") -> None:
        self._tokenize = tokenize
        framing = tokenize("")
        if len(framing) != 2:
            raise ValueError(f"the vocabulary frames a text with {len(framing)} tokens instead of 2")
        *self._begin, self._end = tokenize(prefix)
        self._room = window - len(self._begin) - 1
        if self._room <= _OVERLAP:
            raise ValueError(f"a window of {window} tokens is too small")
        self._known: dict[str, tuple[int, ...]] = {}

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine; "truncate" keeps the first chunk alone."""
        if long_text == "truncate":
            yield self._part(self._beginning(text), 0)
            return
        for parts in long_texts.cleaned_parts(text):
            left = sum(len(part.encode()) for part in parts)
            for part in parts:
                left -= len(part.encode())
                yield self._part(self._ids(part), left)
            if not parts:
                yield None

    def _part(self, ids: list[int], left: int) -> Part:
        chunks = self._chunks(ids or self._ids(_PLACEHOLDER))
        return Part([(*self._begin, *chunk, self._end) for chunk in chunks], sum(map(len, chunks)), left)

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        chunks = [ids[:self._room]]
        at = 0
        while at + self._room < len(ids):
            at += self._room - _OVERLAP
            chunks.append(ids[at:at + self._room])
        return chunks

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text without its frame."""
        known, words = self._known, text.split(" ")
        try:
            # Nearly always every word is known.
            return list(itertools.chain.from_iterable([known[word] for word in words]))
        except KeyError:
            return list(itertools.chain.from_iterable(map(self._of_word, words)))

    def _beginning(self, text: str) -> list[int]:
        """Return the ids of as much of a text as fills a chunk. A word that is longer than a part is cut."""
        ids: list[int] = []
        size = 0
        for found in _WORD.finditer(text):
            if len(ids) >= self._room or size >= _MOST_READ:
                break
            word = found[0][:long_texts.LONGEST_PART]
            ids += self._of_word(word)
            size += len(word.encode())
        return ids[:self._room]

    def _of_word(self, word: str) -> tuple[int, ...]:
        if word in self._known:
            return self._known[word]
        # gpt4all's own cleaning of a text differs from the tokenizer that the model was trained with.
        ids = tuple(self._tokenize(wordpiece.normalise(word))[1:-1])
        if len(word) <= _LONGEST_WORD:
            if len(self._known) >= _MOST_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids
