"""llama.cpp's C API (`llama.h`), which the libraries in gpt4all's wheel export.

gpt4all itself embeds nothing but whole texts, in calls that nobody can watch, and doesn't count tokens; this API takes
token ids and gives them. What is declared here is that of one version alone, so no other is used. A malformed file
aborts the process here as it does in gpt4all: only workers may use this.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mayfly.errors import ModelUnavailable

_VERSION = "2.8.2"
_SUFFIXES = (".so", ".dylib", ".dll")
# `LLModel::Implementation::cpuSupportsAVX2`, as compilers spell it: 0 is no.
_SUPPORTS_AVX2 = ("_ZN7LLModel14Implementation15cpuSupportsAVX2Ev", "?cpuSupportsAVX2@Implementation@LLModel@@SAHXZ")
_LOG_ERROR = 2  # ggml_log_level


_INT, _POINTER = ctypes.c_int32, ctypes.c_void_p


def _fields(*kinds: tuple[Any, str]) -> list[tuple[str, Any]]:
    return [(name, kind) for kind, names in kinds for name in names.split()]


class ModelParams(ctypes.Structure):
    """llama_model_params"""

    _fields_ = _fields(
        (_INT, "n_gpu_layers split_mode main_gpu"), (_POINTER, "tensor_split rpc_servers"),
        (_POINTER, "progress_callback progress_callback_user_data kv_overrides"),
        (ctypes.c_bool, "vocab_only use_mmap use_mlock check_tensors"))


class ContextParams(ctypes.Structure):
    """llama_context_params"""

    _fields_ = _fields(
        (ctypes.c_uint32, "seed n_ctx n_batch n_ubatch n_seq_max n_threads n_threads_batch"),
        (_INT, "rope_scaling_type pooling_type attention_type"),
        (ctypes.c_float, "rope_freq_base rope_freq_scale"),
        (ctypes.c_float, "yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
        (ctypes.c_uint32, "yarn_orig_ctx"), (ctypes.c_float, "defrag_thold"),
        (_POINTER, "cb_eval cb_eval_user_data"), (_INT, "type_k type_v"),
        (ctypes.c_bool, "logits_all embeddings offload_kqv flash_attn"),
        (_POINTER, "abort_callback abort_callback_data"))


class Batch(ctypes.Structure):
    """llama_batch: of each token its id, its position, how many sequences have it, and which, and whether its results
    are wanted."""

    _fields_ = _fields(
        (_INT, "n_tokens"), (_POINTER, "token embd pos n_seq_id seq_id logits"),
        (_INT, "all_pos_0 all_pos_1 all_seq_id"))


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def _print(level: int, text: bytes, data: int | None) -> None:
    if level == _LOG_ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


_PRINT_ERRORS = _LOG(_print)
_FLOATS = ctypes.POINTER(ctypes.c_float)
_FUNCTIONS = {
    "model_default_params": (ModelParams, []),
    "load_model_from_file": (_POINTER, [ctypes.c_char_p, ModelParams]),
    "free_model": (None, [_POINTER]),
    "n_vocab": (_INT, [_POINTER]),
    "vocab_type": (ctypes.c_int, [_POINTER]),
    "token_get_attr": (ctypes.c_int, [_POINTER, _INT]),
    "token_get_text": (ctypes.c_char_p, [_POINTER, _INT]),
    "tokenize_gpt4all": (_INT, [_POINTER, ctypes.c_char_p, _INT, ctypes.POINTER(_INT), _INT, ctypes.c_bool,
                                ctypes.c_bool, ctypes.c_bool]),
    "context_default_params": (ContextParams, []),
    "new_context_with_model": (_POINTER, [_POINTER, ContextParams]),
    "set_n_threads": (None, [_POINTER, ctypes.c_uint32, ctypes.c_uint32]),
    "decode": (_INT, [_POINTER, Batch]),
    "get_embeddings_seq": (_FLOATS, [_POINTER, _INT]),
    "get_embeddings_ith": (_FLOATS, [_POINTER, _INT]),
    "log_set": (None, [_LOG, _POINTER]),
}


@functools.cache
def open_llama() -> ctypes.CDLL:
    """Load the library that gpt4all would compute with on this processor, without importing gpt4all.

    Raises:
        ModelUnavailable: there is none, or it isn't the known one.
    """
    version = importlib.metadata.version("gpt4all")
    if version != _VERSION:
        raise ModelUnavailable(f"gpt4all {_VERSION} is needed, and {version} is installed")
    llama = _load()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(llama, f"llama_{name}")
        function.restype, function.argtypes = result, arguments
    model, context = llama.llama_model_default_params(), llama.llama_context_default_params()
    if (not model.use_mmap or model.vocab_only or model.use_mlock or model.check_tensors
            or (context.n_ctx, context.pooling_type, context.offload_kqv) != (512, -1, True)):
        raise ModelUnavailable(f"this gpt4all's library isn't the known one; install {_VERSION}")
    llama.llama_log_set(_PRINT_ERRORS, None)
    return llama


def load_model(path: Path, *, vocabulary_only: bool) -> int | None:
    """Load a model file, or its vocabulary alone, for the processor; None if llama.cpp can't."""
    llama = open_llama()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.vocab_only = vocabulary_only
    loaded: int | None = llama.llama_load_model_from_file(str(path).encode(), params)
    return loaded


def _load() -> ctypes.CDLL:
    for library in _libraries():
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # it needs what isn't there: the next one
            continue
    raise ModelUnavailable("none of gpt4all's libraries can be loaded")


def _libraries() -> Iterator[Path]:
    spec = importlib.util.find_spec("gpt4all")
    for package in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(package) / "llmodel_DO_NOT_MODIFY" / "build"
        without_avx2 = _lacks_avx2(folder)
        found = [path for path in folder.glob("*llamamodel-mainline*")
                 if path.suffix in _SUFFIXES and ("avxonly" in path.name) == without_avx2]
        # Those for a graphics card of one maker need its driver, and give it work unasked.
        yield from sorted(found, key=lambda path: ("cuda" in path.name, path.name))


def _lacks_avx2(folder: Path) -> bool:
    """Ask gpt4all whether this processor needs the libraries that do without AVX2."""
    for path in folder.glob("*llmodel.*"):
        if path.suffix in _SUFFIXES:
            library = ctypes.CDLL(str(path))
            for name in _SUPPORTS_AVX2:
                if hasattr(library, name):
                    return int(library[name]()) == 0
    return False
