"""Memory: how much there is, and memory that processes share."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mayfly.compat.process import WINDOWS

if not WINDOWS:
    import fcntl

#: Whether there is memory here that can be sealed.
CAN_SEAL = hasattr(os, "memfd_create") and not WINDOWS and hasattr(fcntl, "F_ADD_SEALS")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW if CAN_SEAL else 0


def memory_size() -> int:
    """Return the memory in bytes that this machine has, or that its container may use."""
    if WINDOWS:
        return _windows_memory_size()
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            size = min(size, int(Path(file).read_text()))
    return size


def shared_memory(size: int) -> tuple[mmap.mmap, int | str]:
    """Make memory, all zeros, that this process's children can have as well.

    It is no file in a folder: nobody can remove it, or cut it short, which would end (SIGBUS) all who have it.

    Args:
        size: in bytes.

    Returns:
        The memory, and what `join_memory` takes in a child: a descriptor that has to be inherited, or a name (Windows).

    Raises:
        OSError: there is no room for it.
    """
    if WINDOWS:
        name = f"mayfly-{secrets.token_hex(16)}"
        return mmap.mmap(-1, size, tagname=name), name  # type: ignore[call-arg,unused-ignore]
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mayfly")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    # Written, because a file that is only made so long takes its room when it is used, and there may be none.
    if os.write(descriptor, bytes(size)) < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return mmap.mmap(descriptor, size), descriptor


def join_memory(handle: int | str, size: int) -> mmap.mmap:
    """Return the memory that a parent has made by `shared_memory`."""
    if isinstance(handle, str):
        return mmap.mmap(-1, size, tagname=handle)  # type: ignore[call-arg,unused-ignore]
    try:
        return mmap.mmap(handle, size)
    finally:
        os.close(handle)


def sealed_memory(size: int, fill: Callable[[Any], int]) -> int | None:
    """Make memory that nobody can change, or cut short, once it is filled (where `CAN_SEAL`).

    Args:
        size: in bytes.
        fill: called with it, as an array of ctypes; returns how many bytes it has written.

    Returns:
        Its descriptor; None if there is no room for it, or it wasn't filled.
    """
    descriptor = os.memfd_create("mayfly", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            whole = fill((ctypes.c_uint8 * size).from_buffer(memory)) == size
        if whole:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def sealed_size(descriptor: int) -> int:
    """Return the size of sealed memory in bytes; 0 for anything else."""
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        return os.fstat(descriptor).st_size if sealed else 0
    except OSError:
        return 0


def sealed_content(descriptor: int) -> Any:
    """Return sealed memory as an array of ctypes, to be read; what is written to it goes nowhere.

    Raises:
        OSError, ValueError: it can't be mapped.
    """
    memory = mmap.mmap(descriptor, sealed_size(descriptor), access=mmap.ACCESS_COPY)
    return (ctypes.c_uint8 * len(memory)).from_buffer(memory)


def _windows_memory_size() -> int:
    class Status(ctypes.Structure):
        # MEMORYSTATUSEX of sysinfoapi.h
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32),
                    *((name, ctypes.c_uint64) for name in ("total", "free", "total_page", "free_page", "total_virtual",
                                                           "free_virtual", "free_extended"))]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.total)
