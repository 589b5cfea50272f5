"""What the supervisor knows of a lane."""

from __future__ import annotations

import math
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mayfly.supervision.policy import FAILED_STARTS
from mayfly.supervision.process import Position, Process
from mayfly.wire.address import LaneAddress
from mayfly.wire.events import Remembered
from mayfly.wire.spec import Kind, LaneSpec
from mayfly.wire.thread_table import Allotment

CAUSES = ("spent", "crashed", "hung", "failed_start")


@dataclass
class Starts:
    """How the starts of a lane's processes have ended.

    Attributes:
        failed: in a row, by themselves.
        trouble: why the last of them did, or "".
        unusable: the last of them found that the model's file is.
        given_up: when the lane was, if it is.
        struggling: a start was in vain, whoever's fault that was, and none has come up since.
        succeeded: one has come up, ever.
    """

    failed: int = 0
    trouble: str = ""
    unusable: bool = False
    given_up: float = 0.0
    struggling: bool = False
    succeeded: bool = False

    @property
    def failing(self) -> str:
        """Why callers are told that it isn't available, or "" as long as its process may still come up."""
        return self.trouble if self.failed >= FAILED_STARTS else ""

    def came_up(self) -> None:
        """Take note that a start has succeeded."""
        self.failed, self.trouble, self.unusable, self.struggling, self.succeeded = 0, "", False, False, True

    def fail(self, reason: str, now: float, *, unusable: bool = False) -> None:
        """Take note of a start that failed by itself."""
        self.failed += 1
        self.trouble, self.unusable, self.struggling = reason, unusable, True
        if self.failed == FAILED_STARTS:
            self.given_up = now


@dataclass
class Use:
    """Whether a lane may leave, and when it was used.

    Attributes:
        may_leave: it opens on demand and may leave.
        last: when somebody last asked for it or was served.
        expected: until when the call for which it opened is awaited; 0 once one was served.
        keep: how long it stays idle (s), unless its place is needed before.
        file: what changes with its model's file.
    """

    may_leave: bool = False
    last: float = 0.0
    expected: float = 0.0
    keep: float = math.inf
    file: object = None

    def note(self, when: float) -> None:
        """Take note of a use when it happened: the pipes by which it is heard of are read in any order."""
        self.last = max(self.last, when)


@dataclass(eq=False)
class Lane:
    """A lane: one model behind one socket, and the processes that serve it.

    Attributes:
        name: "embedding", "completion", "vocabulary", or "model:" and the model's id.
        model: the model's id.
        isolation: "fork", "respawn" or "none".
        stem: what the names of its files and processes begin with.
        memory: what it takes, as estimated, in bytes.
        window: tokens that its model takes at once.
        served_at_once: calls that it serves at the same time.
        wanted_engine: EMBED_ENGINE or CHAT_ENGINE for its next process. Where a process died in native code while it
            loaded, auto has become gpt4all.
        left: it has been closed, and its processes are to end.
        lost: why its model's file can't be had any more, or "": none of its processes is started again, and it leaves.
        positions: that its processes fill.
        places: in the thread budget.
        generations: its template's living generations, by number; the latest that came up is `generation`.
        engine: what its process says of its engine.
        prefixes: what it says of its prefix store, once there is something to say.
    """

    name: str
    model: str
    isolation: str
    stem: str = ""
    kind: Kind = "completion"
    model_file: Path = Path()
    memory: int = 0
    window: int = 0
    listener: socket.socket = field(default_factory=socket.socket)
    address: LaneAddress = field(default_factory=LaneAddress)
    served_at_once: int = 1
    wanted_engine: str = ""
    use: Use = field(default_factory=Use)
    left: bool = False
    lost: str = ""
    positions: list[Position] = field(default_factory=list)
    places: tuple[int, ...] = ()
    starts: Starts = field(default_factory=Starts)
    restarts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    next_generation: int = 1
    generation: int = 0
    generations: dict[int, Process] = field(default_factory=dict)
    last_fork_seconds: float = 0.0
    engine: dict[str, str] = field(default_factory=dict)
    prefixes: Remembered | None = None
    last_failure: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.stem = self.stem or self.name
        self._setting = self.wanted_engine

    def start_over(self) -> None:
        """Forget how starts have failed: what failed was another file."""
        self.starts = Starts(succeeded=self.starts.succeeded)
        self.wanted_engine = self._setting

    @property
    def spec(self) -> LaneSpec:
        """What the web process is told of it."""
        return LaneSpec(self.address, model=self.model, served_at_once=self.served_at_once)

    def settle(self, allotment: Allotment, processes: int) -> None:
        """Take places in the thread budget for so many completions at once, and have positions to be filled."""
        # In respawn isolation one more than serve: the standby. A spent process may still be exiting while its
        # successor computes.
        self.places = allotment.take({"respawn": processes + 1, "fork": processes}.get(self.isolation, 1))
        if self.isolation == "respawn":
            self.positions = [Position(self.stem, self, "once", (place,)) for place in self.places]
        else:
            role = "template" if self.isolation == "fork" else "serve"
            self.positions = [Position(self.stem, self, role, self.places)]  # type: ignore[arg-type]

    def processes(self) -> list[Process]:
        """Return those that fill its positions."""
        return [position.process for position in self.positions if position.process is not None]

    def give_turns(self, at_once: int) -> None:
        """In respawn isolation: let loaded standbys serve, so many at once."""
        once = sorted(self.processes(), key=lambda process: process.generation) if self.isolation == "respawn" else []
        free = at_once - sum(process.turn for process in once)
        for process in [process for process in once if process.well and not process.turn][:max(0, free)]:
            process.handle.send("go")
            process.turn = True

    def take_number(self) -> int:
        """Return the next generation's number."""
        number = self.next_generation
        self.next_generation += 1
        return number

    def public(self) -> dict[str, Any]:
        """Return the lane's part of the board."""
        ready = next((process for process in self.processes() if process.well and process.turn), None)
        if ready is not None and ready.model:
            self.model = ready.model
        # A template that can't fork serves nobody.
        if self.starts.failing and (ready is None or self.isolation == "fork"):
            state = "failing"
        elif ready is not None:
            state = "ready"
        else:
            state = "restarting" if self.starts.succeeded else "loading"
        facts: dict[str, Any] = {
            "state": state, "model": self.model, "isolation": self.isolation, "generation": self.generation,
            "pid": ready.handle.pid if ready else None, "restarts": dict(self.restarts),
            "last_failure": self.last_failure, "address": self.address, "served_at_once": self.served_at_once,
            "kind": self.kind, **self.engine}
        if self.use.keep < math.inf:
            # By the clock that people read: this one counts from the start of the machine.
            facts["leaves_at"] = round(time.time() - time.monotonic() + self.use.last + self.use.keep)
        if self.prefixes is not None:
            facts["prefixes"] = vars(self.prefixes)
        if state != "ready" and self.starts.trouble:
            facts["reason"] = self.starts.trouble
            if state == "failing" and self.starts.unusable:
                facts["unusable"] = True
        return facts
