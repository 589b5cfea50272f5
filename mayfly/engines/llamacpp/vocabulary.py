"""A model's vocabulary by llama.cpp."""

from __future__ import annotations

import contextlib
import ctypes
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mayfly.engines import vocabulary
from mayfly.engines.base import Tokenize
from mayfly.engines.gpt4all.vocabulary import open_vocabulary
from mayfly.engines.llamacpp.library import load_model, open_library
from mayfly.errors import ModelUnavailable
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment

# llama_vocab_type
_SENTENCEPIECE, _BPE, _WORDPIECE = 1, 2, 3
# No piece of a vocabulary holds this character, so its tokens join none.
_APART = "\x01"


class Vocabulary(vocabulary.Vocabulary):
    """The tokenizer of a model that is loaded, or of which the vocabulary is.

    Args:
        model: llama.cpp's.
    """

    def __init__(self, model: int) -> None:
        self._llama = open_library()
        self.pointer = self._llama.llama_model_get_vocab(model)
        super().__init__(self._llama.llama_vocab_type(self.pointer))
        self._bos = array("i")
        if self._kind in (_SENTENCEPIECE, _BPE) and self._llama.llama_vocab_get_add_bos(self.pointer):
            self._bos.append(self._llama.llama_vocab_bos(self.pointer))
        self._apart = self._ids_of(_APART, framed=False, special=False)

    def __len__(self) -> int:
        """See the base."""
        return int(self._llama.llama_vocab_n_tokens(self.pointer))

    def ends(self, token: int) -> bool:
        """Tell whether a token ends an answer, as llama.cpp knows it."""
        return bool(self._llama.llama_vocab_is_eog(self.pointer, token))

    def shown(self, token: int) -> bytes:
        """Return the bytes that a token adds to an answer: none, for a control token."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._llama.llama_token_to_piece(self.pointer, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def name(self, token: int) -> str:
        """Return what a token is called that adds nothing to an answer."""
        return self._text(token).decode(errors="replace")

    def inner_ids(self, text: str) -> list[int]:
        """Return the ids of a text inside of another one, in which no control token is spelled."""
        return list(self._raw_ids(text, at_start=False, special=False, space=False))

    def around_a_gap(self, before: str, after: str) -> list[Segment] | None:
        """Return the prompt for what fills the gap between two texts; None if there are no tokens for that."""
        llama = self._llama
        marks = [find(self.pointer) for find in (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf,
                                                 llama.llama_vocab_fim_mid)]
        if min(marks) < 0:
            return None
        prefix, suffix, middle = (Segment(self.name(mark), special=True) for mark in marks)
        return [part for part in (prefix, Segment(before, special=False), suffix, Segment(after, special=False), middle)
                if part.text]

    @property
    def begins(self) -> bool:
        """Whether a token stands before each prompt that isn't of its text."""
        return bool(self._bos)

    @property
    def words(self) -> bool:
        """Whether it is a WordPiece vocabulary, as a BERT has."""
        return self._kind == _WORDPIECE

    def frame(self) -> tuple[array[int], array[int]]:
        """Return the ids that begin and end a text whose vector is to be made."""
        framed = self._ids_of("", framed=True, special=False)
        begin = len(self._bos) if self._kind in (_SENTENCEPIECE, _BPE) else min(1, len(framed))
        return framed[:begin], framed[begin:]

    def unframed(self, text: str) -> Iterator[array[int]]:
        """Yield the ids of a text, some milliseconds of work at a time, without those that `frame` tells."""
        begin, end = self.frame()
        whole = self._kind not in (_SENTENCEPIECE, _BPE)
        for number, (_, ids) in enumerate(self.pieces([Segment(text, special=False)])):
            inner = ids if number else ids[len(begin):]
            yield inner[:len(inner) - len(end)] if whole else inner

    def _text(self, token: int) -> bytes:
        return bytes(self._llama.llama_vocab_get_text(self.pointer, token))

    def _attributes(self, token: int) -> int:
        return int(self._llama.llama_vocab_get_attr(self.pointer, token))

    def _raw_ids(self, text: str, *, at_start: bool, special: bool, space: bool) -> array[int]:
        if self._kind not in (_SENTENCEPIECE, _BPE):
            return self._ids_of(text, framed=at_start, special=special)
        if space or self._kind == _BPE:
            ids = self._ids_of(text, framed=False, special=special)
        else:
            # llama.cpp puts a space before whatever text it is given.
            ids = self._ids_of(_APART + text, framed=False, special=special)[len(self._apart):]
        return self._bos + ids if at_start else ids

    def _ids_of(self, text: str, *, framed: bool, special: bool) -> array[int]:
        encoded = text.encode()
        buffer = (ctypes.c_int32 * (len(encoded) + 8))()
        count = self._llama.llama_tokenize(self.pointer, encoded, len(encoded), buffer, len(buffer), framed, special)
        ids = array("i")
        ids.frombytes(ctypes.string_at(buffer, ids.itemsize * max(0, count)))
        return ids


class Opened(Vocabulary):
    """A vocabulary that was opened without its model, and gives its memory back."""

    def __init__(self, model: int) -> None:
        super().__init__(model)
        self._model = model

    def __del__(self) -> None:
        """Give its memory back."""
        self._llama.llama_model_free(self._model)


def open_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int, form: PromptForm | None = None
                   ) -> Tokenize:
    """Open a model's vocabulary in a process that doesn't load the model; see `choose.open_tokenizer`."""
    opened = Opened(load_model(path, vocabulary_only=True))
    if kind == "completion":
        return vocabulary.of_prompts(opened, path, form)
    return vocabulary.of_words(of_words(path, opened)) if opened.words else opened.unframed


def of_words(path: Path, own: Vocabulary) -> Callable[[str], list[int]]:
    """Return what makes a text the ids of a WordPiece vocabulary, framed.

    That is the library in gpt4all's wheel where it knows the model: today's llama.cpp drops the vowel signs of Hindi.

    Args:
        own: what does it otherwise.
    """
    found: vocabulary.Vocabulary = own
    with contextlib.suppress(ModelUnavailable):
        found = open_vocabulary(path, len(own))
    return lambda text: found.tokenize([Segment(text, special=False)])
