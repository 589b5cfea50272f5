"""The watchdog's judgement: what a process's state and its sentinel mean. No clock, no files, no processes here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["well", "hung", "failed_start", "spent", "crashed", "changed", "ended"]

#: A lane is given up, for the time being, when so many starts in a row have failed by themselves.
FAILED_STARTS = 3


@dataclass
class Heartbeat:
    """When a sentinel was last seen to change, on the watchdog's own clock.

    A touch's own time is never compared with the time of day: that may jump. What counts is for how long nothing
    has changed.
    """

    # No sentinel has the mark 0, so the first look counts as a change even if there is none any more: a fast
    # generation is done before the watchdog hears of it.
    mark: int | None = 0
    seen: float = 0.0

    def observe(self, mark: int | None, now: float) -> float:
        """Take the sentinel's current mark (None if absent); return the seconds since it last changed."""
        if mark != self.mark:
            self.mark, self.seen = mark, now
        return now - self.seen


def judge_alive(*, ready: bool, age: float, since_start: float, hang_seconds: float, start_seconds: float) -> Verdict:
    """Judge a process that runs.

    Args:
        ready: it has written its sentinel at least once.
        age: seconds since the sentinel last changed (written, touched or removed).
        since_start: seconds since the process was started.
    """
    if not ready:
        return "failed_start" if since_start > start_seconds else "well"
    return "hung" if age > hang_seconds else "well"


def judge_exit(*, ready: bool, sentinel: bool, served: bool, changed: bool, killed: bool,
               condemned: Verdict | None) -> Verdict:
    """Judge a process that has exited.

    Args:
        ready: it had written its sentinel.
        sentinel: the sentinel is still there.
        served: it reported a completed request.
        changed: its exit code says that the model's file was replaced.
        killed: it was killed from outside.
        condemned: the watchdog had judged it hung or failed_start and killed it.
    """
    if condemned is not None:
        return condemned
    if changed:
        return "changed"
    if not ready:
        return "crashed" if killed else "failed_start"
    if sentinel:
        return "crashed"
    return "spent" if served else "ended"


@dataclass
class Backoff:
    """How long to wait before the next start: doubles from `first` to `longest`.

    It resets after a minute of health, or as soon as a process has answered a call: a process that works is not a
    restart loop, and its callers wait for the next one. After a crash while somebody calls it doesn't grow beyond
    `longest_serving`, or one caller's poison would hold all others up for half a minute.
    """

    first: float = 0.1
    longest: float = 30.0
    longest_serving: float = 2.0
    healthy_after: float = 60.0
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = self.first

    def delay(self, lived_ready: float, answered: bool, serving: bool = False) -> float:
        """Return the seconds to wait after a failure.

        Args:
            lived_ready: seconds that the process lived after it was ready.
            answered: it answered a call.
            serving: it died while it served one, or while one waits.
        """
        if answered or lived_ready >= self.healthy_after:
            self._next = self.first
        delay = min(self._next, self.longest_serving) if serving else self._next
        self._next = min(2 * self._next, self.longest)
        return delay
