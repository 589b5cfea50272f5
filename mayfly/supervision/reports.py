"""Failure reports: what died, how, and what it was doing - never what it was told.

A report is `logs/<YYYYmmdd_HHMMSS>_<name>_watchdog_error.log`. It holds ids and sizes of the request, never the
text of a prompt and never a key.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mayfly.compat import open_new, signal_name

_SUFFIX = "_watchdog_error.log"


@dataclass(frozen=True)
class Failure:
    """What is known of a failed process.

    Attributes:
        name: "app", "embed", "chat" or "chat-17".
        cause: "crashed", "hung" or "failed_start".
        exit_code: as subprocess gives it; negative is a signal; None if unknown.
        age: seconds since it was started.
        heartbeat_age: seconds since its sentinel last changed, or None if it never wrote one.
        sentinel: the sentinel's content (`request` holds id and sizes).
        tail: the last lines of its stderr.
        lost: generations that ended with it.
    """

    name: str
    cause: str
    pid: int
    generation: int
    exit_code: int | None
    age: float
    calls: int
    heartbeat_age: float | None
    reason: str = ""
    model: str = ""
    sentinel: dict[str, Any] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def how(self) -> str:
        """Return how it ended, for people: `killed by SIGKILL`, `exit code 1`."""
        if self.exit_code is None:
            return "end unknown"
        if self.exit_code < 0:
            return f"killed by {signal_name(-self.exit_code)}"
        return f"exit code {self.exit_code}"

    def text(self) -> str:
        """Return the report."""
        request = self.sentinel.get("request")
        lines = [
            f"{self.name} {_CAUSES.get(self.cause, self.cause)}",
            "",
            f"when:            {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
            f"cause:           {self.cause}",
            f"how:             {self.how()}",
        ]
        if self.reason:
            lines.append(f"reason:          {self.reason}")
        lines += [
            f"pid:             {self.pid}",
            f"generation:      {self.generation}",
            f"model:           {self.model or '-'}",
            f"age:             {self.age:.1f} s",
            f"calls served:    {self.calls}",
            "last heartbeat:  " + (f"{self.heartbeat_age:.1f} s before" if self.heartbeat_age is not None else "none"),
            "request:         " + (_request(request) if isinstance(request, dict) else "none"),
        ]
        if self.lost:
            lines.append("lost with it:    generation " + ", ".join(map(str, self.lost)))
        return "\n".join([*lines, "", "last lines of its stderr:", *(f"  {line}" for line in self.tail), ""])


_CAUSES = {
    "crashed": "died without completing its request",
    "hung": "stopped beating and was killed",
    "failed_start": "did not come up",
}


# As many as a process for embeddings holds at once.
_MOST_IDS = 32


def _request(request: dict[str, Any]) -> str:
    # Only what this program writes into a sentinel; a garbage one must not smuggle text into a report.
    several = request.get("ids")
    identities = several[:_MOST_IDS] if isinstance(several, list) and several else [request.get("id", "-")]
    safe = " ".join("".join(char for char in str(identity) if char.isalnum() or char in "._-")[:64]
                    for identity in identities)
    sizes = [f"{name}={value}" for name, value in request.items()
             if name in ("messages", "characters", "max_tokens", "texts") and isinstance(value, int)]
    return " ".join([safe, *sizes])


class Reports:
    """The folder of reports.

    Args:
        folder: where they are written.
        keep: how many stay; the oldest go.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def write(self, failure: Failure) -> str:
        """Write a report; return its file's name.

        Raises:
            OSError: it can't be written.
        """
        stamp = time.strftime("%Y%m%d_%H%M%S")
        number = 1
        while True:
            again = "" if number == 1 else f".{number}"
            path = self._folder / f"{stamp}_{failure.name}{again}{_SUFFIX}"
            try:
                descriptor = open_new(path)
                break
            except FileExistsError:
                number += 1
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(failure.text())
        except OSError:
            # A full disk: an empty report would say less than none.
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._prune()
        return path.name

    def _prune(self) -> None:
        found = []
        for path in self._folder.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):
                found.append((path.lstat().st_mtime, path.name, path))
        for _, _, path in sorted(found)[:-self._keep]:
            with contextlib.suppress(OSError):
                path.unlink()
