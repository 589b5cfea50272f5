"""The board: what the watchdog says of each lane, read by the web process.

The watchdog replaces `run/state.json` by rename whenever something changes; the web process looks at most every
few milliseconds whether the file is a new one. A file outlives the web process and can't block anybody, as a pipe
would.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from mayfly.compat.files import replace_file
from mayfly.wire.codec import plain

#: The name of the lane whose process knows the vocabularies of all models. Its own, so that tokens are counted while
#: the models are busy, and no completion's process is spent on it.
VOCABULARY = "vocabulary"

_LOOK_INTERVAL = 0.02


class Board:
    """The latest state of all lanes, shared by all threads of the web process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._seen: tuple[int, int] | None = None
        self._lanes: dict[str, dict[str, Any]] = {}

    def lane(self, name: str) -> dict[str, Any]:
        """Return what the watchdog last said of a lane; {"state": "loading"} before it said anything."""
        return self.lanes().get(name, {"state": "loading"})

    def lanes(self) -> dict[str, dict[str, Any]]:
        """Return what the watchdog last said, by the lanes' names."""
        with self._lock:
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_INTERVAL
                self._look()
            return self._lanes

    def kinds(self) -> dict[str, str]:
        """Return what each lane's model is for, by the lanes' names; "" for a lane that is only asked for."""
        return {name: said.get("kind", "") for name, said in self.lanes().items()}

    def _look(self) -> None:
        try:
            found = os.stat(self._path)
            if self._seen == (found.st_ino, found.st_mtime_ns):
                return
            lanes = json.loads(self._path.read_bytes())["lanes"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._lanes = lanes
        self._seen = (found.st_ino, found.st_mtime_ns)


def publish(path: Path, lanes: dict[str, Any]) -> None:
    """Replace the board's file (the watchdog's side). Where lanes are TCP ports it holds their tokens.

    Raises:
        OSError: it can't be written.
    """
    replace_file(path, json.dumps({"lanes": lanes}, default=plain))
