"""One client's connection: waitress's channel, with deadlines and an orderly end.

A request has to arrive within `receive_timeout`. An answer after which the connection closes is followed by a
*lingering* close: the write side is shut, and what the client still sends is read and dropped for a while. A plain
close would answer those bytes with a reset, which can destroy the answer before the client has read it.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from waitress.channel import HTTPChannel

from mayfly.errors import AccessDenied
from mayfly.web import problems
from mayfly.web.answering import AnswerTask, ProblemTask
from mayfly.web.problems import Problem
from mayfly.web.reception import Reception, Refused

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

    from mayfly.web.server import Server

# A keep-alive connection without a request, or an answer of which nobody takes a byte, is closed after this (s).
IDLE_SECONDS = 120.0
# A lingering close ends when the client has been silent for this long (s) ...
_LINGER_SILENCE = 2.0
# ... or has sent this many times MAX_BODY.
_LINGER_BODIES = 4


class Connection(HTTPChannel):  # type: ignore[misc]
    """A channel of the server. Its own thread is the server's loop, except for `service` (a worker thread)."""

    parser_class = Reception
    task_class = AnswerTask
    error_task_class = ProblemTask

    server: Server
    request: Reception | None
    requests: list[Reception]

    def __init__(self, server: Server, sock: socket.socket, addr: tuple[str, int], adj: Adjustments,
                 map: dict[int, object] | None = None) -> None:
        super().__init__(server, sock, addr, adj, map=map)
        now = time.monotonic()
        self.opened = now
        # When the request that is arriving began; a connection's first one begins with the connection.
        self.receiving_since: float | None = now
        self.writing_since: float | None = None
        self.active = now
        self.refused = False
        self.lingering_until: float | None = None
        self._droppable = 0

    # -- reading ----------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Tell whether more bytes are wanted."""
        if self.lingering_until is not None:
            return True
        return not self.refused and bool(super().readable())

    def handle_read(self) -> None:
        """Read what has arrived."""
        if self.lingering_until is None:
            super().handle_read()
            return
        try:
            dropped = len(self.recv(1 << 16))
        except OSError:
            self.handle_close()
            return
        self._droppable -= dropped
        now = time.monotonic()
        self.lingering_until = max(self.lingering_until, now + _LINGER_SILENCE)
        if self._droppable < 0 or now - self.active > self.server.settings.receive_timeout:
            self.handle_close()

    def received(self, data: bytes) -> bool:
        """Turn bytes into requests. Differs from waitress's own in that nothing is read after an erroneous request,
        a request without a body is never told to continue, and a stranger's body is refused before it is received.
        """
        self.active = time.monotonic()
        with self.requests_lock:
            if self.will_close or self.close_when_flushed or self.refused:
                return False
            while data:
                if self.request is None:
                    self.request = self.parser_class(self.adj)
                    self.receiving_since = self.receiving_since or self.active
                request = self.request
                screened = request.headers_finished
                data = data[request.received(data):]
                if request.headers_finished and not screened:
                    self._screen(request)
                if request.completed:
                    self.sent_continue = False
                    self.request = None
                    if not request.empty:
                        self._take(request)
                    if request.error:
                        break
                elif (request.expect_continue and request.headers_finished and not self.requests
                        and not self.sent_continue):
                    self.send_continue()
        return True

    def _screen(self, request: Reception) -> None:
        """Refuse a stranger as soon as the headers are there, so that nobody without a key fills memory or disk."""
        if request.error or request.completed or request.command in ("GET", "HEAD"):
            return
        try:
            self.server.access.check(request.environ(self.addr[0]))
        except AccessDenied as exc:
            request.refuse(problems.of_exception(exc, ""))

    def _take(self, request: Reception) -> None:
        self.receiving_since = None
        self.refused = request.error is not None
        self.requests.append(request)
        # Otherwise the worker thread goes on with it when it has served those before.
        if len(self.requests) == 1:
            self.server.add_task(self)

    def refuse(self, problem: Problem) -> None:
        """Answer the request that is arriving, or hasn't begun, with an error, and close."""
        with self.requests_lock:
            if self.requests or self.close_when_flushed or self.will_close or self.lingering_until is not None:
                return
            request = self.request or self.parser_class(self.adj)
            request.error = Refused(problem)
            request.completed = True
            self.request = None
            self._take(request)

    # -- writing ----------------------------------------------------------------------------------------------

    def handle_write(self) -> None:
        """Send what is there to be sent; begin the orderly end after the last answer."""
        if self.socket is None or self.lingering_until is not None:
            return
        if self.close_when_flushed and not self.will_close:
            self._flush_exception(self._flush_some)
            if self.will_close:
                self.handle_close()
            elif self.connected and not self.total_outbufs_len:
                self.linger()
            return
        super().handle_write()

    def linger(self) -> None:
        """Shut the write side, and drop what the client still sends until it closes its side too."""
        self.close_when_flushed = False
        now = time.monotonic()
        self.active = now
        self.lingering_until = now + _LINGER_SILENCE
        self._droppable = _LINGER_BODIES * self.server.settings.max_body
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    # -- what the server asks ---------------------------------------------------------------------------------

    def serving(self) -> bool:
        """Tell whether a request is being answered: such a connection is never closed to make room."""
        return bool(self.requests)

    def writing(self) -> bool:
        """Tell whether a finished answer is still on its way to the client."""
        return bool(self.total_outbufs_len or self.close_when_flushed) and not self.requests

    def receiving(self) -> bool:
        """Tell whether a request is arriving, or the connection's first one hasn't begun."""
        return self.receiving_since is not None and not self.requests and self.lingering_until is None

    def look(self, now: float) -> None:
        """Enforce the deadlines; called a few times a second."""
        if self.lingering_until is not None:
            if now >= self.lingering_until:
                self.handle_close()
            return
        if self.requests or self.total_outbufs_len:
            # While an answer is made or sent nothing is read: that time isn't the client's.
            if self.request is not None:
                self.receiving_since = now
            self.writing_since = None if self.requests else self.writing_since or now
            if not self.requests and time.time() - self.last_activity > IDLE_SECONDS:
                self.handle_close()
            return
        self.writing_since = None
        timeout = self.server.settings.receive_timeout
        if self.receiving_since is not None and now - self.receiving_since > timeout:
            self.refuse(problems.too_slow(timeout))
        elif self.receiving_since is None and time.time() - self.last_activity > IDLE_SECONDS:
            self.handle_close()
