"""One client's connection: waitress's channel, with deadlines and an orderly end. Only the server's loop uses it.

A request has to arrive within `receive_timeout`. An answer after which the connection closes is followed by a
*lingering* close: the write side is shut, and what the client still sends is read and dropped for a while. A plain
close would answer those bytes with a reset, which can destroy the answer before the client has read it.

Each method that stands for one of waitress's says in a comment why, and on what of waitress 3.0.2 it relies;
tests/unit/test_waitress_upstream.py fails when that changes.
"""

from __future__ import annotations

import contextlib
import enum
import io
import socket
import tempfile
import threading
import time
from typing import IO, TYPE_CHECKING, cast

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

from mayfly.compat.sockets import broken_off, hung_up, readable
from mayfly.http.answer import AnswerTask, ProblemTask, fail, log
from mayfly.http.pulse import Pulse
from mayfly.http.request import Request
from mayfly.problem import CLIENT_GONE, Problem, malformed, report, too_slow

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

    from mayfly.http.server import Server

# A keep-alive connection without a request, or an answer of which nobody takes a byte, is closed after this (s).
IDLE_SECONDS = 120.0
# What the clients haven't taken yet stays in memory up to this many bytes for all of them; then large parts of answers
# go to temporary files. Small parts always stay in memory.
_IN_MEMORY = 64 << 20
_SMALL = 64 << 10
# A lingering close ends when the client has been silent for this long (s) ...
_LINGER_SILENCE = 2.0
# ... or has sent this many times MAX_BODY.
_LINGER_BODIES = 4


class State(enum.IntEnum):
    """What a connection is doing, in the order in which connections give way to others."""

    LINGERING = 0  # everything has been said, and only the client's end is waited for
    IDLE = 1  # a request has been answered, and no other has begun
    RECEIVING = 2  # a request is arriving, or the connection's first one hasn't begun
    SENDING = 3  # a finished answer is on its way to the client
    SERVING = 4  # a request is being answered: such a connection never gives way


