"""Failure reports: what died, how, and what it was doing - never what it was told.

A report is `logs/<YYYYmmdd_HHMMSS>_<name>_watchdog_error.log`. It holds ids and sizes of the request, never the
text of a prompt and never a key. Where the same death follows itself, again and again, the report is written over and
counts: a process that can't be loaded would push all others out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mayfly.compat.files import replace_file
from mayfly.compat.process import signal_name
from mayfly.wire.sentinel import AHEAD

_SUFFIX = "_watchdog_error.log"


@dataclass(frozen=True)
class Failure:
    """What is known of a failed process.

    Attributes:
        name: "app", "embedding", "completion" or "completion-17".
        cause: "crashed", "hung" or "failed_start".
        exit_code: as subprocess gives it; negative is a signal; None if unknown.
        age: seconds since it was started.
        heartbeat_age: seconds since its sentinel last changed, or None if it never wrote one.
        sentinel: the sentinel's content (`request` holds id and sizes).
        tail: the last lines of its stderr.
        lost: generations that ended with it.
        lane: whose process it was; "app" for the web process.
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
    lane: str = ""

    def likeness(self) -> tuple[object, ...] | None:
        """Return what is equal in two failures that are the same death; None for one like no other, because the process
        had served a call or was serving one."""
        if self.calls or "request" in self.sentinel:
            return None
        # A number may be a time, or an address.
        return self.cause, self.exit_code, re.sub(r"[0-9]+", "", self.reason)

    def how(self) -> str:
        """Return how it ended, for people: `killed by SIGKILL`, `exit code 1`."""
        if self.exit_code is None:
            return "end unknown"
        if self.exit_code < 0:
            return f"killed by {signal_name(-self.exit_code)}"
        return f"exit code {self.exit_code}"

    def text(self, times: int = 1, first: str = "") -> str:
        """Return the report.

        Args:
            times: how often this death has occurred, and `first` when it did for the first time.
        """
        request = self.sentinel.get("request")
        what = _CAUSES.get(self.cause, self.cause)
        if self.cause == "crashed" and request is not None:
            what += " without completing its request"
        lines = [
            f"{self.name} {what}",
            "",
            f"when:            {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
            f"cause:           {self.cause}",
            f"how:             {self.how()}",
        ]
        if times > 1:
            lines.append(f"times:           {times}, since {first}")
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
        if self.sentinel.get("doing") == AHEAD:
            lines.append("doing:           its answer was out; it evaluated that for the next turn, and nobody waited")
        if self.lost:
            lines.append("lost with it:    generation " + ", ".join(map(str, self.lost)))
        return "\n".join([*lines, "", "last lines of its stderr:", *(f"  {line}" for line in self.tail), ""])


_CAUSES = {
    "crashed": "died",
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


@dataclass
class _Told:
    """The last report of a lane."""

    likeness: tuple[object, ...] | None
    path: Path
    first: str
    times: int = 1


class Reports:
    """The folder of reports.

    Args:
        folder: where they are written.
        keep: how many stay; the oldest go.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._told: dict[str, _Told] = {}

    def write(self, failure: Failure) -> str:
        """Write a report, or count the same death in the report of the last one; return its file's name.

        Raises:
            OSError: it can't be written.
        """
        told = self._told.get(failure.lane)
        likeness = failure.likeness()
        if told is not None and likeness is not None and likeness == told.likeness and told.path.exists():
            told.times += 1
            # If this can't be written, what the report says is true all the same.
            with contextlib.suppress(OSError):
                replace_file(told.path, failure.text(told.times, told.first))
            return told.path.name
        path = self._write_new(failure)
        self._told[failure.lane] = _Told(likeness, path, time.strftime("%Y-%m-%d %H:%M:%S %z"))
        self._prune()
        return path.name

    def _write_new(self, failure: Failure) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        name = f"{time.strftime('%Y%m%d_%H%M%S')}_{failure.name}"
        path = self._folder / f"{name}{_SUFFIX}"
        for number in itertools.count(2):
            if not os.path.lexists(path):
                break
            path = self._folder / f"{name}.{number}{_SUFFIX}"
        replace_file(path, failure.text())
        return path

    def _prune(self) -> None:
        found = []
        for path in self._folder.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):
                found.append((path.lstat().st_mtime, path.name, path))
        for _, _, path in sorted(found)[:-self._keep]:
            with contextlib.suppress(OSError):
                path.unlink()
