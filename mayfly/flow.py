"""A flow: how an answer that has to wait is made, so that no thread waits with it.

A flow is a generator. It yields what it waits for (`Wait`), what it wants a thread to compute (`Compute`), and its
answer: an `Answer` with a body, or one without, followed by the pieces of its body as bytes. The server's loop drives
all flows at once (see mayfly.http.waiting); `drive` drives a single one, for other WSGI servers. Closing a flow, at any
moment, cancels what it has begun.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import time
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Under this name the server puts into a request's WSGI environment what takes over a flow: it is called with the flow
#: and the headers that its answer gets beside its own.
TAKE_OVER = "mayfly.take_over"


class Waited(Protocol):
    """Something that becomes ready: see `mayfly.lanes.lane.LaneCall`."""

    @property
    def watched(self) -> socket.socket | None:
        """The socket to be watched, if there is one."""

    @property
    def sending(self) -> bool:
        """Whether it is ready when the socket can be written to, instead of read from."""

    @property
    def due(self) -> float:
        """When it is ready at the latest, on the clock of `time.monotonic`."""


@dataclass(frozen=True)
class Wait:
    """Go on when one of these is ready, and at the latest at `until` (on the clock of `time.monotonic`)."""

    waited: Collection[Waited] = ()
    until: float = math.inf

    def due(self) -> float:
        """Return when to go on though no socket is ready."""
        return min([self.until, *(each.due for each in self.waited)])

    def sockets(self) -> dict[socket.socket, int]:
        """Return what to watch, and for which events of `selectors`."""
        return {each.watched: selectors.EVENT_WRITE if each.sending else selectors.EVENT_READ
                for each in self.waited if each.watched is not None}


@dataclass(frozen=True)
class Compute:
    """Have a thread do this, and go on with what it returns; the flow meets what it raises."""

    work: Callable[[], Any]


@dataclass
class Answer:
    """The answer's status line, headers and body; without a body, its pieces follow."""

    status: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None


Step = Wait | Compute | Answer | bytes
Flow = Generator[Step, Any, None]


def drive(flow: Flow) -> Iterator[Answer | bytes]:
    """Drive a flow by this thread; yield its answer and the pieces of its body."""
    reply: Any = None
    failure: Exception | None = None
    with contextlib.closing(flow), contextlib.suppress(StopIteration):
        while True:
            step = flow.send(reply) if failure is None else flow.throw(failure)
            reply = failure = None
            if isinstance(step, Wait):
                _wait(step)
            elif isinstance(step, Compute):
                try:
                    reply = step.work()
                except Exception as exc:
                    failure = exc
            else:
                yield step


def _wait(wait: Wait) -> None:
    pause = max(0.0, wait.due() - time.monotonic())
    with selectors.DefaultSelector() as selector:
        for sock, events in wait.sockets().items():
            selector.register(sock, events)
        if selector.get_map():
            selector.select(pause if pause < math.inf else None)
        else:
            time.sleep(pause)
