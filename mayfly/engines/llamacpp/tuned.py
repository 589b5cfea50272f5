"""Where a llama.cpp that `mayfly tune` has compiled for this processor is kept. Nothing is loaded here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

from mayfly import places

#: What is compiled: a package whose source has llama.cpp in it. Its structs are among those that library.py knows.
SOURCE = "llama-cpp-python==0.3.36"
#: The names of llama.cpp's library, the last one being that in xllamacpp's wheel.
NAMES = ("libllama.so", "libllama.dylib", "llama.dll", "xllamacpp.abi3.so")


def root() -> Path:
    """Return the folder of all that were compiled here."""
    return places.home() / "engine"


@functools.cache
def folder() -> Path:
    """Return the folder of the one for this source and this processor, which needn't be there: what was compiled for
    another processor would end a process with an illegal instruction."""
    machine = os.uname().machine if hasattr(os, "uname") else ""
    instructions = ""
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        instructions = next(line for line in file if line.startswith(("flags", "Features")))
    made_for = "\n".join((SOURCE, machine, instructions))
    return root() / hashlib.sha256(made_for.encode()).hexdigest()[:16]


def library(place: Path) -> Path | None:
    """Return the file of llama.cpp's library in a folder, if it is there."""
    return next((place / name for name in NAMES if (place / name).is_file()), None)
