"""llama.cpp's C API (`llama.h`), out of the library in xllamacpp's wheel or of one that LLAMA_LIBRARY names.

On Windows the wheel keeps it to itself.

What is declared here is that of the wheel's version (llama.cpp b11549). Two structs are passed by value and differ from
release to release, so a library is taken only if its own defaults of both are, field by field, what they are known to
be. Loading a model may abort the process: only workers may use this.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mayfly.engines.llamacpp import tuned
from mayfly.engines.llamacpp.spinning import set_turns
from mayfly.errors import DeviceAbsent, FileUnusable, ModelUnavailable

#: The setting's name in the environment of workers: a library's file, or a folder with one in it.
LIBRARY = "LLAMA_LIBRARY"
PACKAGE = "xllamacpp"

_NO_REASON = "it says no reason"
# Words of reasons that may be gone at the next try: memory, and what the system does with the file. The others are of
# what is in it.
_PASSES = re.compile("alloc|memory|map|open|read|device", re.IGNORECASE)

_ERROR = 4  # ggml_log_level
_CONTINUED = 5

_INT, _COUNT, _POINTER, _FLOAT, _BOOL = (ctypes.c_int32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_float,
                                         ctypes.c_bool)
# A later library may have more fields behind those that are known: they come and go with the struct.
_LATER = [("later", ctypes.c_uint8 * 256)]


def _fields(*kinds: tuple[Any, str]) -> list[tuple[str, Any]]:
    return [(name, kind) for kind, names in kinds for name in names.split()]


class ModelParams(ctypes.Structure):
    """llama_model_params"""

    _fields_ = _fields(
        (_POINTER, "devices tensor_buft_overrides"), (_INT, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
        (_POINTER, "tensor_split progress_callback progress_callback_user_data kv_overrides"),
        (_BOOL, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp")) + _LATER


_BEGINNING = _fields(
    (_COUNT, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
    (_INT, "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"),
    (_FLOAT, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
    (_COUNT, "yarn_orig_ctx"), (_FLOAT, "defrag_thold"), (_POINTER, "cb_eval cb_eval_user_data"),
    (_INT, "type_k type_v"))
_END = _fields(
    (_POINTER, "abort_callback abort_callback_data"),
    (_BOOL, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"), (_POINTER, "samplers"),
    (ctypes.c_size_t, "n_samplers"), (_POINTER, "ctx_other")) + _LATER


class ContextParams(ctypes.Structure):
    """llama_context_params"""

    _fields_ = [*_BEGINNING, ("moe_cache_size", ctypes.c_size_t), *_END]


class PlainContextParams(ctypes.Structure):
    """llama_context_params without the field that xllamacpp's llama.cpp has added"""

    _fields_ = _BEGINNING + _END


# What the defaults are that aren't 0, false or null.
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "use_extra_bufts": True}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1, "n_threads": 4,
    "n_threads_batch": 4, **dict.fromkeys(("rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type",
                                           "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
                                           "defrag_thold"), -1),
    "type_k": 1, "type_v": 1, "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True}


class Batch(ctypes.Structure):
    """llama_batch: of each token its id, its position, how many sequences have it, and which, and whether its results
    are wanted."""

    _fields_ = _fields((_INT, "n_tokens"), (_POINTER, "token embd pos n_seq_id seq_id logits"))


class LogitBias(ctypes.Structure):
    """llama_logit_bias"""

    _fields_ = _fields((_INT, "token"), (_FLOAT, "bias"))


class ChainParams(ctypes.Structure):
    """llama_sampler_chain_params"""

    _fields_ = _fields((_BOOL, "no_perf"))


class TokenData(ctypes.Structure):
    """llama_token_data"""

    _fields_ = _fields((_INT, "id"), (_FLOAT, "logit p"))


class TokenDataArray(ctypes.Structure):
    """llama_token_data_array"""

    _fields_ = [("data", ctypes.POINTER(TokenData)), ("size", ctypes.c_size_t), ("selected", ctypes.c_int64),
                ("sorted", _BOOL)]


