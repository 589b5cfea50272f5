"""A model's vocabulary by the llama.cpp in gpt4all's wheel, without loading the model's weights.

A malformed file aborts the process here as it does in gpt4all: only workers may use this.
"""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path
from typing import Literal

from mayfly.engines import vocabulary
from mayfly.engines.base import Tokenize
from mayfly.engines.gpt4all.llama_api import load_model, open_llama
from mayfly.errors import ModelUnavailable
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment


class Vocabulary(vocabulary.Vocabulary):
    """The tokenizer of one model file.

    Args:
        path: the model file.

    Raises:
        ModelUnavailable: llama.cpp can't read the file's vocabulary.
    """

    def __init__(self, path: Path) -> None:
        self._llama = open_llama()
        self._model = load_model(path, vocabulary_only=True)
        if not self._model:
            raise ModelUnavailable(f"the vocabulary of {path.name} can't be read")
        super().__init__(self._llama.llama_vocab_type(self._model))

    def __del__(self) -> None:
        """Give its memory back."""
        if getattr(self, "_model", None):
            self._llama.llama_free_model(self._model)

    def __len__(self) -> int:
        """See the base."""
        return int(self._llama.llama_n_vocab(self._model))

    def _text(self, token: int) -> bytes:
        return bytes(self._llama.llama_token_get_text(self._model, token))

    def _attributes(self, token: int) -> int:
        return int(self._llama.llama_token_get_attr(self._model, token))

    def _raw_ids(self, text: str, *, at_start: bool, special: bool, space: bool) -> array[int]:
        encoded = text.encode()
        buffer = (ctypes.c_int32 * (len(encoded) + 4))()
        count = self._llama.llama_tokenize_gpt4all(
            self._model, encoded, len(encoded), buffer, len(buffer), at_start, special, space)
        ids = array("i")
        ids.frombytes(ctypes.string_at(buffer, ids.itemsize * max(0, count)))
        return ids


def open_vocabulary(path: Path, size: int) -> Vocabulary:
    """Open a model's vocabulary in a process that hasn't loaded the model by gpt4all.

    Args:
        size: how many tokens the file's header says there are.

    Raises:
        ModelUnavailable: the vocabulary can't be read, or the library behaves otherwise than the known one.
    """
    found = Vocabulary(path)
    if len(found) != size:
        raise ModelUnavailable(f"the library finds {len(found)} tokens in {path.name}, its header says {size}")
    return found


def open_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int, form: PromptForm | None = None
                   ) -> Tokenize:
    """Open a model's vocabulary in a process that doesn't load the model; see `choose.open_tokenizer`."""
    opened = open_vocabulary(path, size)
    if kind == "completion":
        return vocabulary.of_prompts(opened, path, form)
    return vocabulary.of_words(lambda text: opened.tokenize([Segment(text, special=False)]))
