"""The sentinel: one file by which a process says that it is ready, alive, and done.

A supervised process writes its sentinel when it is ready (JSON: pid, generation, model, when; later the id and
sizes of the request it serves, never text), touches it from its working loop, and removes it when it has
completed the request it lived for. The watchdog reads: exited and removed is spent; exited and still there is
crashed; alive and untouched for HANG_SECONDS is hung.

The file is put there by rename and touched without following links, so whatever somebody puts in its place
(garbage, a symlink) is neither followed nor trusted; a beat puts the real one back if it has vanished. What it says is
overwritten in place as long as it is still the same file, padded with blanks: a rename over a file makes a journalling
file system write to the disk, which takes longer than embedding a text.

A folder that has gone or is full is no reason for a process to end: the watchdog makes it again, and the next beat puts
the sentinel there.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

#: What a sentinel says that its process is `doing` after its request: evaluating the answer ahead.
AHEAD = "ahead"

# A beat is a system call; more often than this tells the watchdog nothing new.
_BEAT_INTERVAL = 0.1
_LARGEST = 64 * 1024


class Sentinel:
    """The process's own side of its sentinel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = "{}"
        self._mine: tuple[int, int, int] | None = None  # device and inode of the file, and its length
        self._last_beat = 0.0

    def write(self, facts: dict[str, Any]) -> None:
        """Replace the sentinel's content. A full disk leaves it empty rather than absent: presence counts."""
        self._text = json.dumps(facts)
        self._last_beat = time.monotonic()
        if not self._overwrite():
            with contextlib.suppress(OSError):
                self._replace()

    def _overwrite(self) -> bool:
        """Write into the file that is there; False if it isn't this process's any more."""
        if self._mine is None:
            return False
        device, inode, length = self._mine
        try:
            descriptor = os.open(self.path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return False
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != (device, inode) or found.st_size != length:
                return False
            content = self._text.encode().ljust(length)
            written = os.write(descriptor, content)
            self._mine = device, inode, max(length, written)
            return written == len(content)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def _replace(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with contextlib.suppress(OSError):
                os.write(descriptor, self._text.encode())
            found = os.fstat(descriptor)
            self._mine = found.st_dev, found.st_ino, found.st_size
        finally:
            os.close(descriptor)
        try:
            os.replace(temporary, self.path)
        except IsADirectoryError:
            _clear(self.path)
            os.replace(temporary, self.path)

    def beat(self) -> None:
        """Touch the sentinel: the working loop has moved on."""
        now = time.monotonic()
        if now - self._last_beat < _BEAT_INTERVAL:
            return
        self._last_beat = now
        try:
            if os.utime in os.supports_follow_symlinks:
                os.utime(self.path, follow_symlinks=False)
            else:
                os.utime(self.path)
        except FileNotFoundError:
            self.write(json.loads(self._text))
        except OSError:
            # The folder can't be used, which the watchdog sees as well.
            return

    def remove(self) -> None:
        """Say that the request this process lived for is completed."""
        self._mine = None
        with contextlib.suppress(OSError):
            _clear(self.path)


def _clear(path: Path) -> None:
    """Remove what is in a sentinel's place. A folder with something in it is nobody's sentinel: it is moved aside."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # macOS says EPERM of a folder
        try:
            os.rmdir(path)
        except OSError:
            os.replace(path, path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}"))


def read(path: Path) -> dict[str, Any] | None:
    """Read a sentinel; None if there is none, {} if what is there isn't one."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return {}
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            content = os.read(descriptor, _LARGEST)
        finally:
            os.close(descriptor)
        facts = json.loads(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def touched(path: Path) -> int | None:
    """Return a number that changes with every touch, or None if there is no sentinel.

    The supervisor watches for *change* on its own monotonic clock and never compares this with the time of day,
    which may jump.
    """
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return None


def sweep(folder: Path) -> list[str]:
    """Remove the sentinels and lanes' sockets that an earlier run left; return their names."""
    removed: list[str] = []
    try:
        entries = list(folder.iterdir())
    except OSError:
        return removed
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.name.endswith(".watchdog"):
                _clear(entry)
                removed.append(entry.name)
            elif ".watchdog." in entry.name or entry.name.endswith(".sock"):
                entry.unlink()
                removed.append(entry.name)
    return sorted(removed)