#: Asked between the nodes of a graph: true ends the evaluation.
Abort = ctypes.CFUNCTYPE(_BOOL, _POINTER)
_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _POINTER)
_FLOATS, _SIZE, _TEXT = ctypes.POINTER(_FLOAT), ctypes.c_size_t, ctypes.c_char_p
_FUNCTIONS: Mapping[str, tuple[Any, list[Any]]] = {
    "version": (_TEXT, []),
    "print_system_info": (_TEXT, []),
    "log_set": (None, [_Log, _POINTER]),
    "backend_init": (None, []),
    "supports_gpu_offload": (_BOOL, []),
    "model_default_params": (ModelParams, []),
    "context_default_params": (ContextParams, []),
    "model_load_from_file": (_POINTER, [_TEXT, ModelParams]),
    "model_free": (None, [_POINTER]),
    "model_get_vocab": (_POINTER, [_POINTER]),
    "model_n_embd_out": (_INT, [_POINTER]),
    "model_has_encoder": (_BOOL, [_POINTER]),
    "init_from_model": (_POINTER, [_POINTER, ContextParams]),
    "get_memory": (_POINTER, [_POINTER]),
    "memory_clear": (None, [_POINTER, _BOOL]),
    "memory_seq_rm": (_BOOL, [_POINTER, _INT, _INT, _INT]),
    "model_is_recurrent": (_BOOL, [_POINTER]),
    "model_is_hybrid": (_BOOL, [_POINTER]),
    "state_seq_get_size": (_SIZE, [_POINTER, _INT]),
    "state_seq_get_data": (_SIZE, [_POINTER, _POINTER, _SIZE, _INT]),
    "state_seq_set_data": (_SIZE, [_POINTER, _POINTER, _SIZE, _INT]),
    "set_n_threads": (None, [_POINTER, _INT, _INT]),
    "set_abort_callback": (None, [_POINTER, _POINTER, _POINTER]),
    "decode": (_INT, [_POINTER, Batch]),
    "encode": (_INT, [_POINTER, Batch]),
    "batch_get_one": (Batch, [ctypes.POINTER(_INT), _INT]),
    "get_logits_ith": (_FLOATS, [_POINTER, _INT]),
    "get_embeddings_seq": (_FLOATS, [_POINTER, _INT]),
    "get_embeddings_ith": (_FLOATS, [_POINTER, _INT]),
    "vocab_type": (_INT, [_POINTER]),
    "vocab_n_tokens": (_INT, [_POINTER]),
    "vocab_get_text": (_TEXT, [_POINTER, _INT]),
    "vocab_get_attr": (_INT, [_POINTER, _INT]),
    "vocab_is_eog": (_BOOL, [_POINTER, _INT]),
    "vocab_bos": (_INT, [_POINTER]),
    "vocab_fim_pre": (_INT, [_POINTER]),
    "vocab_fim_suf": (_INT, [_POINTER]),
    "vocab_fim_mid": (_INT, [_POINTER]),
    "vocab_get_add_bos": (_BOOL, [_POINTER]),
    "tokenize": (_INT, [_POINTER, _TEXT, _INT, ctypes.POINTER(_INT), _INT, _BOOL, _BOOL]),
    "token_to_piece": (_INT, [_POINTER, _INT, _TEXT, _INT, _INT, _BOOL]),
    "sampler_chain_init": (_POINTER, [ChainParams]),
    "sampler_chain_add": (None, [_POINTER, _POINTER]),
    "sampler_free": (None, [_POINTER]),
    "sampler_accept": (None, [_POINTER, _INT]),
    "sampler_sample": (_INT, [_POINTER, _POINTER, _INT]),
    "sampler_apply": (None, [_POINTER, ctypes.POINTER(TokenDataArray)]),
    "sampler_init_greedy": (_POINTER, []),
    "sampler_init_dist": (_POINTER, [_COUNT]),
    "sampler_init_top_k": (_POINTER, [_INT]),
    "sampler_init_top_p": (_POINTER, [_FLOAT, _SIZE]),
    "sampler_init_min_p": (_POINTER, [_FLOAT, _SIZE]),
    "sampler_init_temp": (_POINTER, [_FLOAT]),
    "sampler_init_penalties": (_POINTER, [_INT, _INT, _FLOAT, _FLOAT, _FLOAT]),
    "sampler_init_logit_bias": (_POINTER, [_INT, _INT, _POINTER]),
    "sampler_init_typical": (_POINTER, [_FLOAT, _SIZE]),
    "sampler_init_xtc": (_POINTER, [_FLOAT, _FLOAT, _SIZE, _COUNT]),
    "sampler_init_dry": (_POINTER, [_POINTER, _FLOAT, _FLOAT, _INT, _INT, _POINTER, _SIZE]),
}

# What llama.cpp has said of an error since somebody began to listen.
_errors: list[str] = []
#: Set once llama.cpp has been told to end what it computes, which it calls an error.
ending = threading.Event()


def _note(level: int, text: bytes, data: int | None) -> None:
    if ending.is_set():
        return
    if level == _ERROR:
        _errors.append(text.decode(errors="replace"))
    if level == _ERROR or (level == _CONTINUED and _errors):
        print(text.decode(errors="replace"), end="", file=sys.stderr)


_NOTE = _Log(_note)


@functools.cache
def open_library() -> ctypes.CDLL:
    """Load the library.

    Raises:
        ModelUnavailable: there is none, or it isn't one that is known.
    """
    file = _find()
    set_turns()
    try:
        llama = ctypes.CDLL(str(file))
    except OSError as exc:
        raise ModelUnavailable(f"llama.cpp's library can't be loaded: {exc}") from exc
    try:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(llama, f"llama_{name}")
            function.restype, function.argtypes = result, arguments
    except AttributeError as exc:
        raise ModelUnavailable(f"{file} is no library of llama.cpp's version that this program is for, that of "
                               f"{PACKAGE} {_wanted()}: {exc}") from exc
    _check(llama, file)
    llama.llama_log_set(_NOTE, None)
    if file.parent != _folder():
        # A library in parts finds what computes for this processor, or a graphics card, in files beside it.
        load = getattr(llama, "ggml_backend_load_all_from_path", None)
        if load is not None:
            load(str(file.parent).encode())
    llama.llama_backend_init()
    return llama


