"""Small requests for embeddings, served by the server's loop itself.

A thread of its own costs a request for a few words a good part of what the vectors cost: the loop hands it over, the
thread asks the lane, waits and answers, and each has to be woken. Here the loop reads the request with the functions of
the application, asks the lane, goes on with others, and answers when the vectors are there. Whatever isn't plain - a
large request, a wrong one, a lane that isn't ready, a process that dies, a client that leaves - is left to the
application. It goes on with a call that has begun already: that keeps its place, its deadline and the deaths it saw.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mayfly.errors import CallError, QueueFull
from mayfly.lanes.calls import Embeddings, Interrupted, Pending, PollableLane
from mayfly.web import problems
from mayfly.web.bodies import parsed
from mayfly.web.embedding import Reader, Wanted
from mayfly.web.identity import request_id
from mayfly.web.reception import Prepared
from mayfly.web.service import Service

if TYPE_CHECKING:
    from mayfly.web.connection import Connection
    from mayfly.web.reception import Reception

_TYPES = {"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"}
# More would keep the loop from everybody else: reading and writing them takes longer than waking a thread.
_LARGEST_BODY = 16 << 10
_MOST_TEXTS = 8


class Express:
    """See the module. All methods are called by the server's loop.

    Args:
        readers: how the requests of a path are read.
    """

    def __init__(self, service: Service, readers: Mapping[str, Reader]) -> None:
        self._service = service
        self._readers = readers
        self._lanes = {name: lane for name, lane in service.lanes.items() if isinstance(lane, PollableLane)}
        self._asked: set[_Asked] = set()

    def take(self, connection: Connection, request: Reception) -> bool:
        """Begin to serve a request; False if it is left to the application."""
        if request.error is not None or request.command != "POST" or request.body_rcv is None:
            return False
        reader = self._readers.get(request.path)
        if (reader is None or self._service.draining.started or len(request.body_rcv) > _LARGEST_BODY
                or request.headers.get("CONTENT_TYPE", "").lower() not in _TYPES
                or "CONTENT_ENCODING" in request.headers or "mayfly.web.vectors" not in sys.modules):
            return False
        environ = request.environ(connection.addr[0])
        try:
            self._service.access.check(environ)
            identity = request_id(request.headers.get("X_REQUEST_ID"))
            wanted = reader(parsed(request.body_rcv.buf.get(_LARGEST_BODY), _LARGEST_BODY), identity)
        except Exception:
            # Whatever it is, the application meets it too, and tells the client or reports it.
            return False
        lane = self._lanes.get(wanted.lane) if wanted is not None else None
        if wanted is None or lane is None or len(wanted.call.texts) > _MOST_TEXTS:
            return False
        try:
            leave_seat = self._service.take_seat(wanted.lane)
        except QueueFull:
            return False
        pending = lane.begin(wanted.call, time.monotonic() + self._service.settings.request_timeout)
        if pending is None:
            leave_seat()
            return False
        place = pending.begun.place

        def release() -> None:
            place.leave()
            leave_seat()

        request.begun, request.release = pending.begun, release
        # Whoever goes on with it, it is known by one name.
        request.headers["X_REQUEST_ID"] = identity
        asked = _Asked(self, connection, request, environ, pending, wanted)
        connection.server.watch_descriptor(pending.fileno(), asked)
        self._asked.add(asked)
        return True

    def look(self, now: float) -> None:
        """Hand calls over that the application has to end or go on with; called a few times a second."""
        for asked in list(self._asked):
            if (now >= asked.pending.begun.deadline or self._service.draining.expired(now) or asked.pending.failing()
                    or asked.connection.check_client_disconnected()):
                self.leave_to_application(asked)

    def leave_to_application(self, asked: _Asked) -> None:
        """Let a thread go on with a call."""
        if self._forget(asked):
            asked.connection.server.add_task(asked.connection)

    def answer(self, asked: _Asked, made: Embeddings | CallError) -> None:
        """Send vectors, or why there are none."""
        if not self._forget(asked):
            return
        try:
            if isinstance(made, CallError):
                raise made
            prepared = Prepared("200 OK", asked.wanted.answer(made), [("Content-Type", "application/json"),
                                                                      *self._service.ignored.headers(asked.wanted.ignored)])
        except Exception as exc:
            # The boundary of a request, as in the application.
            problem = problems.of_exception(exc, asked.wanted.call.id)
            prepared = Prepared(problem.status_line, problem.body(), problem.headers())
        prepared.headers.append(("X-Request-Id", asked.wanted.call.id))
        prepared.headers.extend(self._service.cross_origin.headers(asked.environ))
        asked.request.prepared = prepared
        asked.connection.service()

    def _forget(self, asked: _Asked) -> bool:
        """Stop waiting for a call; False if nobody does any more."""
        if asked not in self._asked:
            return False
        self._asked.remove(asked)
        asked.connection.server.forget_descriptor(asked.pending.fileno())
        asked.pending.close()
        return True


class _Asked:
    """A call under way, in the form in which the loop watches descriptors."""

    accepting = False

    def __init__(self, express: Express, connection: Connection, request: Reception, environ: Mapping[str, Any],
                 pending: Pending, wanted: Wanted) -> None:
        self._express = express
        self.connection = connection
        self.request = request
        self.environ = environ
        self.pending = pending
        self.wanted = wanted

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        try:
            made = self.pending.take()
        except Interrupted:
            self._express.leave_to_application(self)
            return
        except CallError as exc:
            self._express.answer(self, exc)
            return
        if made is not None:
            self._express.answer(self, made)

    def handle_close(self) -> None:
        """The process has hung up, which reading shows after what it has sent."""

    handle_expt_event = handle_close

    def handle_error(self) -> None:
        """After a bug: nothing is known of the answer, so the connection ends."""
        exc = sys.exc_info()[1]
        if exc is not None:
            problems.report(exc, self.wanted.call.id)
        self._express.leave_to_application(self)
        self.connection.handle_close()
