"""A text's tokens for a BERT, cut as gpt4all cuts them: the same ids, the same chunks, the same counts.

The vocabulary is asked through the library that gpt4all itself asks (`vocabulary.py`), so the ids can't differ. Words
are made tokens independently of one another, so each is asked for once and remembered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from mayfly.engines.base import Tokenized
from mayfly.models import wordpiece
from mayfly.wire.calls import LongText

# gpt4all's `embedInternal` (llamamodel.cpp of 2.8.2): chunks overlap, and a text without tokens becomes this one.
_OVERLAP = 8
_PLACEHOLDER = "24df574ea1c998de59d5be15e769658e"

# A language's common words fit; what they take is some 20 MB at most.
_MOST_WORDS = 100_000
_LONGEST_WORD = 40


class BertTokens:
    """The tokenizer of an embedding engine.

    Args:
        tokenize: gives the ids of a text, framed by those that begin and end every text.
        window: tokens of a chunk at most, the frame included.
    """

    def __init__(self, tokenize: Callable[[str], list[int]], window: int) -> None:
        self._tokenize = tokenize
        framing = tokenize("")
        if len(framing) != 2:
            raise ValueError(f"the vocabulary frames a text with {len(framing)} tokens instead of 2")
        self._begin, self._end = framing
        self._room = window - len(framing)
        if self._room <= _OVERLAP:
            raise ValueError(f"a window of {window} tokens is too small")
        self._known: dict[str, tuple[int, ...]] = {}

    def tokenized(self, part: str, long_text: LongText) -> Tokenized:
        """Return the chunks and the count of a part of a text; "truncate" keeps the first chunk alone."""
        ids = self._ids(part, self._room if long_text == "truncate" else None) or self._ids(_PLACEHOLDER)
        chunks = self._chunks(ids)
        return Tokenized(tuple((self._begin, *chunk, self._end) for chunk in chunks), sum(map(len, chunks)))

    def _chunks(self, ids: Sequence[int]) -> list[Sequence[int]]:
        chunks = [ids[:self._room]]
        at = 0
        while at + self._room < len(ids):
            at += self._room - _OVERLAP
            chunks.append(ids[at:at + self._room])
        return chunks

    def _ids(self, text: str, most: int | None = None) -> list[int]:
        """Return the ids of a text without its frame; the first `most` of them."""
        known = self._known
        try:
            # Nearly always every word is known.
            if most is None:
                return list(itertools.chain.from_iterable([known[word] for word in text.split(" ")]))
        except KeyError:
            pass
        ids: list[int] = []
        for word in text.split(" "):
            ids += known[word] if word in known else self._learn(word)
            if most is not None and len(ids) >= most:
                return ids[:most]
        return ids

    def _learn(self, word: str) -> tuple[int, ...]:
        # gpt4all's own cleaning of a text differs from the tokenizer that the model was trained with.
        ids = tuple(self._tokenize(wordpiece.normalise(word))[1:-1])
        if len(word) <= _LONGEST_WORD:
            if len(self._known) >= _MOST_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids
