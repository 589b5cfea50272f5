"""The flows of a server: its loop drives them all, and a thread is taken only while Python computes.

All methods are called by the server's loop.
"""

from __future__ import annotations

import heapq
import itertools
import math
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected

from mayfly.flow import Answer, Compute, Flow, Wait
from mayfly.http.answer import StreamTask, fail
from mayfly.http.site import Headers
from mayfly.problem import report

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


class Flows:
    """See the module.

    Args:
        threads: compute what flows want computed.
        wake: wakes the loop; called by any thread.
    """

    # What the loop asks of whatever it watches; this stands for the sockets of all flows.
    accepting = False

    def __init__(self, threads: Executor, wake: Callable[[], None]) -> None:
        self._threads = threads
        self._wake = wake
        self._selector = selectors.DefaultSelector()
        self._running: set[_Running] = set()
        self._come: deque[Callable[[], None]] = deque()
        self._due: list[tuple[float, int, int, _Running]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, connection: Connection, request: Request, flow: Flow, headers: Headers) -> None:
        """Drive a flow, beginning with the loop's next turn: its first step may be the answer, and the connection may
        still be busy with the request, or with the one before.

        Args:
            headers: what the answer gets beside its own headers; the flow may add to them until it answers.
        """
        running = _Running(connection, request, flow, headers, {})
        self._running.add(running)
        self._come.append(lambda: self._advance(running))

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
                self._advance(key.data)
        while self._due and self._due[0][0] <= now:
            _, turn, _, running = heapq.heappop(self._due)
            if turn == running.turn:
                self._advance(running)

    def cancel_abandoned(self, failure: Exception | None) -> None:
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

    def _advance(self, running: _Running, reply: Any = None, failure: BaseException | None = None) -> None:
        """Go on with a flow, and do what it asks for, until it waits."""
        if running.ended:
            return
        running.turn = next(self._count)
        try:
            step = running.flow.send(reply) if failure is None else running.flow.throw(failure)
            while not isinstance(step, Wait | Compute):
                self._put(running, step)
                step = next(running.flow)
        except StopIteration:
            self._end(running)
            running.connection.finish(running.request)
        except ClientDisconnected:
            self._end(running)
            running.connection.give_up(running.request)
        except Exception as exc:
            # After a bug nothing is known of the answer, so the connection ends.
            fail(running.connection, running.request, exc)
            self._end(running)
            running.connection.handle_close()
        else:
            self._wait(running, step)

    def _put(self, running: _Running, said: Answer | bytes) -> None:
        """Take an answer, or a piece of its body.

        Raises:
            ClientDisconnected: the client has hung up.
        """
        request = running.request
        if isinstance(said, bytes):
            assert request.stream is not None
            request.stream.write(said)
            running.connection.handle_write()
            return
        said.headers.extend(running.headers)
        if said.body is None:
            request.stream = StreamTask(running.connection, request, said)
        else:
            request.answer = said

    def _wait(self, running: _Running, step: Wait | Compute) -> None:
        if isinstance(step, Compute):
            self._watch(running, {})
            self._threads.submit(step.work).add_done_callback(lambda done: self._have_computed(running, done))
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

    def _have_computed(self, running: _Running, done: Future[Any]) -> None:
        """Have the loop go on with what a thread has computed; called by the thread."""
        self._come.append(lambda: self._computed(running, done))
        self._wake()

    def _computed(self, running: _Running, done: Future[Any]) -> None:
        failure = done.exception()
        self._advance(running, None if failure else done.result(), failure)

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

    # -- as the loop watches it -------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Say that the loop wakes when a flow can go on; `turn` is what goes on."""
        return bool(self._selector.get_map())

    def writable(self) -> bool:
        """Say that there is never anything to write."""
        return False

    def handle_read_event(self) -> None:
        """See `readable`."""

    handle_close = handle_expt_event = handle_read_event

    def handle_error(self) -> None:
        """Report a bug."""
        report()
