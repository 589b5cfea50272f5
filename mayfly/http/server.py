"""The HTTP server: waitress on sockets that are bound already, with its own loop.

`run` is called by the process's main thread and returns when the service has stopped. It owns the listening sockets
and closes them. The loop accepts, reads and writes for all connections, drives the flows that make answers, and calls
`beat` at least once a second. A few threads run the application and what flows want computed; they touch no connection,
and wait neither for a lane nor for a client: what a slow one hasn't taken yet is kept (if it is much, in a temporary
file), and the loop sends it.

Relies on waitress 3.0.2: `BaseWSGIServer` keeps its channels in `active_channels` and all it watches in `_map`, and
`wasyncore.loop(count=1)` waits once and calls `handle_*_event` of what is ready. Each method that stands for one of
waitress's says in a comment why; tests/unit/test_waitress_upstream.py fails when what they rely on changes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import WSGITask

from mayfly.draining import Draining
from mayfly.flow import Compute, Flow
from mayfly.http.answer import fail
from mayfly.http.connection import Connection, State
from mayfly.http.descriptors import connections_that_fit
from mayfly.http.request import Request
from mayfly.http.site import Headers, Site
from mayfly.http.waiting import Flows
from mayfly.http.waitress_log import redact
from mayfly.listening import accept_no_newcomers
from mayfly.problem import CROWDED_OUT, report
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
# may have come, so that those whose connection was being opened are here; and how long others may come.
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
        log_access: takes a log line for each request; must not block or raise.
        draining: shared with the application; `run` starts it when it is told to stop.
    """

    def __init__(self, site: Site, sockets: Sequence[socket.socket], settings: Settings, *,
                 log_access: Callable[[str], None], draining: Draining) -> None:
        redact()
        self.site = site
        self.settings = settings
        self.log_access = log_access
        self.draining = draining
        self.connection_limit = connections_that_fit(settings.connection_limit)
        self._threads = ThreadPoolExecutor(_THREADS)
        self.flows = Flows(self._threads, self.wake)
        self._closed = False
        self._accept_again = 0.0
        self._somebody_waits = False
        self._next_look = 0.0
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
            # The loop writes, and must not wait for a client; connections send by themselves, and hold what is large.
            outbuf_high_watermark=_UNBOUNDED,
            outbuf_overflow=_UNBOUNDED,
            recv_bytes=1 << 16,
            log_socket_errors=False,
        )
        # As a keyword it is deprecated.
        adjustments.send_bytes = _UNBOUNDED
        first = sockets[0]
        sockinfo = (first.family, first.type, first.proto, first.getsockname())
        # waitress would start threads of its own if it got none.
        super().__init__(site.application, {}, True, first, dispatcher=self._threads, adj=adjustments,
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

    # BaseWSGIServer.run has no heartbeat, no deadlines and no end but an exception.
    def run(self, beat: Callable[[], None], should_stop: Callable[[], bool]) -> None:
        """Serve until `should_stop()`, then stop in an orderly way: at the latest 0.7 s after LAME_DUCK_SECONDS and
        GRACE_SECONDS.

        For LAME_DUCK_SECONDS all is served as before, but the service isn't ready any more. Then new requests are
        answered 503; calls in flight may finish; when the grace is over the lanes end what is left (`Draining.ends`),
        so that those clients get their answer too.

        Args:
            beat: called at least once a second by the loop itself.
            should_stop: asked a few times a second.
        """
        try:
            while not should_stop():
                self._turn(beat, _TURN)
            self.draining.announce()
            leaves = time.monotonic() + self.settings.lame_duck_seconds
            while (left := leaves - time.monotonic()) > 0:
                self._turn(beat, min(left, _TURN))
            self.draining.start(self.settings.grace_seconds)
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
        if self._somebody_waits:
            self._accept()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _TURN
            for connection in self._connections():
                connection.enforce_deadlines(now)
            self.flows.cancel_abandoned(self.site.gate.last_word() if now >= self.draining.ends else None)
            beat()

    def _drain(self, beat: Callable[[], None]) -> None:
        """Finish what is in flight, answer what comes, to the last one, and close each connection when its client has
        closed it or is silent: closing one on which bytes are on their way would reset it, and with it the answer that
        may not have been read."""
        stopping = self.site.gate.stopping()
        in_flight = self._connections()
        for connection in in_flight:
            if connection.request is not None:
                connection.refuse(stopping)
        last = self.draining.ends + _LAST_ANSWERS
        while any(c.connected and c.state >= State.SENDING for c in in_flight) and time.monotonic() < last:
            self._turn(beat, 0.05)
        for door in self._doors:
            accept_no_newcomers(door)
        quiet_since = time.monotonic()
        settled = quiet_since + _SETTLING
        while (now := time.monotonic()) < self.draining.ends + _LAST_WORDS and (
                self.active_channels or now - quiet_since < _QUIET):
            if self.active_channels:
                quiet_since = now
            if now > settled:
                self._close_doors()
            for connection in self._connections():
                if connection.state >= State.SENDING or now - connection.since < _PATIENCE or connection.read_on():
                    continue
                if connection.state is State.LINGERING:
                    connection.handle_close()
                elif connection.request is not None:
                    connection.refuse(stopping)
                else:
                    connection.linger()
            self._turn(beat, 0.02)

    def _close_doors(self) -> None:
        self.accepting = False
        for door in self._doors:
            self._map.pop(door.fileno(), None)
            door.close()
        self._doors.clear()

    def _close(self) -> None:
        self._closed = True
        self._close_doors()
        self.flows.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in self._connections():
            connection.handle_close()
        self.close()

    # HTTPChannel.write_soon and .service call it; but it is the loop that has written, and it looks before it waits.
    def pull_trigger(self) -> None:
        """Do nothing: see `wake`."""

    def wake(self) -> None:
        """Wake the loop; called by any thread, one that outlives it too: it must not write to a descriptor that is
        another's by now.

        The loop's own thread needs it as well: a signal's handler runs there while the loop waits.
        """
        if not self._closed:
            super().pull_trigger()

    # -- requests ---------------------------------------------------------------------------------------------

    # HTTPChannel.service calls it for all requests of a connection but the first.
    def add_task(self, connection: Connection) -> None:
        """Have the first of a connection's requests answered."""
        request = connection.requests[0]
        connection.pulse.open()
        if request.error is not None:
            connection.finish(request)
            return
        begun = None
        received = request.body_rcv
        if received is None or len(received) <= _READ_AT_ONCE:
            body = received.buf.get(_READ_AT_ONCE) if received is not None else b""
            begun = self.site.at_once(request.command, request.path, request.environ(connection.addr[0]), body)
        if begun is None:
            headers: Headers = []
            begun = self._asked(connection, request, headers), headers
        self.flows.begin(connection, request, *begun)

    def _asked(self, connection: Connection, request: Request, headers: Headers) -> Flow:
        """Have a thread run the application."""
        environ = WSGITask(connection, request).get_environment()
        try:
            flow, own = yield Compute(lambda: self.site.ask(environ))
        except (Exception, SystemExit) as exc:
            # A SystemExit of the application ends one request alone.
            fail(connection, request, exc)
            return
        headers.extend(own)
        yield from flow

    # wasyncore.dispatcher.handle_error would close the listening socket.
    def handle_error(self) -> None:
        """Go on after a bug while accepting."""
        report()
        self._accept_again = time.monotonic() + 0.1

    # -- connections ------------------------------------------------------------------------------------------

    def kept_bytes(self) -> int:
        """Return how many bytes of answers wait for their clients."""
        return sum(connection.total_outbufs_len for connection in self._connections())

    def _connections(self) -> list[Connection]:
        return list(self.active_channels.values())

    # BaseWSGIServer.readable stops at `connection_limit`: then slow clients would shut others out.
    def readable(self) -> bool:
        """Tell whether connections may be accepted."""
        return bool(self.accepting) and time.monotonic() >= self._accept_again

    # wasyncore.poll2 goes on by a list of descriptors: accepting at once could give a newcomer the descriptor of a
    # connection that was closed in the same turn, and with it that one's events.
    def handle_accept(self) -> None:
        """Note that somebody waits."""
        self._somebody_waits = True

    def _accept(self) -> None:
        """Accept what waits. Beyond the limit others are closed; while none may be, the kernel lets newcomers wait.

        There is always room for one more, so that /health answers while all the others are being served.
        """
        self._somebody_waits = False
        room = self._make_room()
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self.active_channels) > self.connection_limit and not next(room, False):
                self._accept_again = time.monotonic() + 0.05
                return
            try:
                sock, address = self._next_guest()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                # The client left before it was accepted.
                continue
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    next(room, False)
                self._accept_again = time.monotonic() + 0.1
                return
            try:
                self.set_socket_options(sock)
            except OSError:
                sock.close()
                continue
            Connection(self, sock, address, self.adj, map=self._map)
            if len(self.active_channels) > self.connection_limit:
                next(room, False)

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

    def _make_room(self) -> Iterator[bool]:
        """Close a connection each time, as long as any may be closed: in the order of their states, and of those with
        one state whoever has been in it for the longest."""
        for connection in sorted(self._connections(), key=lambda c: (c.state, c.since)):
            if connection.state is State.RECEIVING and time.monotonic() - connection.since < _FAIR_CHANCE:
                continue
            # Its request may be here already, and only not read yet; then it is about to be served.
            connection.read_on()
            if connection.connected and connection.state is not State.SERVING:
                if connection.state is State.RECEIVING:
                    connection.refuse(CROWDED_OUT)
                connection.handle_close()
                yield True
