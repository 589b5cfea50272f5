"""The HTTP server: waitress on a socket that is bound already, with its own loop.

`run` is called by the process's main thread and returns when the service has stopped. It owns the listening socket
and closes it. The loop accepts, reads and writes for all connections and calls `beat` at least once a second;
worker threads run the application, one request each, and never wait for a client: what a slow one hasn't taken yet
lies in a buffer (beyond 1 MB in a temporary file), and the loop sends it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from mayfly.settings import Settings
from mayfly.web import access_log, problems
from mayfly.web.access import Access
from mayfly.web.connection import Connection
from mayfly.web.crew import Crew
from mayfly.web.cross_origin import CrossOrigin
from mayfly.web.draining import Draining
from mayfly.web.identity import request_id
from mayfly.web.service import threads_needed

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

MAX_HEADERS = 64 * 1024

# How long one turn of the loop waits for something to happen (s): deadlines are kept this exactly.
_TURN = 0.25
# After the grace, how long the answers of calls that were ended may take to be made and sent (s).
_LAST_ANSWERS = 0.4
# While stopping: how long a connection may take to send what it has begun (s).
_PATIENCE = 0.3
_ACCEPTS_PER_TURN = 64
_UNBOUNDED = 1 << 50


class Server(TcpWSGIServer):  # type: ignore[misc]
    """See the module.

    Args:
        application: the WSGI application.
        sock: a listening TCP socket; the server closes it in the end.
        settings: for the limits.
        log_access: takes a log line for each request; called from several threads, must not block or raise.
        draining: shared with the application; `run` starts it when it is told to stop.
    """

    channel_class = Connection

    def __init__(self, application: WSGIApplication, sock: socket.socket, settings: Settings, *,
                 log_access: Callable[[str], None], draining: Draining) -> None:
        _tame_waitress_log()
        self.settings = settings
        self.access = Access.of(settings)
        self.cross_origin = CrossOrigin.of(settings)
        self.log_access = log_access
        self.draining = draining
        threads = threads_needed(settings)
        self.connection_limit = _room_for(settings.connection_limit, threads)
        self._closed = False
        self._accept_again = 0.0
        self._next_look = 0.0
        self._next_beat = 0.0
        self.active_channels: dict[int, Connection] = {}
        adjustments = Adjustments(
            sockets=[sock],
            ident="mayfly",
            # The limit bites at the value itself.
            max_request_body_size=settings.max_body + 1,
            max_request_header_size=MAX_HEADERS,
            # Without it a client that hangs up isn't noticed while its request is served.
            channel_request_lookahead=1,
            # Their mere presence makes a request a forwarded one (see access.py): they must get through.
            clear_untrusted_proxy_headers=False,
            outbuf_high_watermark=_UNBOUNDED,
            # This server has its own, kinder limit.
            connection_limit=_UNBOUNDED,
            recv_bytes=1 << 16,
            log_socket_errors=False,
            asyncore_use_poll=True,
        )
        sockinfo = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(application, {}, True, sock, dispatcher=Crew(threads), adj=adjustments, sockinfo=sockinfo,
                         bind_socket=False)

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self, beat: Callable[[], None], should_stop: Callable[[], bool], grace: float = 10.0) -> None:
        """Serve until `should_stop()`, then stop in an orderly way: at the latest 0.7 s after `grace` (s).

        While it stops, new requests are answered 503; calls in flight may finish; when the grace is over the lanes
        end what is left (`Draining.expired`), so that those clients get their answer too.

        Args:
            beat: called at least once a second by the loop itself.
            should_stop: asked a few times a second.
        """
        try:
            while not should_stop():
                self._turn(beat, _TURN)
            self.draining.start(grace)
            self._drain(beat)
        finally:
            self._close()

    def _turn(self, beat: Callable[[], None], timeout: float) -> None:
        wasyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=1)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _TURN
            for connection in list(self.active_channels.values()):
                connection.look(now)
        if now >= self._next_beat:
            self._next_beat = now + _TURN
            beat()

    def _drain(self, beat: Callable[[], None]) -> None:
        """Finish what is in flight, answer what comes, then close what is idle."""
        last = self.draining.ends + _LAST_ANSWERS
        for connection in self._connections():
            if connection.request is not None:
                connection.refuse(problems.stopping())
        in_flight = self._connections()
        while any(c.connected and (c.serving() or c.writing()) for c in in_flight) and time.monotonic() < last:
            self._turn(beat, 0.05)
        # Others may have come meanwhile, and wait in the kernel; they get a short answer, not a reset.
        last = min(last, time.monotonic() + 2 * _PATIENCE)
        while time.monotonic() < last:
            came = self.handle_accept()
            now = time.monotonic()
            for connection in self._connections():
                began = connection.receiving_since
                if connection.request is not None and began is not None and now - began > _PATIENCE:
                    connection.refuse(problems.stopping())
            if not came and not any(self._unfinished(c, now) for c in self._connections()):
                break
            self._turn(beat, 0.02)
        self.accepting = False
        for connection in self._connections():
            if connection.lingering_until is None and not connection.serving():
                connection.linger()
        last = time.monotonic() + _PATIENCE / 2
        while self.active_channels and time.monotonic() < last:
            self._turn(beat, 0.02)

    def _unfinished(self, connection: Connection, now: float) -> bool:
        fresh = connection.receiving() and now - connection.opened < _PATIENCE
        return connection.serving() or connection.writing() or connection.request is not None or fresh

    def _connections(self) -> list[Connection]:
        return list(self.active_channels.values())

    def _close(self) -> None:
        self._closed = True
        self.accepting = False
        self.task_dispatcher.dismiss()
        for connection in self._connections():
            connection.handle_close()
        self.close()

    def pull_trigger(self) -> None:
        """Wake the loop; a thread that outlives it must not write to a descriptor that is another's by now."""
        if not self._closed:
            super().pull_trigger()

    # -- connections ------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Tell whether connections may be accepted."""
        return bool(self.accepting) and time.monotonic() >= self._accept_again

    def handle_accept(self) -> int:
        """Accept what waits; return how many connections came. Beyond the limit the least deserving one is closed."""
        for accepted in range(_ACCEPTS_PER_TURN):
            if len(self.active_channels) >= self.connection_limit and not self._make_room():
                # All of them are being served: the kernel lets the others wait.
                self._accept_again = time.monotonic() + 0.05
                return accepted
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return accepted
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    self._make_room()
                    self._accept_again = time.monotonic() + 0.1
                    return accepted
                # The client left before it was accepted.
                continue
            try:
                self.set_socket_options(sock)
            except OSError:
                sock.close()
                continue
            Connection(self, sock, address, self.adj, map=self._map)
        return _ACCEPTS_PER_TURN

    def _make_room(self) -> bool:
        """Close the connection that deserves its place least; False if all of them are being served.

        First those that only linger, then idle ones, then whoever has been sending its request for the longest,
        then whoever has been taking its answer for the longest.
        """
        candidates = [connection for connection in self._connections() if not connection.serving()]
        if not candidates:
            return False
        victim = min(candidates, key=_merit)
        if victim.receiving():
            _say(victim, problems.crowded_out())
        victim.handle_close()
        return True


