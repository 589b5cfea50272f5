"""The journal: every event and every request as a line, on the terminal and in rotating files.

A thread writes. A terminal that is paused, a full disk or a folder that can't be written must not stop the
watchdog: lines that find no room are counted, and the count is written as soon as there is room again.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mayfly.compat.files import names_this_file

_ROOM = 10_000
_FILE_SIZE = 5 << 20
_FILES_KEPT = 5


class _Rotating(logging.handlers.RotatingFileHandler):
    """A rotating log file that follows no symlink, tells once when it can't be written, and is made again, with its
    folder, when it was removed."""

    def __init__(self, path: Path) -> None:
        self.failure: str | None = None
        super().__init__(path, maxBytes=_FILE_SIZE, backupCount=_FILES_KEPT, encoding="utf-8",
                         errors="backslashreplace", delay=True)

    def _open(self) -> Any:
        def opener(name: str, flags: int) -> int:
            return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)

        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=opener)

    def write(self, line: str) -> None:
        """Append a line; on failure remember why and let go of the file, so that the next line tries again."""
        record = logging.LogRecord("mayfly", logging.INFO, "", 0, line, None, None)
        try:
            if self.stream is not None and not names_this_file(Path(self.baseFilename), self.stream):
                self.stream.close()
                self.stream = None  # type: ignore[assignment,unused-ignore]
            if self.shouldRollover(record):
                self.doRollover()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(line + "\n")
            self.stream.flush()
            self.failure = None
        except (OSError, ValueError) as exc:
            self.failure = f"{self.baseFilename} can't be written: {getattr(exc, 'strerror', None) or exc}"
            stream: Any = self.stream
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.close()
            self.stream = None


class Journal:
    """Lines for people.

    Args:
        folder: of the log files: watchdog.log (events) and access.log (requests).
    """

    def __init__(self, folder: Path) -> None:
        self._lines: queue.Queue[tuple[str, str] | None] = queue.Queue(_ROOM)
        self._files = {"event": _Rotating(folder / "watchdog.log"), "access": _Rotating(folder / "access.log")}
        self._told: dict[str, str] = {}
        self._dropped = 0
        self._terminal = True
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def event(self, line: str) -> None:
        """Write an event, with the time before it."""
        self._put("event", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def access(self, line: str) -> None:
        """Write a line of the access log as it is."""
        self._put("access", line)

    def close(self, patience: float = 1.0) -> None:
        """Write what waits, for so many seconds at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(patience)

    def _put(self, kind: str, line: str) -> None:
        try:
            self._lines.put_nowait((kind, line))
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (entry := self._lines.get()) is not None:
            kind, line = entry
            self._line(kind, line)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._line("event", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {dropped} log lines found no room")

    def _line(self, kind: str, line: str) -> None:
        self._print(line)
        file = self._files[kind]
        file.write(line)
        if file.failure is None:
            self._told.pop(kind, None)
        elif self._told.get(kind) != file.failure:
            self._told[kind] = file.failure
            self._print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {file.failure}; going on without it")

    def _print(self, line: str) -> None:
        if not self._terminal:
            return
        try:
            print(line, flush=True)
        except UnicodeEncodeError:
            print(line.encode("ascii", "backslashreplace").decode(), flush=True)
        except (OSError, ValueError):
            # Nobody reads any more (`| head`). The files still do.
            self._terminal = False
            with contextlib.suppress(OSError, ValueError):
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
