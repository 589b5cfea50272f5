"""The calls that one process serves at the same time: taken as they come, ended by their answers, deadlines and
clients, and noted in the sentinel for a report if the process dies of one.

A call that kills the process takes down those that are served beside it, and all of them come once more. So a process
that follows another takes calls one by one until none waits: then whoever dies is the one to blame.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mayfly.errors import CallError
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import MOST_CALLS_HELD, Began, Embeddings, Request, Tokens, request_of
from mayfly.wire.events import Served
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import LOOK_INTERVAL, TICK, Door, Gone, Line, Outcome


class Caller:
    """One call, and the connection that has brought it."""

    def __init__(self, line: Line, request: Request) -> None:
        self.line = line
        self.request = request
        self.since = time.monotonic()

    @property
    def tokens(self) -> int:
        """Those counted or evaluated until now."""
        raise NotImplementedError


_Caller = TypeVar("_Caller", bound=Caller)


@dataclass(frozen=True)
class LaneEnd:
    """A process's end of a lane.

    Attributes:
        listener: the lane's socket, not blocking.
        address: the lane's.
        generation: of this process; one that follows another begins with calls one by one.
        facts: what the sentinel says of this process; the requests' ids and sizes are added.
        occupied: told that a call may be taken now (1), and that none is held any more (0).
        served: told of each call that ended.
        queue_limit: calls that may have waited for the process before this one.
    """

    listener: socket.socket
    address: LaneAddress
    generation: int
    sentinel: Sentinel
    facts: Mapping[str, Any]
    occupied: Callable[[int], None] = lambda taken: None
    served: Callable[[Served], None] = lambda served: None
    queue_limit: int = 0


class Gathering(Generic[_Caller]):
    """Holds the calls of one lane; what computes for them is built on it."""

    def __init__(self, lane: LaneEnd) -> None:
        self._lane = lane
        self._door = Door(lane.listener, lane.address, Line.take, lambda: lane.occupied(1))
        self._callers: list[_Caller] = []
        # Calls that are still taken one by one: all that can have come before this process did.
        self._one_by_one = MOST_CALLS_HELD + lane.queue_limit if lane.generation > 1 else 0
        self._noted = True
        self._next_look = 0.0

    @property
    def idle(self) -> bool:
        """No call is held."""
        return not self._callers

    def _held(self, line: Line, request: Request) -> _Caller:
        """Return the caller for a request that has come.

        Raises:
            Gone: it is none for this lane; this program didn't send it.
        """
        raise NotImplementedError

    def _released(self, caller: _Caller) -> None:
        """Forget what was kept for a caller."""

    def _gather(self, *, accepting: bool = True) -> None:
        """Take what has come, and wait up to a tick for it if nothing is to be done; beat; end the calls whose deadline
        has passed or whose caller has left."""
        room = (1 if self._one_by_one else MOST_CALLS_HELD) - len(self._callers)
        came = self._door.receive(0 if self._callers or self._one_by_one else TICK, room if accepting else 0)
        for line, request in came:
            self._begin(line, request)
        if not came and not self._callers:
            self._one_by_one = 0  # nobody waits: those that the last process took down with it are answered
        self._lane.sentinel.beat()
        self._look()
        if self._callers:
            self._note()

    def _begin(self, line: Line, request: Request) -> None:
        self._one_by_one = max(0, self._one_by_one - 1)
        try:
            caller = self._held(line, request)
        except Gone:
            line.connection.close()
            return
        self._callers.append(caller)
        self._noted = False
        if not line.kept:
            # Nothing tells the caller of a kept one: it knows which process it has sent its call to.
            with self._ending(caller):
                line.send(Began(self._lane.generation))

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        for caller in list(self._callers):
            with self._ending(caller):
                caller.line.check(caller.request.deadline, now)

    def _rest(self) -> None:
        """If no call is held any more, say so."""
        if not self._callers:
            self._note()
            self._lane.occupied(0)

    def _note(self) -> None:
        """Write into the sentinel what is being served, if that has changed."""
        if self._noted:
            return
        self._noted = True
        calls = [caller.request.call for caller in self._callers]
        request = {"request": request_of(calls)} if calls else {}
        self._lane.sentinel.write({**self._lane.facts, **request})

    @contextlib.contextmanager
    def _ending(self, caller: _Caller) -> Iterator[None]:
        """End a call that raises: with the error as its answer, or without one if nobody waits for it."""
        try:
            yield
        except CallError as exc:
            self._end(caller, caller.line.refuse(exc))
        except Gone:
            self._end(caller, "cancelled")

    def _finish(self, caller: _Caller, answer: Embeddings | Tokens) -> None:
        caller.line.send(answer)
        self._end(caller, "answered")

    def _end(self, caller: _Caller, outcome: Outcome) -> None:
        if outcome == "answered" and caller.request.keep:
            self._door.keep(caller.line)
        else:
            caller.line.connection.close()
        self._callers.remove(caller)
        self._noted = False
        self._released(caller)
        self._lane.served(Served(self._lane.generation, outcome, round(time.monotonic() - caller.since, 4),
                                 caller.tokens))
