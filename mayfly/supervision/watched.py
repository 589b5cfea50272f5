"""What the supervisor remembers of one living process, and of one lane."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mayfly.compat.process import ProcessHandle, abort_signal, kill_signal
from mayfly.supervision.child import Process
from mayfly.supervision.policy import FAILED_STARTS, Backoff, Heartbeat, Verdict

CAUSES = ("spent", "crashed", "hung", "failed_start")


@dataclass(eq=False)
class Watched:
    """A process that is being watched: a child of the watchdog, or a generation forked by a template.

    Times are on the supervisor's clock.
    """

    name: str
    lane: str
    generation: int
    sentinel: Path
    started: float
    process: Process | None = None
    pid: int = 0
    ready_at: float | None = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    condemned: Verdict | None = None
    kill_at: float = 0.0
    calls: int = 0
    served: dict[str, Any] | None = None
    reason: str = ""
    model: str = ""
    turn: bool = True  # False: a standby that waits for its turn
    dismissed: bool = False  # its lane has left; what it still says is about nothing
    embed_engine: str = ""  # as its lane's

    @property
    def ready(self) -> bool:
        """It has come up."""
        return self.ready_at is not None


class Forked:
    """A generation's process: the template's child, so the template reaps it and reports its end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = ProcessHandle(pid)

    def poll(self) -> int | None:
        """Unknown here; the template tells."""
        return None

    def terminate(self) -> None:
        """See Process."""
        self._handle.signal(kill_signal())

    def abort(self) -> None:
        """See Process."""
        self._handle.signal(abort_signal())

    def kill(self) -> None:
        """See Process."""
        self._handle.signal(kill_signal())

    def tell(self, line: str) -> None:
        """A generation listens to its template alone."""

    def tail(self) -> list[str]:
        """Its stderr is its template's."""
        return []

    def close(self) -> None:
        """See Process."""
        self._handle.close()


@dataclass
class Position:
    """A place in the service that must have a living process.

    Attributes:
        role: "app", or the role of a worker.
        places: where its process computes, in the thread budget (a template's generations share them).
        start_at: when the next one is due, while there is none.
    """

    name: str
    lane: str
    role: Literal["app", "serve", "once", "template"]
    places: tuple[int, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    watched: Watched | None = None
    start_at: float = 0.0


@dataclass
class LaneState:
    """What the supervisor knows of a lane, and tells the web process.

    Attributes:
        name: "embed", "chat", "vocabulary", or "model:" and the model's id.
        model: the model's id.
        isolation: "fork", "respawn" or "none".
        stem: what the names of its files and processes begin with.
        memory: what it takes, as estimated, in bytes.
        address, served_at_once: how the web process reaches it.
        on_demand: it may leave.
        used: when somebody last asked for it or was served.
        expected: until when the call for which it opened is awaited; 0 once one was served.
        places: in the thread budget.
        failed_starts: starts in a row that failed by themselves.
        trouble: why the last of them did, or "".
        failing_since: when it was given up, if it is.
        struggling: a start was in vain, whoever's fault that was, and none has come up since.
        file_version: what changes with its model's file.
        embed_engine: EMBED_ENGINE for its next process; "" for a lane that doesn't embed. Where a process died in
            native code while it loaded, auto has become gpt4all.
        shown: what its process says of its engine.
        generations: its template's living generations, by number.
    """

    name: str
    model: str
    isolation: str
    stem: str = ""
    memory: int = 0
    address: dict[str, Any] | None = None
    served_at_once: int = 1
    on_demand: bool = False
    used: float = 0.0
    expected: float = 0.0
    places: tuple[int, ...] = ()
    restarts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    next_generation: int = 1
    generation: int = 0
    was_ready: bool = False
    failed_starts: int = 0
    trouble: str = ""
    failing_since: float = 0.0
    struggling: bool = False
    file_version: object = None
    embed_engine: str = ""
    shown: dict[str, str] = field(default_factory=dict)
    last_failure: dict[str, Any] | None = None
    generations: dict[int, Watched] = field(default_factory=dict)
    last_fork_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.stem = self.stem or self.name

    def was_used(self, when: float) -> None:
        """Take note of a use when it happened: the pipes by which it is heard of are read in any order."""
        self.used = max(self.used, when)

    @property
    def failing(self) -> str:
        """Why callers are told that it isn't available, or "" as long as its process may still come up."""
        return self.trouble if self.failed_starts >= FAILED_STARTS else ""

    def came_up(self) -> None:
        """Take note that a start has succeeded."""
        self.failed_starts, self.trouble, self.struggling = 0, "", False

    def failed_to_start(self, reason: str, now: float) -> None:
        """Take note of a start that failed by itself."""
        self.failed_starts += 1
        self.trouble, self.struggling = reason, True
        if self.failed_starts == FAILED_STARTS:
            self.failing_since = now

    def take_number(self) -> int:
        """Return the next generation's number."""
        number = self.next_generation
        self.next_generation += 1
        return number

    def public(self, pid: int | None) -> dict[str, Any]:
        """Return the lane's part of the board; `pid` is that of a ready process, if there is one."""
        # A template that can't fork serves nobody.
        if self.failing and (pid is None or self.isolation == "fork"):
            state = "failing"
        elif pid is not None:
            state = "ready"
        else:
            state = "restarting" if self.was_ready else "loading"
        facts: dict[str, Any] = {
            "state": state, "model": self.model, "isolation": self.isolation, "generation": self.generation,
            "pid": pid, "restarts": dict(self.restarts), "last_failure": self.last_failure,
            "address": self.address, "served_at_once": self.served_at_once, **self.shown}
        if state != "ready" and self.trouble:
            facts["reason"] = self.trouble
        return facts


def stamp() -> str:
    """Return the time of day for people and machines (ISO 8601 with the offset)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
