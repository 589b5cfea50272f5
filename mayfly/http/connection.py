"""One client's connection: waitress's channel, with deadlines and an orderly end.

A request has to arrive within `receive_timeout`. An answer after which the connection closes is followed by a
*lingering* close: the write side is shut, and what the client still sends is read and dropped for a while. A plain
close would answer those bytes with a reset, which can destroy the answer before the client has read it.

Relies on waitress 3.0.2: `HTTPChannel.service` runs the task for `requests[0]` and takes the request off the list, or
closes the connection; `_flush_some` sends from `outbufs`, of which the last is the one that is written to.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, cast

from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import WSGITask

from mayfly.compat.sockets import broken_off, hung_up, readable
from mayfly.flow import TAKE_OVER, Answer, Flow
from mayfly.http import problems
from mayfly.http.answer import AnswerTask, ProblemTask, StreamTask, log
from mayfly.http.pulse import Pulse
from mayfly.http.request import Refused, Request
from mayfly.http.site import Headers
from mayfly.problem import CLIENT_GONE, Problem, report

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

    from mayfly.http.server import Server

# A keep-alive connection without a request, or an answer of which nobody takes a byte, is closed after this (s).
IDLE_SECONDS = 120.0
# What the clients haven't taken yet stays in memory up to this many bytes for all of them; then large answers go to
# temporary files. Small parts always stay in memory.
_IN_MEMORY = 64 << 20
_SMALL = 64 << 10
# A lingering close ends when the client has been silent for this long (s) ...
_LINGER_SILENCE = 2.0
# ... or has sent this many times MAX_BODY.
_LINGER_BODIES = 4


class Connection(HTTPChannel):  # type: ignore[misc]
    """A channel of the server. Its own thread is the server's loop, except for `service` (a worker thread)."""

    parser_class = Request
    task_class = staticmethod(lambda channel, request: request.stream or AnswerTask(channel, request))
    error_task_class = ProblemTask

    server: Server
    request: Request | None
    requests: list[Request]

    def __init__(self, server: Server, sock: socket.socket, addr: tuple[str, int], adj: Adjustments,
                 map: dict[int, object] | None = None) -> None:
        super().__init__(server, sock, addr, adj, map=map)
        # Each try to send copies this many bytes out of a kept answer, however few the client takes.
        self.sendbuf_len: int = min(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 1 << 18)
        now = time.monotonic()
        self.opened = now
        # When the request that is arriving began; a connection's first one begins with the connection.
        self.receiving_since: float | None = now
        self.writing_since: float | None = None
        self.active = now
        self.refused = False
        self.half_closed = False
        self.pulse = Pulse()
        self.lingering_until: float | None = None
        # The request that the application failed at, for waitress to answer with an error task.
        self.failed_at: Request | None = None
        self._droppable = 0
        self._together: list[bytes] | None = None

    # -- reading ----------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Tell whether more bytes are wanted."""
        if self.lingering_until is not None:
            return True
        return not (self.refused or self.half_closed) and bool(super().readable())

    def handle_read(self) -> None:
        """Read what has arrived."""
        if self.socket is None:
            return
        try:
            data = self.socket.recv(self.adj.recv_bytes)
        except BlockingIOError:
            # The server has read it in the meantime, to see whether this connection may be closed.
            return
        except OSError:
            self.handle_close()
            return
        if not data:
            self._half_close()
        elif self.lingering_until is not None:
            self._drop(len(data))
        else:
            self.last_activity = time.time()
            self.received(data)

    def _half_close(self) -> None:
        """The client sends no more. Whether it has gone shows when it is sent something (see pulse.py)."""
        if self.lingering_until is None:
            if self.request is not None:
                self.refuse(problems.malformed("it ends before it is complete"))
            if self.requests or self.total_outbufs_len or self.close_when_flushed:
                self.half_closed = True
                self._give_sign(time.monotonic())
                return
        self.handle_close()

    def _drop(self, count: int) -> None:
        now = time.monotonic()
        self._droppable -= count
        if self._droppable < 0 or now - self.active > self.server.settings.receive_timeout:
            self.handle_close()
        else:
            self.lingering_until = now + _LINGER_SILENCE

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
                    # Blank lines before a request are none; waitress makes a request of each, and a flood of them
                    # keeps the loop from everybody else.
                    data = data.lstrip(b"\r\n")
                    if not data:
                        break
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

    def _screen(self, request: Request) -> None:
        """Refuse a stranger as soon as the headers are there, so that nobody without a key fills memory or disk; and
        while the service stops, everybody."""
        if request.error or request.completed or request.command in ("GET", "HEAD"):
            return
        refusal = self.server.site.gate.refusal(request.environ(self.addr[0]))
        if refusal is not None:
            request.refuse(refusal)

    def _take(self, request: Request) -> None:
        self.receiving_since = None
        self.refused = request.error is not None
        self.requests.append(request)
        # Otherwise whoever serves those before goes on with it.
        if len(self.requests) == 1:
            with self.outbuf_lock:
                self.pulse.open()
            self.server.serve(self, request)

    def refuse(self, problem: Problem) -> None:
        """Answer the request that is arriving, or hasn't begun, with an error, and close."""
        with self.requests_lock:
            if self.close_when_flushed or self.will_close or self.lingering_until is not None:
                return
            request = self.request or self.parser_class(self.adj)
            request.error = Refused(problem)
            request.completed = True
            self.request = None
            self._take(request)

    # -- serving ----------------------------------------------------------------------------------------------

    def service(self) -> None:
        """Serve the first request; run by a thread, or by the loop if the answer is known."""
        request = self.requests[0]
        with self.outbuf_lock:
            self.pulse.open()
        if not self.connected:
            log(self, request, CLIENT_GONE, 0)
        elif request.error is None and request.answer is None and request.stream is None and not self._ask(request):
            return
        self.writing_since = None
        super().service()
        self.writing_since = time.monotonic()

    def _ask(self, request: Request) -> bool:
        """Run the application; False if it has handed over a flow, which makes the answer."""
        environ = WSGITask(self, request).get_environment()
        handed_over = False
        head = Answer("500 Internal Server Error")

        def take_over(flow: Flow, headers: Headers) -> None:
            nonlocal handed_over
            handed_over = True
            self.server.flows.hand_over(self, request, flow, headers)

        def start_response(status: str, headers: Headers, exc_info: object = None) -> Callable[[bytes], object]:
            head.status, head.headers = status, headers
            return parts.append

        parts: list[bytes] = []
        environ[TAKE_OVER] = take_over
        try:
            body = self.server.site.application(environ, start_response)
            if handed_over:
                return False
            parts.extend(body)
            if hasattr(body, "close"):
                body.close()
        except BaseException as exc:
            # A SystemExit in a thread would end nothing but the answer to this client.
            self._fail(request, exc)
            return True
        head.body = b"".join(parts)
        if request.method() != "HEAD":
            head.headers = [(name, value) for name, value in head.headers if name.lower() != "content-length"]
        request.answer = head
        return True

    def _fail(self, request: Request, exc: BaseException) -> None:
        """Report a bug, and have the request answered with an error."""
        report(exc, self.name_of(request))
        request.error = Refused(problems.failed())

    def stamp(self, request: Request) -> Sequence[tuple[str, str]]:
        """Return the headers that a request's answer has, whatever it is."""
        if not request.stamp:
            request.stamp = self.server.site.gate.stamp(request.environ(self.addr[0]))
        return request.stamp

    def name_of(self, request: Request) -> str:
        """Return the name under which its client knows a request."""
        return dict(self.stamp(request)).get("X-Request-Id", "(not known)")

    # -- what a flow does (see waiting.py) --------------------------------------------------------------------

    def put(self, request: Request, said: Answer | bytes) -> None:
        """Take an answer, or a piece of its body.

        Raises:
            ClientDisconnected: the client has hung up.
        """
        if isinstance(said, bytes):
            assert request.stream is not None
            request.stream.write(said)
        elif said.body is None:
            request.stream = StreamTask(self, request, said)
        else:
            request.answer = said

    def finish(self, request: Request) -> None:
        """Send what is left of an answer, and go on with the next request."""
        if request.answer is None and request.stream is None:
            self._fail(request, AssertionError("a flow ended without an answer"))
        self.service()

    def give_up(self, request: Request) -> None:
        """End the connection of a client that has hung up before its answer had ended."""
        log(self, request, CLIENT_GONE, request.stream.body_bytes if request.stream is not None else 0)
        self.handle_close()

    def check_client_disconnected(self) -> bool:
        """Tell whether the client has gone. One that only sends no more has not."""
        try:
            return not self.connected or broken_off(self.socket)
        except (OSError, ValueError, TypeError):
            # The loop has closed it in this moment.
            return True

    def _give_sign(self, now: float) -> None:
        """Send something of an answer ahead of time to a client that sends no more, if nothing is on its way to it."""
        with self.outbuf_lock:
            if self.connected and self.requests and not self.total_outbufs_len and not self.close_when_flushed:
                self._put(memoryview(self.pulse.sign(now)))

    # -- writing ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send what is written inside as one; used by the thread that serves.

        Raises:
            ClientDisconnected: the client has hung up.
        """
        parts = self._together = []
        try:
            yield
        finally:
            self._together = None
        # What is large isn't copied for it.
        last = parts.pop() if parts and len(parts[-1]) > _SMALL else b""
        for part in (b"".join(parts), last):
            if part:
                self.write_soon(part)

    def write_soon(self, data: bytes) -> int:
        """Send bytes, or keep what the client doesn't take at once for the loop to send; never waits.

        Raises:
            ClientDisconnected: the client has hung up.
        """
        if self._together is not None:
            self._together.append(data)
            return len(data)
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            self._put(self.pulse.rest(data))
        return len(data)

    def _put(self, rest: memoryview) -> None:
        while rest and not self.total_outbufs_len:
            sent = self.send(rest, do_close=False)
            if not sent:
                break
            rest = rest[sent:]
        if rest:
            self._keep(rest)
            self.server.pull_trigger()

    def _keep(self, rest: memoryview) -> None:
        if len(rest) > _SMALL:
            buffer = ReadOnlyFileBasedBuffer(self._file_of(rest))
            self.outbufs.append(buffer)
            # waitress writes to the last of the buffers.
            self.outbufs.append(OverflowableBuffer(self.adj.outbuf_overflow))
            self.total_outbufs_len += buffer.prepare()
        else:
            self.outbufs[-1].append(bytes(rest))
            self.total_outbufs_len += len(rest)

    def _file_of(self, rest: memoryview) -> IO[bytes]:
        if self.server.kept_bytes() + len(rest) > _IN_MEMORY:
            with contextlib.suppress(OSError):
                # Closed with its buffer, when it is sent or the connection ends.
                spilled = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                written = 0
                while written < len(rest):
                    written += spilled.write(rest[written:]) or 0
                spilled.seek(0)
                return cast("IO[bytes]", spilled)
        return io.BytesIO(rest)

    def writable(self) -> bool:
        """Tell whether `handle_write` has something to do."""
        return bool(super().writable()) or (self.half_closed and not self.requests)

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
        if self.half_closed and not self.requests and not self.total_outbufs_len:
            self.handle_close()

    def linger(self) -> None:
        """Shut the write side, and drop what the client still sends until it closes its side too."""
        if self.socket is None:
            return
        self.close_when_flushed = False
        now = time.monotonic()
        self.active = now
        self.lingering_until = now + _LINGER_SILENCE
        self._droppable = _LINGER_BODIES * self.server.settings.max_body
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def handle_close(self) -> None:
        """Close at once."""
        super().handle_close()
        self.server.left()

    def handle_error(self) -> None:
        """Close after a bug in the loop; the report holds no exception's message, which may quote the client."""
        exc = sys.exc_info()[1]
        if exc is not None:
            report(exc, "(not known)")
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

    def lingering(self) -> bool:
        """Tell whether everything has been said and only the client's end is waited for."""
        return self.lingering_until is not None

    def idle(self) -> bool:
        """Tell whether a request has been answered, and no other has begun."""
        return not (self.serving() or self.writing() or self.receiving() or self.lingering())

    def silent_for(self, now: float) -> float:
        """Return how long (s) it is the client's turn, and nothing has come from it; 0 while it isn't its turn."""
        if self.lingering_until is not None:
            return now - (self.lingering_until - _LINGER_SILENCE)
        if self.serving() or self.writing():
            return 0.0
        return now - (self.receiving_since or max(self.active, self.writing_since or 0.0))

    def has_unread(self) -> bool:
        """Tell whether bytes have arrived that this connection would read."""
        if self.socket is None or not self.readable():
            return False
        return readable(self.socket)

    def look(self, now: float) -> None:
        """Enforce the deadlines; called a few times a second."""
        if self.lingering_until is not None:
            if now >= self.lingering_until:
                self.handle_close()
            return
        if self.requests and (self.half_closed or (not self.readable() and hung_up(self.socket))):
            self._give_sign(now)
        if self.requests or self.total_outbufs_len:
            # While an answer is made or sent nothing is read: that time isn't the client's.
            if self.request is not None:
                self.receiving_since = now
            if not self.requests and time.time() - self.last_activity > IDLE_SECONDS:
                self.handle_close()
            return
        timeout = self.server.settings.receive_timeout
        if self.receiving_since is not None and now - self.receiving_since > timeout:
            self.refuse(problems.too_slow(timeout))
        elif self.receiving_since is None and time.time() - self.last_activity > IDLE_SECONDS:
            self.handle_close()
