"""The HTTP server: waitress on sockets that are bound already, with its own loop.

`run` is called by the process's main thread and returns when the service has stopped. It owns the listening sockets
and closes them. The loop accepts, reads and writes for all connections, drives the flows that make answers, and calls
`beat` at least once a second. A few threads run the application and what flows want computed; they wait neither for a
lane nor for a client: what a slow one hasn't taken yet is kept (if it is much, in a temporary file), and the loop sends
it.

Relies on waitress 3.0.2: `BaseWSGIServer` keeps its channels in `active_channels` and all it watches in `_map`, and
`wasyncore.loop(count=1)` waits once and calls `handle_*_event` of what is ready.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from mayfly.draining import Draining
from mayfly.http import problems
from mayfly.http.answer import log
from mayfly.http.connection import Connection
from mayfly.http.descriptors import connections_that_fit
from mayfly.http.request import Request
from mayfly.http.site import Site
from mayfly.http.threads import Threads
from mayfly.http.waiting import Flows
from mayfly.http.waitress_log import redact
from mayfly.listening import accept_no_newcomers
from mayfly.problem import Problem, report
from mayfly.settings import Settings

MAX_HEADERS = 64 * 1024
# Python computes on one core, whatever their number; more threads than one keep a large request from the small ones.
_THREADS = 8
# A larger body is read by a thread: reading it would keep the loop from everybody else.
_READ_AT_ONCE = 16 << 10

# How long one turn of the loop waits for something to happen (s): deadlines are kept this exactly.
_TURN = 0.25
# After the grace, how long the answers of calls that were ended may take to be made and sent (s).
_LAST_ANSWERS = 0.4
# ... and how long it may take until nobody sends any more.
_LAST_WORDS = 0.6
# While stopping: how long a connection may take to go on with what it has begun, or to ask again (s); how long nobody
# may have come, so that those whose connection was being opened are here; and how long all that may take.
_PATIENCE = 0.3
_QUIET = 0.1
_SETTLING = 2.0
# However many connections come: so long each may take to send its request (s).
_FAIR_CHANCE = 0.1
_ACCEPTS_PER_TURN = 64
# Connections that may wait in the kernel, while all places are taken or the process restarts.
_BACKLOG = 4096
_UNBOUNDED = 1 << 50
# How often flows are looked at where the system can't tell that one goes on (Windows), in seconds.
_BLIND = 0.01


class Server(TcpWSGIServer):  # type: ignore[misc]
    """See the module.

    Args:
        site: the application.
        sockets: listening TCP sockets; the server closes them in the end.
        settings: for the limits.
        log_access: takes a log line for each request; called from several threads, must not block or raise.
        draining: shared with the application; `run` starts it when it is told to stop.
    """

    channel_class = Connection

    def __init__(self, site: Site, sockets: Sequence[socket.socket], settings: Settings, *,
                 log_access: Callable[[str], None], draining: Draining) -> None:
        redact()
        self.site = site
        self.settings = settings
        self.log_access = log_access
        self.draining = draining
        self._loop_thread = 0
        self.connection_limit = connections_that_fit(settings.connection_limit)
        self.flows = Flows(self.add_task, self.wake, report)
        self._closed = False
        self._accept_again = 0.0
        self._somebody_waits = False
        self._next_look = 0.0
        self._next_beat = 0.0
        self.active_channels: dict[int, Connection] = {}
        adjustments = Adjustments(
            sockets=list(sockets),
            ident="mayfly",
            backlog=_BACKLOG,
            # The limit bites at the value itself.
            max_request_body_size=settings.max_body + 1,
            max_request_header_size=MAX_HEADERS,
            # Without it a client that hangs up isn't noticed while its request is served.
            channel_request_lookahead=1,
            # Their mere presence makes a request a forwarded one (see access.py): they must get through.
            clear_untrusted_proxy_headers=False,
            # Connections keep large answers themselves; what is left are the pieces of streams.
            outbuf_high_watermark=_UNBOUNDED,
            outbuf_overflow=_UNBOUNDED,
            # This server has its own, kinder limit.
            connection_limit=_UNBOUNDED,
            recv_bytes=1 << 16,
            log_socket_errors=False,
            asyncore_use_poll=True,
        )
        first = sockets[0]
        sockinfo = (first.family, first.type, first.proto, first.getsockname())
        super().__init__(site.application, {}, True, first, dispatcher=Threads(_THREADS), adj=adjustments,
                         sockinfo=sockinfo, bind_socket=False)
        # waitress knows one socket; who waits on another one is accepted in the same way.
        self._doors = deque(sockets)
        for door in sockets[1:]:
            door.setblocking(False)
            self._map[door.fileno()] = self
        self._flows_seen = self.flows.descriptor()
        if self._flows_seen is not None:
            self._map[self._flows_seen] = self.flows

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self, beat: Callable[[], None], should_stop: Callable[[], bool], grace: float = 10.0) -> None:
        """Serve until `should_stop()`, then stop in an orderly way: at the latest 0.7 s after `grace` (s).

        While it stops, new requests are answered 503; calls in flight may finish; when the grace is over the lanes
        end what is left (`Draining.expired`), so that those clients get their answer too.

        Args:
            beat: called at least once a second by the loop itself.
            should_stop: asked a few times a second.
        """
        self._loop_thread = threading.get_ident()
        try:
            while not should_stop():
                self._turn(beat, _TURN)
            self.draining.start(grace)
            self._drain(beat)
        finally:
            self._close()

    def _turn(self, beat: Callable[[], None], timeout: float) -> None:
        now = time.monotonic()
        pauses = [timeout, self.flows.pause(now)]
        if self._accept_again > now:
            pauses.append(self._accept_again - now)
        if self._flows_seen is None and self.flows:
            pauses.append(_BLIND)
        wasyncore.loop(timeout=min(pauses), use_poll=True, map=self._map, count=1)
        self.flows.turn(time.monotonic())
        if self._somebody_waits and self.readable():
            self._accept()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _TURN
            for connection in list(self.active_channels.values()):
                connection.look(now)
            self.flows.look(self.site.gate.last_word() if self.draining.expired(now) else None)
        if now >= self._next_beat:
            self._next_beat = now + _TURN
            beat()

    def _drain(self, beat: Callable[[], None]) -> None:
        """Finish what is in flight, answer what comes, then close what is idle."""
        last = self.draining.ends + _LAST_ANSWERS
        stopping = self.site.gate.stopping()
        for connection in self._connections():
            if connection.request is not None:
                connection.refuse(stopping)
        in_flight = self._connections()
        while any(c.connected and (c.serving() or c.writing()) for c in in_flight) and time.monotonic() < last:
            self._turn(beat, 0.05)
        self._answer_the_last(beat, min(last, time.monotonic() + _SETTLING))
        self._close_doors()
        self._part(beat, self.draining.ends + _LAST_WORDS)

    def _answer_the_last(self, beat: Callable[[], None], until: float) -> None:
        """Answer those who have come meanwhile, to the last one; whoever has nothing to ask is told that it ends."""
        for door in self._doors:
            accept_no_newcomers(door)
        quiet_since = time.monotonic()
        while (now := time.monotonic()) < until and now - quiet_since < _QUIET:
            self._accept()
            for connection in self._connections():
                if connection.silent_for(now) > _PATIENCE:
                    if connection.request is not None:
                        connection.refuse(self.site.gate.stopping())
                    else:
                        connection.linger()
            if self._somebody_waits or not all(c.lingering() for c in self._connections()):
                quiet_since = now
            self._turn(beat, 0.02)

    def _part(self, beat: Callable[[], None], until: float) -> None:
        """Close the connections, each when its client has closed it or sends nothing more: closing one on which bytes
        are on their way would reset it, and with it the answer that may not have been read."""
        patience = time.monotonic() + _PATIENCE / 2
        while (now := time.monotonic()) < until:
            for connection in self._connections():
                if connection.has_unread():
                    connection.handle_read()
                elif now > patience and connection.silent_for(now) > _PATIENCE / 2:
                    connection.handle_close()
            # A busy thread may still write the log line of an answer whose client has left.
            if not self.active_channels and (now > patience or not self.task_dispatcher.busy()):
                break
            self._turn(beat, 0.02)

    def _close_doors(self) -> None:
        self.accepting = False
        for door in self._doors:
            self._map.pop(door.fileno(), None)
            door.close()
        self._doors.clear()

    def kept_bytes(self) -> int:
        """Return how many bytes of answers wait for their clients."""
        return sum(connection.total_outbufs_len for connection in self._connections())

    def _connections(self) -> list[Connection]:
        return list(self.active_channels.values())

    def _close(self) -> None:
        self._closed = True
        self._close_doors()
        self.task_dispatcher.dismiss()
        self.flows.close()
        for connection in self._connections():
            connection.handle_close()
        self.close()

    def pull_trigger(self) -> None:
        """Have the loop look again at what there is to write. Needless where it is the loop that has written: it looks
        before it waits."""
        if threading.get_ident() != self._loop_thread:
            self.wake()

    def wake(self) -> None:
        """Wake the loop; a thread that outlives it must not write to a descriptor that is another's by now.

        The loop's own thread needs it as well: a signal's handler runs there while the loop waits.
        """
        if not self._closed:
            super().pull_trigger()

    def serve(self, connection: Connection, request: Request) -> None:
        """Have a request answered: by a thread, or, if it is small, by the loop. Called by the loop."""
        if (request.error is None and request.command == "POST" and request.body_rcv is not None
                and len(request.body_rcv) <= _READ_AT_ONCE):
            body = request.body_rcv.buf.get(_READ_AT_ONCE)
            begun = self.site.at_once(request.path, request.environ(connection.addr[0]), body)
            if begun is not None:
                self.flows.begin(connection, request, *begun)
                return
        self.add_task(connection)

    def handle_error(self) -> None:
        """Go on after a bug while accepting: waitress would close the listening socket."""
        exc = sys.exc_info()[1]
        if exc is not None:
            report(exc, "(not known)")
        self._accept_again = time.monotonic() + 0.1

    # -- connections ------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Tell whether connections may be accepted."""
        return bool(self.accepting) and time.monotonic() >= self._accept_again

    def handle_accept(self) -> None:
        """Note that somebody waits.

        Accepting at once could give a newcomer the descriptor of a connection that was closed in the same turn, and
        with it that one's events, of which the loop still has a list.
        """
        self._somebody_waits = True

    def _accept(self) -> None:
        """Accept what waits. Beyond the limit the least deserving connections are closed."""
        self._somebody_waits = True
        # In the order in which they give way; made once for all that come now, who aren't in it.
        others: deque[Connection] | None = None
        for _ in range(_ACCEPTS_PER_TURN):
            if others is None and len(self.active_channels) >= self.connection_limit:
                others = self._least_deserving_first()
            if others is not None and self._crowded() and not self._make_room(others):
                # All of them are being served, or have only just come: the kernel lets the others wait.
                self._accept_again = time.monotonic() + 0.05
                return
            try:
                sock, address = self._next_guest()
            except BlockingIOError:
                self._somebody_waits = False
                return
            except ConnectionAbortedError:
                # The client left before it was accepted.
                continue
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    self._make_room(self._least_deserving_first())
                self._accept_again = time.monotonic() + 0.1
                return
            try:
                self.set_socket_options(sock)
            except OSError:
                sock.close()
                continue
            Connection(self, sock, address, self.adj, map=self._map)
            if others is not None and self._crowded():
                self._make_room(others)

    def _next_guest(self) -> tuple[socket.socket, Any]:
        """Accept a connection from each listening socket in turn.

        Raises:
            BlockingIOError: nobody waits.
            OSError: it can't be accepted.
        """
        for _ in range(len(self._doors)):
            self._doors.rotate()
            with contextlib.suppress(BlockingIOError):
                return self._doors[0].accept()
        raise BlockingIOError

    def _crowded(self) -> bool:
        return len(self.active_channels) > self.connection_limit

    def left(self) -> None:
        """Note that a connection has been closed: there is room again."""
        self._accept_again = 0.0

    def _least_deserving_first(self) -> deque[Connection]:
        """Return the connections that may be closed to make room.

        First those that only linger, then idle ones, then whoever has been sending its request for the longest, then
        whoever has been taking its answer for the longest. Those that are being served aren't among them.
        """
        return deque(sorted((c for c in self._connections() if not c.serving()), key=_merit))

    def _make_room(self, candidates: deque[Connection]) -> bool:
        """Close the first of the candidates that may be closed; False if there is none."""
        while candidates:
            victim = candidates[0]
            # Its request may be here already and only not read yet; then it is about to be served.
            if not victim.serving() and victim.has_unread():
                victim.handle_read()
            began = victim.receiving_since if victim.receiving() else None
            if began is not None and time.monotonic() - began < _FAIR_CHANCE:
                return False
            candidates.popleft()
            if victim.connected and not victim.serving():
                if victim.receiving():
                    _say(victim, problems.crowded_out())
                victim.handle_close()
                return True
        return False


def _merit(connection: Connection) -> tuple[int, float]:
    if connection.lingering():
        return (0, connection.active)
    if connection.writing():
        return (3, connection.writing_since or connection.active)
    if connection.receiving():
        return (2, connection.receiving_since or connection.opened)
    return (1, connection.active)


def _say(connection: Connection, problem: Problem) -> None:
    """Send a last word to a connection that is about to be closed, if it takes it at once, and log it."""
    body = problem.body()
    headers = [*problem.headers(), *connection.server.site.gate.stamp({}), ("Content-Length", str(len(body))),
               ("Connection", "close")]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    with contextlib.suppress(OSError):
        connection.socket.send(f"HTTP/1.1 {problem.status_line}\r\n{head}\r\n".encode() + body)
    log(connection, connection.request or Request(connection.adj), problem.status, len(body))