def _merit(connection: Connection) -> tuple[int, float]:
    if connection.lingering_until is not None:
        return (0, connection.active)
    if connection.writing():
        return (3, connection.writing_since or connection.active)
    if connection.receiving():
        return (2, connection.receiving_since or connection.opened)
    return (1, connection.active)


def _say(connection: Connection, problem: problems.Problem) -> None:
    """Send a last word to a connection that is about to be closed, if it takes it at once, and log it."""
    body = problem.body()
    headers = [*problem.headers(), ("X-Request-Id", request_id(None)), ("Content-Length", str(len(body))),
               ("Connection", "close")]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    with contextlib.suppress(OSError):
        connection.socket.send(f"HTTP/1.1 {problem.status_line}\r\n{head}\r\n".encode() + body)
    request = connection.request
    method, target = (request.method(), request.target()) if request is not None else (None, None)
    version = request.version if request is not None else None
    connection.server.log_access(access_log.line(connection.addr[0], method, target, version, problem.status,
                                                 len(body), time.time()))


def _room_for(connections: int, threads: int) -> int:
    """Raise the limit on descriptors to what the service may need; return how many connections fit below it."""
    # A connection may have two temporary files (its request's and its answer's), a thread a lane's socket.
    per_connection, other = 3, threads + 64
    if not hasattr(select, "poll"):
        # select() takes 512 descriptors on Windows.
        return min(connections, max(8, 512 - other))
    try:
        import resource
    except ImportError:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = per_connection * connections + other
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (ValueError, OSError):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    return max(8, (soft - other) // per_connection)


class _NothingOfClients(logging.Filter):
    """Lets waitress's own messages through without anything that a client sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message, and reduce an exception to its type."""
        kind = record.exc_info[0] if record.exc_info else None
        text = access_log.escaped(record.getMessage(), 300)
        record.msg = f"{text} ({kind.__name__})" if kind is not None else text
        record.args = None
        record.exc_info = None
        return True


def _tame_waitress_log() -> None:
    logger = logging.getLogger("waitress")
    if not any(isinstance(entry, _NothingOfClients) for entry in logger.filters):
        logger.addFilter(_NothingOfClients())
    # Requests that wait for a thread are this service's daily bread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)

