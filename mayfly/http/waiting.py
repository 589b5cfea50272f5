"""The flows of a server: its loop drives them all, and a thread is taken only while Python computes.

All methods but `hand_over` are called by the server's loop.
"""

from __future__ import annotations

import heapq
import itertools
import math
import selectors
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected

from mayfly.flow import Answer, Compute, Flow, Step, Wait
from mayfly.http.site import Headers

if TYPE_CHECKING:
    import socket

    from mayfly.http.connection import Connection
    from mayfly.http.request import Request

# Entries of the heap that may be of turns that are over.
_MOST_STALE = 64


@dataclass(eq=False)
class _Running:
    """A flow and the request that it answers."""

    connection: Connection
    request: Request
    flow: Flow
    headers: Headers
    watched: dict[socket.socket, int]
    # Which of its entries in the heap counts.
    turn: int = 0
    ended: bool = False


class _Job:
    """What a thread computes for a flow."""

    def __init__(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        self._work = work
        self._done = done

    def service(self) -> None:
        try:
            made = self._work()
        except Exception as exc:
            self._done(None, exc)
        else:
            self._done(made, None)

    def cancel(self) -> None:
        """waitress asks for this method; the server's own end is what ends the flow."""


class Flows:
    """See the module.

    Args:
        add_task: has a thread call `service` of what it is given.
        wake: wakes the loop; called by any thread.
        report: told of a bug: the exception, and the name of the request.
    """

    # What the loop asks of whatever it watches; this stands for the sockets of all flows.
    accepting = False

    def __init__(self, add_task: Callable[[Any], None], wake: Callable[[], None],
                 report: Callable[[BaseException, str], None]) -> None:
        self._add_task = add_task
        self._wake = wake
        self._report = report
        self._selector = selectors.DefaultSelector()
        self._running: set[_Running] = set()
        self._come: deque[Callable[[], None]] = deque()
        self._due: list[tuple[float, int, int, _Running]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._running)

    # -- what threads call ------------------------------------------------------------------------------------

    def hand_over(self, connection: Connection, request: Request, flow: Flow, headers: Headers) -> None:
        """Have the loop drive a flow; its beginning, up to where it first waits, is made by this thread."""
        step = next(flow, None)
        self._later(lambda: self._start(connection, request, flow, headers, step))

    def _later(self, act: Callable[[], None]) -> None:
        self._come.append(act)
        self._wake()

    # -- what the loop calls ----------------------------------------------------------------------------------

    def begin(self, connection: Connection, request: Request, flow: Flow, headers: Headers) -> None:
        """Drive a flow from its beginning, in the loop's next turn: the caller may hold a lock of the connection's."""
        self._come.append(lambda: self._start(connection, request, flow, headers, None))

    def descriptor(self) -> int | None:
        """Return what becomes readable when a flow can go on; None where the system has no such thing."""
        return self._selector.fileno() if hasattr(self._selector, "fileno") else None

    def pause(self, now: float) -> float:
        """Return after how many seconds a flow goes on though nothing has come."""
        if self._come:
            return 0.0
        return max(0.0, self._due[0][0] - now) if self._due else math.inf

    def turn(self, now: float) -> None:
        """Go on with the flows that can."""
        while self._come:
            self._come.popleft()()
        if self._selector.get_map():
            for key, _ in self._selector.select(0):
                self._resume(key.data)
        while self._due and self._due[0][0] <= now:
            _, turn, _, running = heapq.heappop(self._due)
            if turn == running.turn:
                self._resume(running)

    def look(self, failure: Exception | None) -> None:
        """End the flows whose client has left, or all that wait, with an error; called a few times a second."""
        for running in list(self._running):
            if running.connection.check_client_disconnected():
                self._end(running)
                running.connection.give_up(running.request)
            elif failure is not None:
                self._advance(running, None, failure)

    def close(self) -> None:
        """End all flows; their connections are closed by the server."""
        for running in list(self._running):
            self._end(running)

    # -- one flow ---------------------------------------------------------------------------------------------

    def _start(self, connection: Connection, request: Request, flow: Flow, headers: Headers, step: Step | None
               ) -> None:
        running = _Running(connection, request, flow, headers, {})
        self._running.add(running)
        if step is None:
            self._advance(running)
        else:
            self._take(running, step)

    def _resume(self, running: _Running) -> None:
        if not running.ended:
            self._advance(running)

    def _advance(self, running: _Running, reply: Any = None, failure: Exception | None = None) -> None:
        running.turn = next(self._count)
        try:
            step = running.flow.send(reply) if failure is None else running.flow.throw(failure)
        except StopIteration:
            self._end(running)
            running.connection.finish(running.request)
        except Exception as exc:
            self._fail(running, exc)
        else:
            self._take(running, step)

    def _take(self, running: _Running, step: Step) -> None:
        """Do what a flow asks for, until it waits."""
        try:
            while not isinstance(step, Wait | Compute):
                if isinstance(step, Answer):
                    step.headers.extend(running.headers)
                running.connection.put(running.request, step)
                step = next(running.flow)
        except StopIteration:
            self._end(running)
            running.connection.finish(running.request)
            return
        except ClientDisconnected:
            self._end(running)
            running.connection.give_up(running.request)
            return
        except Exception as exc:
            self._fail(running, exc)
            return
        if isinstance(step, Compute):
            self._watch(running, {})
            self._add_task(_Job(step.work, lambda made, exc: self._later(lambda: self._computed(running, made, exc))))
        else:
            self._watch(running, step.sockets())
            due = step.due()
            if due < math.inf:
                heapq.heappush(self._due, (due, running.turn, next(self._count), running))
                self._sweep()

    def _sweep(self) -> None:
        """Forget the times of turns that came earlier: they would keep what they belong to until they are due."""
        if len(self._due) > 2 * len(self._running) + _MOST_STALE:
            self._due = [entry for entry in self._due if entry[1] == entry[3].turn and not entry[3].ended]
            heapq.heapify(self._due)

    def _computed(self, running: _Running, made: Any, failure: Exception | None) -> None:
        if not running.ended:
            self._advance(running, made, failure)

    def _watch(self, running: _Running, wanted: dict[socket.socket, int]) -> None:
        for sock in running.watched.keys() - wanted.keys():
            # Before another is registered: a new socket may have the descriptor of one that was closed.
            self._selector.unregister(sock)
        for sock, events in wanted.items():
            if sock not in running.watched:
                self._selector.register(sock, events, running)
            elif running.watched[sock] != events:
                self._selector.modify(sock, events, running)
        running.watched = wanted

    def _end(self, running: _Running) -> None:
        running.ended = True
        self._running.discard(running)
        self._watch(running, {})
        running.flow.close()

    def _fail(self, running: _Running, exc: BaseException) -> None:
        """After a bug nothing is known of the answer, so the connection ends."""
        self._report(exc, running.connection.name_of(running.request))
        self._end(running)
        running.connection.handle_close()

    # -- as the loop watches it -------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Say that the loop wakes when a flow can go on; `turn` is what goes on."""
        return bool(self._selector.get_map())

    def writable(self) -> bool:
        """Say that there is never anything to write."""
        return False

    def handle_read_event(self) -> None:
        """See `readable`."""

    def handle_close(self) -> None:
        """See `readable`."""

    handle_expt_event = handle_close

    def handle_error(self) -> None:
        """Report a bug."""
        exc = sys.exc_info()[1]
        if exc is not None:
            self._report(exc, "(not known)")
