"""What a file is that isn't a model: the usual things that lie beside models, or come instead of one.

The kinds of GGUF files are those that llama.cpp's own programs write (gguf-py, `GGUFType`, `MODEL_ARCH`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

#: How much of a file's beginning `of_bytes` looks at.
LOOKED_AT = 256

_BEGINNINGS = (
    (b"algg", "an adapter (LoRA) in the form before GGUF"),
    (b"lmgg", "a model in the form before GGUF, which has to be converted"),
    (b"fmgg", "a model in the form before GGUF, which has to be converted"),
    (b"tjgg", "a model in the form before GGUF, which has to be converted"),
    (b"PK\x03\x04", "an archive (zip), or a model of PyTorch, which has to be converted"),
    (b"\x1f\x8b", "an archive (gzip)"),
    (b"version https://git-lfs", "the note that Git LFS keeps in its place: 'git lfs pull' brings the file itself"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def of_bytes(beginning: bytes) -> str:
    """Return what a file is that isn't GGUF, by its first bytes; "" if that isn't known."""
    if not beginning.strip(b"\0"):
        return "zeros, where its download hasn't been: it is unfinished"
    for first, kind in _BEGINNINGS:
        if beginning.startswith(first):
            return kind
    if beginning.lstrip().lower().startswith(_PAGES):
        return "a web page, which came in its place: download it again"
    return "a model in safetensors' form, which has to be converted" if beginning[8:10] == b'{"' else ""


def of_entries(values: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return what a GGUF file is that isn't a model, by the entries of its header; "" if it is one.

    Args:
        values: the entries that have been read, by their keys.
        keys: of all entries.
    """
    kind, architecture = values.get("general.type"), values.get("general.architecture")
    if kind == "adapter" or "adapter.type" in keys:
        return "an adapter (LoRA), which changes a model and is none itself"
    if kind == "mmproj" or architecture == "clip" or any(key.startswith("clip.") for key in keys):
        return "a projector (mmproj), which lets a model see or hear and is none itself"
    if kind == "imatrix" or architecture == "imatrix" or any(key.startswith("imatrix.") for key in keys):
        return "an importance matrix (imatrix), with which models are quantised"
    if architecture == "controlvector" or any(key.startswith("controlvector.") for key in keys):
        return "a control vector, which steers a model and is none itself"
    return ""
