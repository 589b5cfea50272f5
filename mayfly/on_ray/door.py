"""A replica's door: where fronts bring their calls, over connections of their own. Ray sees none of it.

A thread of the replica. Who connects says hello first - the door's token, and the time on its clock - and then talks
as to any lane (`mayfly.lanes.client`): a request, the answer, and the next request if the connection is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
import threading
import time
from typing import Any

from mayfly.compat.sockets import bind_public
from mayfly.errors import CallError
from mayfly.lanes.client import SocketCall, SocketLane
from mayfly.wire import framing
from mayfly.wire.calls import Began, Completion, Failed, Item, Piece, Request, ToolDelta

_HELLO = struct.Struct("<64sd?")
# How long a caller may take for it (s).
_PATIENCE = 10.0
_LOOK = 0.05


def hello(token: str, *, in_pieces: bool) -> bytes:
    """Return what a caller begins with: the token, its clock, and whether it wants a completion piece by piece."""
    return _HELLO.pack(token.encode(), time.monotonic(), in_pieces)


class Door(threading.Thread):
    """See the module.

    Args:
        lane: answers the calls.
        host: the address of this node that fronts reach it by.

    Raises:
        OSError: nobody can listen there.
    """

    def __init__(self, lane: SocketLane, host: str) -> None:
        super().__init__(name="door", daemon=True)
        self._lane = lane
        self._token = secrets.token_hex(32)
        self._listener = bind_public(host, 0)
        self._told = {"host": host, "port": self._listener.getsockname()[1], "token": self._token,
                      "number": secrets.randbits(48)}
        self._lines: set[_Line] = set()
        self._stopping = threading.Event()
        self.start()

    @property
    def held(self) -> int:
        """How many calls are being answered, or wait for that."""
        return sum(line.busy for line in list(self._lines))

    def told(self) -> dict[str, Any]:
        """Return what a front has to know: `host`, `port`, `token`, and a `number` that no other replica has."""
        return dict(self._told)

    def stop(self, grace: float) -> None:
        """Take no more calls; return when those that are held are answered, after `grace` seconds at the latest."""
        self._stopping.set()
        self.join(grace)

    def run(self) -> None:
        """Serve until `stop`."""
        with contextlib.suppress(OSError):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        def line() -> _Line:
            return _Line(self._lane, self._token.encode(), Began(self._told["number"]), self._lines)

        server = await asyncio.get_running_loop().create_server(line, sock=self._listener)
        while not self._stopping.is_set():
            await asyncio.sleep(_LOOK)
        server.close()
        while self._lines:
            for each in list(self._lines):
                each.rest()
            await asyncio.sleep(_LOOK)


class _Line(asyncio.Protocol):
    """A front's connection, and the call that it has brought."""

    def __init__(self, lane: SocketLane, token: bytes, began: Began, lines: set[_Line]) -> None:
        self._lane = lane
        self._token = token
        self._began = framing.encode(began)
        self._lines = lines
        self._received = bytearray()
        self._hello: tuple[float, bool] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._kept = False
        self._transport: Any = None

    @property
    def busy(self) -> bool:
        """Whether it has brought a call that isn't answered."""
        return self._answering is not None

    def rest(self) -> None:
        """Close it if it isn't busy."""
        if not self.busy:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        self._transport = transport
        watch(transport.get_extra_info("socket"))
        self._lines.add(self)
        asyncio.get_running_loop().call_later(_PATIENCE, self._end_of_patience)

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._received += data
        try:
            if self._hello is not None or self._takes_hello():
                self._take()
        except framing.FrameError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol: the front has left, or has its answer."""
        self._lines.discard(self)
        if self._answering is not None:
            self._answering.cancel()

    def _takes_hello(self) -> bool:
        if len(self._received) < _HELLO.size:
            return False
        token, clock, in_pieces = _HELLO.unpack_from(self._received)
        if not secrets.compare_digest(token, self._token):
            self._transport.abort()
            return False
        del self._received[:_HELLO.size]
        self._hello = time.monotonic() - clock, in_pieces
        return True

    def _end_of_patience(self) -> None:
        if self._hello is None:
            self._transport.abort()

    def _take(self) -> None:
        request = framing.pop(self._received, Request) if self._answering is None else None
        if request is not None:
            self._answering = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        assert self._hello is not None
        ahead, in_pieces = self._hello
        try:
            call = self._lane.begin(request.call, request.deadline + ahead, in_pieces=in_pieces)
            with contextlib.closing(call):
                await self._carry(call)
        except CallError as exc:
            self._transport.write(framing.encode(Failed.of(exc)))
        finally:
            self._answering = None
        if request.keep:
            self._kept = True
            self._take()
        else:
            self._transport.close()

    async def _carry(self, call: SocketCall) -> None:
        """Send what comes of a call until it is answered.

        Raises:
            CallError: it fails.
        """
        # A front knows who has a call that it sends over a connection that it has kept.
        said = self._kept
        while True:
            items = call.advance(time.monotonic())
            frames = [_framed(item) for item in items]
            if call.begun and not said:
                frames.insert(0, self._began)
                said = True
            if frames:
                self._transport.write(b"".join(frames))
            if items and not isinstance(items[-1], Piece):
                return
            if not items:
                await _can_go_on(call)


def watch(sock: socket.socket) -> None:
    """Have a connection between two nodes send at once, and break off ten seconds after the other one has vanished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3),
                          (socket.TCP_USER_TIMEOUT, 10_000)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _framed(item: Item) -> bytes:
    if isinstance(item, Completion):  # travels as the pieces that it came in
        calls = tuple(ToolDelta(index, call.id, call.name, call.arguments)
                      for index, call in enumerate(item.tool_calls))
        return framing.encode(Piece(item.text, item.tokens, item.reasoning, calls)) + framing.encode(item.finished)
    return framing.encode(item)


async def _can_go_on(call: SocketCall) -> None:
    """Wait for what a call waits for."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    watched, sending = call.watched, call.sending

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    timer = loop.call_later(max(0.0, call.due - time.monotonic()), wake)
    if watched is not None:
        (loop.add_writer if sending else loop.add_reader)(watched, wake)
    try:
        await ready
    finally:
        timer.cancel()
        if watched is not None:
            (loop.remove_writer if sending else loop.remove_reader)(watched)