class Connection(HTTPChannel):  # type: ignore[misc]
    """See the module.

    Attributes:
        state: what it is doing.
        since: since when, on the clock of `time.monotonic`; while it lingers, since when its client is silent.
        pulse: what is sent ahead of an answer to a client that sends no more.
    """

    parser_class = Request
    task_class = staticmethod(lambda channel, request: request.stream or AnswerTask(channel, request))
    error_task_class = ProblemTask

    server: Server
    request: Request | None
    requests: list[Request]

    def __init__(self, server: Server, sock: socket.socket, addr: tuple[str, int], adj: Adjustments,
                 map: dict[int, object] | None = None) -> None:
        super().__init__(server, sock, addr, adj, map=map)
        # `service` holds it while it has the server begin with the next request, whose error may be answered at once.
        self.requests_lock = threading.RLock()
        # `_flush_some` copies this many bytes for each try to send, however few the client takes.
        self.sendbuf_len: int = min(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 1 << 18)
        self.state = State.RECEIVING
        self.since = time.monotonic()
        self.pulse = Pulse()
        self._half_closed = False
        self._droppable = 0
        self._linger_ends = 0.0

    # -- reading ----------------------------------------------------------------------------------------------

    # Beside what HTTPChannel.readable asks: nothing is read after the client's end or an erroneous request, and all
    # while the connection lingers.
    def readable(self) -> bool:
        """Tell whether more bytes are wanted."""
        if self.state is State.LINGERING:
            return True
        return not (self._half_closed or self._refused()) and bool(super().readable())

    def _refused(self) -> bool:
        return bool(self.requests) and self.requests[-1].error is not None

    # HTTPChannel.handle_read closes when nothing waits (BlockingIOError), and when the client sends no more.
    def handle_read(self) -> None:
        """Read what has arrived."""
        try:
            data = self.socket.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        if not data:
            self._half_close()
        elif self.state is State.LINGERING:
            self.since = time.monotonic()
            self._droppable -= len(data)
            if self._droppable < 0:
                self.handle_close()
        else:
            self.last_activity = time.time()
            self.received(data)

    def _half_close(self) -> None:
        """The client sends no more. Whether it has gone shows when it is sent something (see pulse.py)."""
        if self.state is not State.LINGERING and self.request is not None:
            self.refuse(malformed("it ends before it is complete"))
        if self.requests:
            self._half_closed = True
            self._give_sign(time.monotonic())
        else:
            self.handle_close()

    # Differs from HTTPChannel.received in that blank lines before a request make none (a flood of them would keep the
    # loop from everybody else), nothing is read after an erroneous request, a request without a body is never told to
    # continue, and a stranger's body is refused before it is received.
    def received(self, data: bytes) -> bool:
        """Turn bytes into requests."""
        while data:
            if self.request is None:
                data = data.lstrip(b"\r\n")
                if not data:
                    break
                self.request = self.parser_class(self.adj)
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
        self._settle()
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
        self.requests.append(request)
        # Otherwise `service` goes on with it after those before.
        if len(self.requests) == 1:
            self.server.add_task(self)

    def refuse(self, problem: Problem) -> None:
        """Answer the request that is arriving, or hasn't begun, with an error, and close."""
        if self.state is State.LINGERING or self.close_when_flushed or self._refused():
            return
        request = self.request or self.parser_class(self.adj)
        request.refuse(problem)
        self.request = None
        self._take(request)
        self._settle()

    def read_on(self) -> bool:
        """Read what has come since the loop looked; tell whether there was anything."""
        if self.socket is None or not self.readable() or not readable(self.socket):
            return False
        self.handle_read()
        return True

    # -- answering --------------------------------------------------------------------------------------------

    # HTTPChannel.service runs the task for `requests[0]`, takes the request off the list, and has the server begin with
    # the next one (`Server.add_task`); or sets `close_when_flushed`.
    def finish(self, request: Request) -> None:
        """Send what is left of the first request's answer, and go on with the next request."""
        if not self.connected:
            self.give_up(request)
            return
        if request.answer is request.stream is request.error is None:
            fail(self, request, AssertionError("a flow ended without an answer"))
        self.service()
        if self._half_closed and not self.requests:
            self.close_when_flushed = True
        self.handle_write()

    def give_up(self, request: Request) -> None:
        """End the connection of a client that has hung up before its answer had ended."""
        log(self, request, CLIENT_GONE, request.stream.body_bytes if request.stream is not None else 0)
        self.handle_close()

    # HTTPChannel knows only whether the connection is closed on this side.
    def check_client_disconnected(self) -> bool:
        """Tell whether the client has gone. One that only sends no more has not."""
        return not self.connected or broken_off(self.socket)

    def _give_sign(self, now: float) -> None:
        """Send something of an answer ahead of time to a client that sends no more, if nothing is on its way to it."""
        if not self.total_outbufs_len and (sign := self.pulse.sign(now)):
            super().write_soon(sign)
            self.handle_write()

    # HTTPChannel.write_soon appends to `outbufs`, or keeps a ReadOnlyFileBasedBuffer as it is; with `send_bytes` and
    # `outbuf_high_watermark` unbounded it neither sends nor waits. `outbuf_overflow` isn't used for the same end as
    # `_held`: where no temporary file can be written, it cuts the answer off.
    def write_soon(self, data: bytes) -> int:
        """Take bytes to be sent by the next `handle_write`.

        Raises:
            ClientDisconnected: the client has hung up.
        """
        rest = self.pulse.rest(data)
        super().write_soon(_held(rest, self.server.kept_bytes()) if len(rest) > _SMALL else rest)
        return len(data)

    # HTTPChannel.handle_write sends less than `send_bytes` only when no request is being served, and closes after the
    # last answer without lingering.
    def handle_write(self) -> None:
        """Send what is there to be sent; begin the orderly end after the last answer."""
        if self.socket is None or self.state is State.LINGERING:
            return
        self._flush_exception(self._flush_some)
        if self.will_close:
            self.handle_close()
        elif self.connected and self.close_when_flushed and not self.total_outbufs_len:
            self.linger()
        self._settle()

    def linger(self) -> None:
        """Shut the write side, and drop what the client still sends until it closes its side too."""
        self.close_when_flushed = False
        self.state, self.since = State.LINGERING, time.monotonic()
        self._linger_ends = self.since + self.server.settings.receive_timeout
        self._droppable = _LINGER_BODIES * self.server.settings.max_body
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    # wasyncore.dispatcher.handle_error logs the exception's message, which may quote the client.
    def handle_error(self) -> None:
        """Close after a bug in the loop."""
        report()
        self.handle_close()

    # -- time -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Note what the connection is doing now."""
        if self.state is State.LINGERING:
            return
        if self.requests:
            state = State.SERVING
        elif self.total_outbufs_len or self.close_when_flushed:
            state = State.SENDING
        elif self.request is not None or self.state is State.RECEIVING:
            state = State.RECEIVING
        else:
            state = State.IDLE
        if state is not self.state:
            self.state, self.since = state, time.monotonic()

    def enforce_deadlines(self, now: float) -> None:
        """Close, or refuse, what takes too long; called a few times a second."""
        if self.state is State.LINGERING:
            if now - self.since > _LINGER_SILENCE or now > self._linger_ends:
                self.handle_close()
        elif self.state is State.RECEIVING:
            timeout = self.server.settings.receive_timeout
            if now - self.since > timeout:
                self.refuse(too_slow(timeout))
        elif self.state is State.SERVING:
            if self._half_closed or (not self.readable() and hung_up(self.socket)):
                self._give_sign(now)
        elif time.time() - self.last_activity > IDLE_SECONDS:
            self.handle_close()


def _held(data: bytes, kept: int) -> ReadOnlyFileBasedBuffer:
    """Return a large part of an answer as it is kept until its client has taken it, beside so many bytes."""
    held: IO[bytes] = io.BytesIO(data)
    if kept + len(data) > _IN_MEMORY:
        with contextlib.suppress(OSError):
            # Closed with its buffer, when it is sent or the connection ends.
            spilled = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            rest = memoryview(data)
            while rest:
                rest = rest[spilled.write(rest) or 0:]
            spilled.seek(0)
            held = cast("IO[bytes]", spilled)
    buffer = ReadOnlyFileBasedBuffer(held)
    buffer.prepare()
    return buffer
