"""The run folder: one watchdog has it, and puts it back if somebody takes it away.

What is in it is small and easily lost: a clean-up of files, `rm -rf run/`. The lock is a file there that the watchdog
keeps open; whether its name still leads to it is looked at every tick. If it doesn't, the folder and the lock are made
again. Where another watchdog was faster, exactly one may serve: this one ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mayfly.compat.files import lock_file, names_this_file, open_new
from mayfly.supervision import refusals
from mayfly.supervision.refusals import Refused

# What the sentinels, the board and the lock take, a page each, with some to spare (bytes).
_ROOM = 64 * 1024
# Whoever removes the folder may be about it while it is made again: so often that is begun anew.
_TRIES = 100


class RunFolder:
    """The folder, taken by this process.

    Args:
        path: where it is; made if it isn't there.

    Raises:
        Refused: another watchdog has it, it can't be written, or there is no room in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Whether another watchdog has it now: what is in it is no longer this one's.
        self.lost = False
        self._lock: IO[str] | None = None
        self._take(_second)
        try:
            self._try_room()
        except OSError as exc:
            self.close()
            raise self._unusable(exc) from exc

    def hold(self) -> bool:
        """Put the folder and the lock back if they have gone; tell whether they had.

        Raises:
            Refused: another watchdog has it now, or it can't be put back.
        """
        if self._lock is None or not names_this_file(self._lock_path, self._lock):
            self.close()
            self._take(_taken_over)
            return True
        if not self._writable():
            try:
                self.path.chmod(0o700)
            except FileNotFoundError:
                return False  # removed in this very moment: the next look puts it back
            except OSError as exc:
                raise self._unusable(exc) from exc
            if not self._writable():
                raise self._unusable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path)))
        return False

    def close(self) -> None:
        """Let go of it. The lock's file stays: removing it would let two in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _lock_path(self) -> Path:
        return self.path / "watchdog.lock"

    def _writable(self) -> bool:
        return os.access(self.path, os.W_OK | os.X_OK)

    def _take(self, sentence: Callable[[Path, str], str]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.chmod(0o700)
                self._lock = lock_file(self._lock_path)
                break
            except OSError as exc:
                if not (isinstance(exc, FileNotFoundError) and left):
                    raise self._unusable(exc) from exc
        if self._lock is None:
            self.lost = True
            raise Refused(sentence(self.path, self._holder()), refusals.SECOND)

    def _try_room(self) -> None:
        """Write as much as the service is going to need. A folder that is full later stops nothing; see `Sentinel`."""
        probe = self.path / f".probe.{os.getpid()}"
        probe.unlink(missing_ok=True)
        try:
            with os.fdopen(open_new(probe), "wb") as file:
                file.write(bytes(_ROOM))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def _unusable(self, exc: OSError) -> Refused:
        which = f"{exc.filename}: " if exc.filename and str(exc.filename) != str(self.path) else ""
        return Refused(f"the folder {self.path} can't be used ({which}{exc.strerror or exc}): make it writable, make "
                       "room in it, or name another with RUN_FOLDER_NAME in .env", refusals.FOLDER)

    def _holder(self) -> str:
        try:
            pid = self._lock_path.read_text().strip()
        except (OSError, ValueError):
            pid = ""
        return f" (pid {pid})" if pid.isdigit() else ""


def _second(path: Path, holder: str) -> str:
    return (f"another watchdog{holder} runs for {path} already: stop it first, or set RUN_FOLDER_NAME and LISTEN_PORT "
            "for a second service")


def _taken_over(path: Path, holder: str) -> str:
    return (f"watchdog.lock was removed from {path}, and another watchdog{holder} has taken the folder over: this one "
            "ends. Set RUN_FOLDER_NAME and LISTEN_PORT for a second service")