def about() -> str:
    """Return the library's version and file, and the instructions of this processor that it has code for."""
    llama = open_library()
    instructions = re.findall(r"(\w+) = 1", llama.llama_print_system_info().decode(errors="replace"))
    return f"llama.cpp {llama.llama_version().decode(errors='replace')} in {_find()}, with {' '.join(instructions)}"


def load_model(path: Path, *, vocabulary_only: bool = False, device: str = "cpu") -> int:
    """Load a model file, or its vocabulary alone.

    Args:
        device: "cpu", "gpu" (all graphics cards that the library knows), or the name of one.

    Raises:
        FileUnusable, ModelUnavailable: llama.cpp can't; the message has its own reason.
    """
    llama = open_library()
    params = llama.llama_model_default_params()
    params.vocab_only = vocabulary_only
    params.n_gpu_layers = 0
    if device != "cpu":
        chosen = _devices(llama, device)
        params.n_gpu_layers = -1
        params.devices = ctypes.cast(chosen, _POINTER) if chosen is not None else None
    _errors.clear()
    model: int | None = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        told = reason(_NO_REASON)
        passes = told == _NO_REASON or _PASSES.search(told)
        raise (ModelUnavailable if passes else FileUnusable)(f"llama.cpp can't load {path.name}: {told}")
    return model


def reason(otherwise: str) -> str:
    """Return what llama.cpp has said of the last failure."""
    first = next((line.strip() for line in _errors if line.strip()), otherwise)
    return first.rpartition("error loading model: ")[2][:300]


def logits_of(llama: ctypes.CDLL, context: int, size: int, place: int = -1) -> memoryview[float]:
    """Return what a context gives for each of the `size` tokens as the next one, as float32 in its own memory.

    Args:
        place: after which of the tokens that were evaluated last; -1 is the last.
    """
    logits = llama.llama_get_logits_ith(context, place)
    floats = (ctypes.c_float * size).from_address(ctypes.addressof(logits.contents))
    return memoryview(floats).cast("B").cast("f")


def _devices(llama: ctypes.CDLL, device: str) -> Any:
    if not llama.llama_supports_gpu_offload():
        raise DeviceAbsent(device, f"this llama.cpp has cpu alone ({LIBRARY} may name one for graphics cards)")
    if device in ("gpu", "cuda"):
        return None
    by_name = llama.ggml_backend_dev_by_name
    by_name.restype, by_name.argtypes = _POINTER, [_TEXT]
    found = by_name(device.encode())
    if not found:
        llama.ggml_backend_dev_count.restype = ctypes.c_size_t
        llama.ggml_backend_dev_get.restype, llama.ggml_backend_dev_get.argtypes = _POINTER, [ctypes.c_size_t]
        llama.ggml_backend_dev_name.restype, llama.ggml_backend_dev_name.argtypes = _TEXT, [_POINTER]
        names = [llama.ggml_backend_dev_name(llama.ggml_backend_dev_get(number)).decode(errors="replace")
                 for number in range(llama.ggml_backend_dev_count())]
        raise DeviceAbsent(device, f"llama.cpp has {', '.join(('cpu', *names))}, and gpu, all graphics cards")
    return (_POINTER * 2)(found, None)


def _check(llama: ctypes.CDLL, file: Path) -> None:
    strange = _strange(llama.llama_context_default_params(), _CONTEXT_DEFAULTS)
    if strange:
        default, init = llama.llama_context_default_params, llama.llama_init_from_model
        default.restype, init.argtypes = PlainContextParams, [_POINTER, PlainContextParams]
        if not _strange(default(), _CONTEXT_DEFAULTS):
            strange = ""
    strange = strange or _strange(llama.llama_model_default_params(), _MODEL_DEFAULTS)
    if strange:
        raise ModelUnavailable(f"{file} is llama.cpp {llama.llama_version().decode(errors='replace')}, in which "
                               f"{strange}; this program is for that of {PACKAGE} {_wanted()}")


def _strange(found: ctypes.Structure, known: Mapping[str, object]) -> str:
    """Return what differs from the known defaults of a struct."""
    for name, *_ in found._fields_[:-1]:
        value = getattr(found, name)
        if value != (known.get(name) or (None if value is None else 0)):
            return f"{name} of {type(found).__doc__} is {value}"
    return ""


def _wanted() -> str:
    from importlib import metadata  # a slow import, and for a refusal alone

    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _folder() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def wheel() -> Path:
    """Return the file of the library in the package.

    Raises:
        ModelUnavailable: it isn't installed.
    """
    place = _folder()
    file = tuned.library(place) if place is not None else None
    if file is None:
        raise ModelUnavailable(f"{PACKAGE} isn't installed")
    return file


def _find() -> Path:
    named = os.environ.get(LIBRARY, "")
    if not named:
        return tuned.library(tuned.folder()) or wheel()
    place = Path(named)
    found = place.resolve() if place.is_file() else tuned.library(place)
    if found is None:
        raise ModelUnavailable(f"there is no library of llama.cpp at {place} ({LIBRARY})")
    return found
