"""The completions of one request: one call of the lane for each, so that each has a fresh process.

As many run side by side as the lane serves at once; the rest follow as those end, so a request takes no more of the
queue than it can use. One that fails ends them all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from mayfly.errors import DeadlinePassed, QueueFull
from mayfly.flow import Wait
from mayfly.lanes.lane import Lane, LaneCall
from mayfly.wire.calls import Completion, CompletionCall, Finished, Piece

# How soon a call that finds the queue full tries again (s), while others of its request have been answered.
_TRY_AGAIN = 0.1


@dataclass(frozen=True)
class Part:
    """A part of one of the completions.

    Attributes:
        index: which of the calls it belongs to.
        last: whether all of the calls are finished with it.
    """

    index: int
    item: Completion | Piece | Finished
    last: bool = False


class Choices:
    """Several completion calls, made and ended together.

    Args:
        calls: at least one.
        deadline: that of all calls together, on the clock of `time.monotonic`.
        at_once: how many may run side by side.
        in_pieces: whether the completions are given piece by piece; then those side by side come interleaved.
        on_first: called when the first part has come, before that is returned.
    """

    def __init__(self, lane: Lane, calls: Sequence[CompletionCall], deadline: float, *, at_once: int, in_pieces: bool,
                 on_first: Callable[[], None]) -> None:
        self._lane = lane
        self._calls = calls
        self._deadline = deadline
        self._at_once = at_once
        self._in_pieces = in_pieces
        self._next = 0
        self._unfinished = len(calls)
        self._running: dict[int, LaneCall] = {}
        self._retry_at = 0.0
        self._on_first = on_first
        self._begun = False

    def advance(self, now: float) -> list[Part]:
        """Go on as far as that needs no waiting; return what has come.

        Raises:
            CallError: what the first call that failed raised. One that finds the queue full waits, but for the first.
        """
        if now >= self._deadline and not self._running and self._unfinished:
            raise DeadlinePassed.of()
        self._begin_more(now)
        parts = []
        for index, call in list(self._running.items()):
            for item in call.advance(now):
                assert isinstance(item, Completion | Piece | Finished)
                if not isinstance(item, Piece):
                    self._unfinished -= 1
                    self._running.pop(index).close()
                    self._retry_at = now
                parts.append(Part(index, item, last=self._unfinished == 0))
        if parts and not self._begun:
            self._begun = True
            self._on_first()
        return parts

    def completions(self) -> Generator[Wait, None, list[Completion]]:
        """Wait for all completions, which aren't asked for in pieces; return them in the order of the calls, and close.

        Raises:
            CallError: what the first call that failed raised.
        """
        made: dict[int, Completion] = {}
        with contextlib.closing(self):
            while not self.finished:
                for part in self.advance(time.monotonic()):
                    assert isinstance(part.item, Completion)
                    made[part.index] = part.item
                if not self.finished:
                    yield self.wait(self._deadline)
        return [made[index] for index in range(len(self._calls))]

    @property
    def finished(self) -> bool:
        """Whether all of them are."""
        return not self._unfinished

    def wait(self, until: float) -> Wait:
        """Return what to wait for, at most until then."""
        more = self._retry_at if self._may_begin() else self._deadline
        return Wait(list(self._running.values()), min(until, more))

    def close(self) -> None:
        """End all calls."""
        while self._running:
            self._running.popitem()[1].close()

    def _may_begin(self) -> bool:
        return self._next < len(self._calls) and len(self._running) < self._at_once

    def _begin_more(self, now: float) -> None:
        while self._may_begin():
            try:
                call = self._lane.begin(self._calls[self._next], self._deadline, in_pieces=self._in_pieces)
            except QueueFull:
                if self._next == 0:
                    raise
                self._retry_at = now + _TRY_AGAIN
                return
            self._running[self._next] = call
            self._next += 1
            self._retry_at = now
