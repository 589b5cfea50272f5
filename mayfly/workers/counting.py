"""The working loop for tokens: takes many calls at once and gives each a step in turn.

A step is some milliseconds of tokenising, so a caller with one word doesn't wait for the megabytes of another; and
between two rounds of steps there is a moment for the heartbeat, deadlines and clients that left.

A process that follows another takes calls one by one until none waits: then a call that kills it takes no other with
it a second time.
"""

from __future__ import annotations

import socket
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mayfly.errors import CallError
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import GATHERED, Began, Request, TokenizeCall, Tokens, request_of
from mayfly.wire.events import Served
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import LOOK_INTERVAL, TICK, Door, Gone, Line, Outcome
from mayfly.workers.vocabularies import Vocabularies


class _Caller:
    """One call: its connection, and what is done of it."""

    def __init__(self, line: Line, deadline: float, call: TokenizeCall, vocabularies: Vocabularies) -> None:
        self.line = line
        self.deadline = deadline
        self.call = call
        self.since = time.monotonic()
        self.counts: list[int] = []
        self.ids = array("i")
        self.steps = self._tokenise(vocabularies)

    def _tokenise(self, vocabularies: Vocabularies) -> Iterator[None]:
        tokenize = vocabularies.of(self.call.model)
        for text in self.call.texts:
            count = 0
            for ids in tokenize(text):
                count += len(ids)
                if not self.call.counted_only:
                    self.ids += ids
                yield
            self.counts.append(count)


class Counter:
    """Serves the calls of the lane for tokens.

    Args:
        listener: the lane's socket, not blocking.
        address: the lane's.
        generation: of this process; one that follows another begins with calls one by one.
        facts: what the sentinel says of this process; the requests' ids and sizes are added.
        occupied: told that a call may be taken now (1), and that none is held any more (0).
        served: told of each call that ended.
        queue_limit: calls that may have waited for the process before this one.
    """

    def __init__(self, vocabularies: Vocabularies, listener: socket.socket, address: LaneAddress, *,
                 generation: int, sentinel: Sentinel, facts: Mapping[str, Any],
                 occupied: Callable[[int], None] = lambda taken: None,
                 served: Callable[[Served], None] = lambda served: None, queue_limit: int = 0) -> None:
        self._vocabularies = vocabularies
        self._door = Door(listener, address, Line.take, lambda: occupied(1))
        self._generation = generation
        self._sentinel = sentinel
        self._facts = facts
        self._occupied = occupied
        self._served = served
        self._callers: list[_Caller] = []
        # Calls that are still taken one by one: all that can have come before this process did.
        self._one_by_one = GATHERED + queue_limit if generation > 1 else 0
        self._noted = True
        self._next_look = 0.0

    def step(self) -> None:
        """Take what has come and give each call a step; wait up to a tick if there is nothing to do."""
        room = (1 if self._one_by_one else GATHERED) - len(self._callers)
        for line, request in self._door.hear(0 if self._callers or self._one_by_one else TICK, room):
            self._begin(line, request)
        if not self._callers:
            self._one_by_one = 0  # nobody waits: those that the last process took down with it are answered
            self._occupied(0)
        self._sentinel.beat()
        self._look()
        if not self._noted:
            self._note()
        for caller in list(self._callers):
            self._try(caller, self._advance)

    def _begin(self, line: Line, request: Request) -> None:
        self._one_by_one = max(0, self._one_by_one - 1)
        if not isinstance(request.call, TokenizeCall):
            line.connection.close()
            return
        caller = _Caller(line, request.deadline, request.call, self._vocabularies)
        self._callers.append(caller)
        self._noted = False
        self._try(caller, lambda caller: caller.line.send(Began(self._generation)))

    def _advance(self, caller: _Caller) -> None:
        if next(caller.steps, self) is self:
            caller.line.send(Tokens(tuple(caller.counts), caller.ids.tobytes()))
            self._end(caller, "answered")

    def _look(self) -> None:
        """End the calls whose deadline has passed or whose caller has left."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        for caller in list(self._callers):
            self._try(caller, lambda caller: caller.line.check(caller.deadline, now))

    def _try(self, caller: _Caller, do: Callable[[_Caller], None]) -> None:
        """Do something for a call; one that raises ends with the error as its answer, or without if nobody waits."""
        try:
            do(caller)
        except CallError as exc:
            self._end(caller, caller.line.refuse(exc))
        except Gone:
            self._end(caller, "cancelled")

    def _end(self, caller: _Caller, outcome: Outcome) -> None:
        caller.line.connection.close()
        self._callers.remove(caller)
        self._noted = False
        self._served(Served(self._generation, outcome, round(time.monotonic() - caller.since, 4), sum(caller.counts)))

    def _note(self) -> None:
        """Write into the sentinel what is being served, for a report if this process dies of it."""
        self._noted = True
        calls = [caller.call for caller in self._callers]
        self._sentinel.write({**self._facts, "request": request_of(calls)} if calls else dict(self._facts))
