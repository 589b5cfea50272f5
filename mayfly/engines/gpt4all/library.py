"""gpt4all's library: how models are loaded by it, and its C API. The only module that imports gpt4all.

It loads cut files and files of the wrong kind unless the thread count is set and the architecture is looked at first;
both are done, and a self-test follows the load. The C API is the one in `llmodel_c.h` of the wheel.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import gpt4all._pyllmodel as binding
from gpt4all import GPT4All

from mayfly.errors import ModelUnavailable

library = binding.llmodel
library.llmodel_get_state_size.argtypes = [ctypes.c_void_p]
library.llmodel_get_state_size.restype = ctypes.c_uint64
library.llmodel_save_state_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
library.llmodel_save_state_data.restype = ctypes.c_uint64
library.llmodel_restore_state_data.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
library.llmodel_restore_state_data.restype = ctypes.c_uint64

PromptContext = binding.LLModelPromptContext
PromptCallback = binding.PromptCallback
ResponseCallback = binding.ResponseCallback


def load_completions(path: Path, threads: int, context_length: int, device: str) -> GPT4All:
    """Load a completion model.

    Raises:
        ModelUnavailable: gpt4all can't.
    """
    try:
        return GPT4All(path.name, n_threads=threads, device=device, model_path=path.parent, allow_download=False,
                       n_ctx=context_length)
    except Exception as exc:  # the binding raises bare Exception
        raise ModelUnavailable(f"gpt4all can't load {path.name}: {first_line(exc)}") from exc


def first_line(exc: BaseException) -> str:
    """Return the first line of an error's text, for a message of ours."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:300]
