"""A model's vocabulary by llama.cpp."""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path
from typing import Literal

from mayfly.engines import vocabulary
from mayfly.engines.base import Tokenize
from mayfly.engines.llamacpp.library import load_model, open_library

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
        self._vocab = self._llama.llama_model_get_vocab(model)
        super().__init__(self._llama.llama_vocab_type(self._vocab))
        self._bos = array("i")
        if self._kind in (_SENTENCEPIECE, _BPE) and self._llama.llama_vocab_get_add_bos(self._vocab):
            self._bos.append(self._llama.llama_vocab_bos(self._vocab))
        self._apart = self._ids_of(_APART, framed=False, special=False)

    def __len__(self) -> int:
        """See the base."""
        return int(self._llama.llama_vocab_n_tokens(self._vocab))

    def ends(self, token: int) -> bool:
        """Tell whether a token ends an answer, as llama.cpp knows it."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def shown(self, token: int) -> bytes:
        """Return the bytes that a token adds to an answer: none, for a control token."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _text(self, token: int) -> bytes:
        return bytes(self._llama.llama_vocab_get_text(self._vocab, token))

    def _attributes(self, token: int) -> int:
        return int(self._llama.llama_vocab_get_attr(self._vocab, token))

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
        count = self._llama.llama_tokenize(self._vocab, encoded, len(encoded), buffer, len(buffer), framed, special)
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


def open_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int) -> Tokenize:
    """Open a model's vocabulary in a process that doesn't load the model; see `choose.open_tokenizer`."""
    model = load_model(path, vocabulary_only=True)
    return vocabulary.tokenizer(Opened(model), kind)
