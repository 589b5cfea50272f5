"""What the supervisor knows of one living process, and the places that such processes fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mayfly.models import parts
from mayfly.settings import Settings
from mayfly.supervision import policy
from mayfly.supervision.child import Handle
from mayfly.supervision.policy import Backoff, Heartbeat, Verdict
from mayfly.wire import exits, sentinel
from mayfly.wire.events import Served
from mayfly.wire.sentinel import Sentinel

if TYPE_CHECKING:
    from mayfly.supervision.lane import Lane

# So long (s) a process has to end when it is asked to, or to write its stacks; and so often it is killed then.
_PATIENCE = 1.0
# So long (s) a file has to have stayed as it is before it is taken for whole: it may be being copied.
_RESTS = 1.0


@dataclass(eq=False)
class Process:
    """A process that is watched: a child of the watchdog, or a generation forked by a template.

    Times are on the supervisor's clock.

    Attributes:
        lane: None for the web process.
        condemned: what it was ended for, once it is; it is killed at `kill_at`.
        calls: that it has answered; the last one was `served`.
        reason: what its end came from, as far as that is known.
        unusable: it has said that its model's file is.
        model: what it said of its model.
        turn: False is a standby that waits for its turn.
    """

    name: str
    lane: Lane | None
    generation: int
    sentinel: Path
    started: float
    handle: Handle = field(init=False)
    ready_at: float | None = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    condemned: Verdict | None = None
    kill_at: float = 0.0
    calls: int = 0
    served: Served | None = None
    reason: str = ""
    unusable: bool = False
    model: str = ""
    turn: bool = True

    @property
    def ready(self) -> bool:
        """It has come up."""
        return self.ready_at is not None

    @property
    def well(self) -> bool:
        """It has come up, and nobody ends it."""
        return self.ready and self.condemned is None

    @property
    def dismissed(self) -> bool:
        """Its lane has left; what it still says is about nothing."""
        return self.lane is not None and self.lane.left

    @property
    def spoken(self) -> str:
        """Its name for people."""
        if self.lane is None:
            return self.name
        return f"{self.lane.name} generation {self.generation}" if "-" in self.name else self.lane.name

    def silent_for(self, now: float) -> float:
        """Look at its sentinel; return the seconds since that last changed."""
        return self.heartbeat.observe(sentinel.touched(self.sentinel), now)

    def judge(self, settings: Settings, now: float) -> bool:
        """Judge it while it runs: kill it if it was condemned and its time is up; True if it is condemned now."""
        age, lives = self.silent_for(now), now - self.started
        if self.condemned is not None:
            if now >= self.kill_at:
                self.handle.kill()
                self.kill_at = now + _PATIENCE
            return False
        verdict = policy.judge_alive(ready=self.ready, age=age, since_start=lives, hang_seconds=settings.hang_seconds,
                                     start_seconds=settings.start_seconds)
        if verdict == "well":
            return False
        self.reason = (f"no heartbeat for {age:.1f} s (HANG_SECONDS={settings.hang_seconds:g})" if verdict == "hung"
                       else f"not ready after {lives:.1f} s (START_SECONDS={settings.start_seconds:g})")
        self.condemned, self.kill_at = verdict, now + _PATIENCE
        self.handle.abort()
        return True

    def end(self, verdict: Verdict, reason: str, now: float) -> None:
        """Ask it to end."""
        self.condemned, self.reason, self.kill_at = verdict, reason, now + _PATIENCE
        self.handle.terminate()

    def judge_exit(self, code: int) -> tuple[Verdict, dict[str, Any]]:
        """Judge it after its exit; return what it had in its sentinel, too."""
        there = sentinel.read(self.sentinel)
        verdict = policy.judge_exit(
            ready=self.ready, sentinel=there is not None, served=self.calls > 0, changed=code == exits.MODEL_CHANGED,
            killed=exits.killed_from_outside(code), condemned=self.condemned)
        return verdict, there or {}

    def bury(self) -> None:
        """Let go of what it has left."""
        Sentinel(self.sentinel).remove()
        self.handle.close()


@dataclass(eq=False)
class Position:
    """A place in the service that must have a living process.

    Attributes:
        lane: None for the web process.
        role: "app", or the role of a worker.
        places: where its process computes, in the thread budget (a template's generations share them).
        start_at: when the next one is due, while there is none.
        tried: what its last process was started with, of its model's files; `seen` is what was there since `seen_at`.
    """

    name: str
    lane: Lane | None
    role: Literal["app", "serve", "once", "template"]
    places: tuple[int, ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    process: Process | None = None
    start_at: float = 0.0
    tried: parts.Mark = ()
    seen: parts.Mark = ()
    seen_at: float = 0.0

    def take_mark(self) -> None:
        """Take note of what a process is started with."""
        if self.lane is not None:
            self.tried = parts.mark(self.lane.model_file)

    def start_over(self, now: float) -> None:
        """Start the next process now, and judge its failures as the first ones: those before were of another file."""
        if self.lane is not None:
            self.lane.start_over()
        self.backoff, self.start_at = Backoff(), now

    def mended(self, now: float) -> bool:
        """Tell whether its model's files are others than those its last process was started with, and rest: then that
        one's failure says nothing of the next."""
        there = parts.mark(self.lane.model_file) if self.lane is not None else ()
        if there != self.seen:
            self.seen, self.seen_at = there, now
        return bool(there) and there != self.tried and now - self.seen_at >= _RESTS
