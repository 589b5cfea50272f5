"""gpt4all's library: how models are loaded by it, and its C API. The only module that imports gpt4all.

It loads cut files and files of the wrong kind unless the thread count is set and the architecture is looked at first;
both are done, and a self-test follows the load. The C API is the one in `llmodel_c.h` of the wheel.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from pathlib import Path

import gpt4all._pyllmodel as binding
from gpt4all import GPT4All

from mayfly.engines.backends import GGUF
from mayfly.errors import DeviceAbsent, FileUnusable, ModelUnavailable

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

# What it takes for a device, beside a name: any of a library, or of a maker.
_KINDS = ("gpu", "cuda", "kompute", "amd", "nvidia", "intel")


def load_completions(path: Path, threads: int, context_length: int, device: str) -> GPT4All:
    """Load a completion model.

    Raises:
        ModelUnavailable: gpt4all can't.
    """
    if not path.name.endswith(GGUF):  # it would look for a file with that added
        raise FileUnusable(f"gpt4all takes no {path.name}, for it ends in {path.suffix}: rename it to "
                           f"{path.with_suffix(GGUF).name}")
    try:
        return GPT4All(path.name, n_threads=threads, device=device, model_path=path.parent, allow_download=False,
                       n_ctx=context_length)
    except Exception as exc:  # the binding raises bare Exception
        if device != "cpu":
            _require(device, exc)
        raise ModelUnavailable(f"gpt4all can't load {path.name}: {first_line(exc)}") from exc


def _require(device: str, reason: Exception) -> None:
    """Say so if what it failed for is that there is no such device."""
    if sys.platform == "darwin":
        cards = ["gpu"] * (platform.machine() == "arm64")
    else:
        cards = []
        with contextlib.suppress(ValueError):  # it finds none
            cards = GPT4All.list_gpus()
        if cards and device in _KINDS:
            return
    if not any(device in (card, card.partition(":")[2]) for card in cards):
        raise DeviceAbsent(device, f"gpt4all has {', '.join(('cpu', *cards))}" + (" alone" if not cards else "")
                           ) from reason


def first_line(exc: BaseException) -> str:
    """Return the first line of an error's text, for a message of ours."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:300]
