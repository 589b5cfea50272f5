"""Taking calls from a lane's socket: a connection is a call once its request has come, and holds no place before.

Whoever connects and says nothing, or half of something, is kept aside and costs the others nothing; whoever is silent
for too long is hung up on. Nothing here waits for one connection.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar

from mayfly.compat.sockets import hung_up, unread_bytes
from mayfly.errors import CallError, DeadlinePassed
from mayfly.models import parts
from mayfly.wire import framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import Answer, Failed, Request

# How long one wait may take; between two waits there is a beat.
TICK = 0.25

# The web process sends its request as it connects, and reads at once; a caller that does neither for this long is none.
_PATIENCE = 10.0
#: A look at a caller costs system calls: not after every short step of its work.
LOOK_INTERVAL = 0.05
# Connections that are kept aside at most; for one more, the one that has been there longest leaves.
_MOST_ASIDE = 128
_READ = 1 << 16

_Come = TypeVar("_Come")
Outcome = Literal["answered", "refused", "cancelled"]


class Gone(Exception):
    """A connection has ended, or what it brings is no request."""


class Line:
    """A connection, and what has come over it of a request.

    Args:
        token: what the caller has to show first, where the lane is a port that everybody on this machine can reach.

    Attributes:
        kept: it has brought a call before, and its caller may rest before the next.
    """

    def __init__(self, connection: socket.socket, token: bytes = b"") -> None:
        connection.setblocking(False)
        self.connection = connection
        self.kept = False
        self._heard = time.monotonic()
        self._token = token
        self._shown = b""
        self._received = bytearray()

    def take(self) -> Request | None:
        """Read what has come, as far as it goes at once; return the request when it is whole, until then None.

        Raises:
            Gone: there won't be one.
        """
        try:
            self._take_token()
            part = self.connection.recv(_READ)
            self._received += part
            request: Request | None = framing.pop(self._received, Request)
        except BlockingIOError:
            return None
        except (OSError, framing.FrameError) as exc:
            raise Gone from exc
        if not part or (request is not None and self._received):
            raise Gone
        self._heard = time.monotonic()
        return request

    def look(self) -> bool | None:
        """Tell, without reading it, whether a request has come whole; None if none of it has.

        Raises:
            Gone: as in `take`.
        """
        try:
            head = self.connection.recv(framing.HEAD_SIZE, socket.MSG_PEEK)
            if not head:
                raise Gone
            return framing.is_whole(head, unread_bytes(self.connection))
        except BlockingIOError:
            return None
        except (OSError, framing.FrameError) as exc:
            raise Gone from exc

    def send(self, answer: Answer) -> None:
        """Send a part of the answer, or all of it.

        Raises:
            Gone: nobody reads it.
        """
        try:
            self.connection.settimeout(_PATIENCE)
            self.connection.sendall(framing.encode(answer))
        except OSError as exc:
            raise Gone from exc

    def refuse(self, error: CallError) -> Outcome:
        """Answer with an error; return what has become of the call."""
        try:
            self.send(Failed.of(error))
        except Gone:
            return "cancelled"
        return "refused"

    def check(self, deadline: float, now: float) -> None:
        """Raise what ends a call that nobody waits for: DeadlinePassed, or Gone if its caller has left."""
        if now >= deadline:
            raise DeadlinePassed.of()
        if hung_up(self.connection):
            raise Gone

    def overdue(self, now: float) -> bool:
        """Tell whether it has been silent for too long while something is expected of it."""
        return now - self._heard > _PATIENCE and (not self.kept or bool(self._received))

    def _take_token(self) -> None:
        if len(self._shown) == len(self._token):
            return
        part = self.connection.recv(len(self._token) - len(self._shown))
        self._shown += part
        if not part or (len(self._shown) == len(self._token) and not secrets.compare_digest(self._shown, self._token)):
            raise Gone
        if len(self._shown) < len(self._token):
            raise BlockingIOError


class Door(Generic[_Come]):
    """A lane's socket, and the connections that were accepted from it and aren't calls yet.

    The socket is shared by processes, so another one may be faster.

    Args:
        listener: the socket, not blocking.
        address: the lane's, as its callers have it.
        come: what a call is to have brought: `Line.take` or `Line.look`. None is nothing yet.
        taking: called before a call may leave the socket: the watchdog looks there and in the thread budget for calls,
            and must see each in one of them.
    """

    def __init__(self, listener: socket.socket, address: LaneAddress, come: Callable[[Line], _Come | None],
                 taking: Callable[[], object] = lambda: None) -> None:
        self._listener = listener
        self._token = address.token.encode()
        self._come = come
        self._taking = taking
        self._aside: dict[Line, None] = {}  # who has been there longest, first
        self._next_look = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to hear (Linux)."""
        return self._selector.fileno()

    def receive(self, timeout: float, room: int) -> list[tuple[Line, _Come]]:
        """Wait so long (s) for somebody to come; return at most `room` calls and what they brought.

        They are still connected, and the caller's from now on. Others wait in the socket.
        """
        came: list[tuple[Line, _Come]] = []
        if room <= 0:
            return came
        ready = self._selector.select(timeout)
        if ready:
            self._taking()
        for key, _ in ready:
            if key.data is None:
                self._accept(came, room)
            elif len(came) < room:
                self._hear(key.data, came)
        self.send_away()
        return came

    def keep(self, line: Line) -> None:
        """Wait for the next call of a connection whose last one is answered."""
        line.kept = True
        line.connection.setblocking(False)
        self._put_aside(line)

    def send_away(self) -> None:
        """Hang up on those who have been silent for too long; to be called a few times a second, and `hear` does."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            for line in [line for line in self._aside if line.overdue(now)]:
                self._hang_up(line)

    def close(self) -> None:
        """Let go of everything, in a fork that has nothing to do with it; what others hold of it is left as it is."""
        self._selector.close()
        self._listener.close()
        for line in self._aside:
            line.connection.close()

    def _accept(self, came: list[tuple[Line, _Come]], room: int) -> None:
        for _ in range(_MOST_ASIDE):
            if len(came) >= room:
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            self._hear(Line(connection, self._token), came)

    def _hear(self, line: Line, came: list[tuple[Line, _Come]]) -> None:
        try:
            brought = self._come(line)
        except Gone:
            self._hang_up(line)
            return
        if brought is None:
            self._put_aside(line)
        elif hung_up(line.connection):
            self._hang_up(line)
        else:
            self._take_back(line)
            came.append((line, brought))

    def _put_aside(self, line: Line) -> None:
        if line in self._aside:
            return
        if len(self._aside) >= _MOST_ASIDE:
            self._hang_up(next((other for other in self._aside if not other.kept), next(iter(self._aside))))
        self._aside[line] = None
        self._selector.register(line.connection, selectors.EVENT_READ, line)

    def _take_back(self, line: Line) -> None:
        if line in self._aside:
            del self._aside[line]
            self._selector.unregister(line.connection)

    def _hang_up(self, line: Line) -> None:
        self._take_back(line)
        line.connection.close()


class ModelFile:
    """A model's files, and what else a process goes by, as they were when it was loaded.

    gpt4all maps the file into memory: if it is overwritten in place, vectors go silently wrong or the process dies
    of SIGBUS.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._loaded = self._marks()

    def changed(self) -> bool:
        """Tell whether other files are there now, or the same ones written to."""
        return self._marks() != self._loaded

    def _marks(self) -> list[parts.Mark]:
        return [parts.mark(path) for path in self._paths]
