"""A model's vocabulary: what a text's tokens are, without loading the model's weights.

gpt4all's Python binding has no call for it, but the libraries in its wheel export llama.cpp's C API (`llama.h`
beside them). A malformed file aborts the process here as it does in gpt4all: only workers may use this.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mayfly.engines.base import Segment
from mayfly.errors import ModelUnavailable
from mayfly.models import wordpiece

# What the structures and functions below were taken from.
_VERSION = "2.8.2"

# llama.h of the wheel: LLAMA_TOKEN_ATTR_UNKNOWN, _CONTROL, _USER_DEFINED. After such a token gpt4all puts a space
# before the next text (where the vocabulary asks for one), as it does at the start.
_ATTRIBUTES_BEFORE_SPACE = 1 << 0 | 1 << 3 | 1 << 4


class _ModelParams(ctypes.Structure):
    _fields_ = [
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("rpc_servers", ctypes.c_char_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("use_mmap", ctypes.c_bool),
        ("use_mlock", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
    ]


class Vocabulary:
    """The tokenizer of one model file.

    Args:
        library: the wheel's `libllamamodel-mainline-*`, already loaded by gpt4all.
        path: the model file.

    Raises:
        ModelUnavailable: llama.cpp can't read the file's vocabulary.
    """

    def __init__(self, library: Path, path: Path) -> None:
        llama = ctypes.CDLL(str(library))
        llama.llama_model_default_params.restype = _ModelParams
        llama.llama_load_model_from_file.argtypes = [ctypes.c_char_p, _ModelParams]
        llama.llama_load_model_from_file.restype = ctypes.c_void_p
        llama.llama_tokenize_gpt4all.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32,
            ctypes.c_bool, ctypes.c_bool, ctypes.c_bool]
        llama.llama_tokenize_gpt4all.restype = ctypes.c_int32
        llama.llama_token_get_attr.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        llama.llama_token_get_attr.restype = ctypes.c_int
        llama.llama_n_vocab.argtypes = [ctypes.c_void_p]
        llama.llama_n_vocab.restype = ctypes.c_int32
        llama.llama_free_model.argtypes = [ctypes.c_void_p]
        params = llama.llama_model_default_params()
        if not params.use_mmap or params.vocab_only or params.use_mlock or params.check_tensors:
            raise ModelUnavailable("this gpt4all's library isn't the known one; install 2.8.2")
        params.vocab_only = True
        self._llama = llama
        self._model = llama.llama_load_model_from_file(str(path).encode(), params)
        if not self._model:
            raise ModelUnavailable(f"the vocabulary of {path.name} can't be read")

    def __del__(self) -> None:
        """Give its memory back."""
        if getattr(self, "_model", None):
            self._llama.llama_free_model(self._model)

    def __len__(self) -> int:
        return int(self._llama.llama_n_vocab(self._model))

    def tokenize(self, segments: list[Segment]) -> list[int]:
        """Return the token ids that gpt4all evaluates for a prompt fed in these segments."""
        ids: list[int] = []
        for segment in segments:
            at_start = not ids
            space = at_start or bool(
                self._llama.llama_token_get_attr(self._model, ids[-1]) & _ATTRIBUTES_BEFORE_SPACE)
            encoded = segment.text.encode()
            buffer = (ctypes.c_int32 * (len(encoded) + 4))()
            count = self._llama.llama_tokenize_gpt4all(
                self._model, encoded, len(encoded), buffer, len(buffer), at_start, segment.special, space)
            ids.extend(buffer[:max(0, count)])
        return ids


def open_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int) -> Callable[[str], list[int]]:
    """Open a model's vocabulary in a process that doesn't load the model.

    Args:
        path: the model file.
        kind: an embedding model's text is cleaned first, as for its vectors.
        size: how many tokens the file's header says there are.

    Returns:
        A function that gives the token ids for a text of a client, in which `</s>` is text.

    Raises:
        ModelUnavailable: the vocabulary can't be read, or the library behaves otherwise than the known one.
    """
    vocabulary = open_vocabulary(path, size)

    def tokenize(text: str) -> list[int]:
        cleaned = wordpiece.normalise(text) if kind == "embedding" else text
        return vocabulary.tokenize([Segment(cleaned, special=False)])

    return tokenize


def open_vocabulary(path: Path, size: int) -> Vocabulary:
    """Open a model's vocabulary in a process that hasn't loaded the model by gpt4all; see `open_tokenizer`."""
    version = importlib.metadata.version("gpt4all")
    if version != _VERSION:
        raise ModelUnavailable(f"tokens are counted with gpt4all {_VERSION}, and {version} is installed")
    vocabulary = Vocabulary(_find_library(), path)
    if len(vocabulary) != size:
        raise ModelUnavailable(f"the library finds {len(vocabulary)} tokens in {path.name}, its header says {size}")
    return vocabulary


def _find_library() -> Path:
    """Return one of the wheel's backend libraries that can be loaded here, without importing gpt4all."""
    for library in _libraries():
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(library))
            return library
    raise ModelUnavailable("none of gpt4all's libraries can be loaded to count tokens")


def _libraries() -> Iterator[Path]:
    spec = importlib.util.find_spec("gpt4all")
    for package in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(package) / "llmodel_DO_NOT_MODIFY" / "build"
        found = [path for path in folder.glob("*llamamodel-mainline*") if path.suffix in (".so", ".dylib", ".dll")]
        # The plainest first: it runs on every processor that gpt4all runs on, and needs no driver.
        yield from sorted(found, key=lambda path: ("cuda" in path.name, "avxonly" not in path.name, path.name))
