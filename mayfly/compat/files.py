"""Files: read as text, made safely, locked, and how many may be open."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mayfly.compat.process import WINDOWS


def open_utf8(path: Path) -> io.StringIO:
    """Return what is in a file that people write, its line breaks as \\n, without the byte-order mark that editors on
    Windows begin it with.

    Raises:
        OSError: it can't be read.
        ValueError: a line of it isn't UTF-8.
    """
    return io.StringIO(decode_utf8(path.read_bytes()).removeprefix("\ufeff"), newline=None)


def decode_utf8(content: bytes) -> str:
    """Return what is in a file that people write.

    Raises:
        ValueError: a line of it isn't UTF-8; the message says which, for what editors show is no position in bytes.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"line {len(content[:exc.start + 1].splitlines())} isn't UTF-8") from exc


def open_new(path: Path, mode: int = 0o600) -> int:
    """Create a file that wasn't there, following no symlink; return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, mode)


def replace_file(path: Path, text: str) -> None:
    """Put a file in the place of what is there, whole or not at all, following no symlink.

    Raises:
        OSError: it can't be written; what was there still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(open_new(temporary), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        # It takes room where there is none.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def lock_file(path: Path) -> IO[str] | None:
    """Take an exclusive lock that ends with this process; None if another process has it.

    The file holds the holder's pid for people to read, if there is room for it.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        lock = os.fdopen(os.open(path, flags, 0o600), "r+", encoding="ascii", errors="replace")
        if not lock_now(lock):
            lock.close()
            return None
        if names_this_file(path, lock):
            break
        lock.close()  # somebody removed it in the very moment: others would lock the next one
    with contextlib.suppress(OSError):
        lock.truncate(0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())
    return lock


def names_this_file(path: Path, file: IO[Any] | int) -> bool:
    """Tell whether a name leads to an open file still."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file if isinstance(file, int) else file.fileno()))
    except OSError:
        return False


def lock_now(file: IO[Any], *, wait: bool = False) -> bool:
    """Take an exclusive lock on an open file, which ends when it is closed; tell whether nobody else has it.

    Args:
        wait: until others have let go of it.
    """
    try:
        if WINDOWS:
            import msvcrt

            # Locks one byte far behind the content, so that others can read that.
            position = file.tell()
            file.seek(1 << 62)
            try:
                # Its waiting mode gives up after 10 s.
                mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined,unused-ignore]
                msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined,unused-ignore]
            finally:
                file.seek(position)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock of a folder, which is made if it can be. Windows, where a folder can't be opened, and file
    systems without locks have none."""
    with contextlib.ExitStack() as undo:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if not WINDOWS:
                import fcntl

                descriptor = os.open(folder, os.O_RDONLY)
                undo.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def raise_descriptor_limit(wanted: int) -> None:
    """Raise this process's soft limit of open descriptors as far as the hard limit allows."""
    if WINDOWS:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < ceiling:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
