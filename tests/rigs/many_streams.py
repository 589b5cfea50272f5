"""Many open streams of one web process: a lane that gives each of its calls a token a second, and clients that read."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervised import Supervised, supervised
from web_rig import eventually

from mayfly.compat.files import raise_descriptor_limit
from mayfly.wire import board, framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import Began, Piece
from mayfly.wire.spec import LaneSpec

_REQUEST = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s")
_BODY = b'{"messages": [{"role": "user", "content": "Go on."}], "stream": true}'


class TokenASecond:
    """A lane's workers, played by one thread: all calls are taken, and given a piece a second until they are left."""

    def __init__(self, folder: Path) -> None:
        self.listener, self.address = LaneAddress.bind(folder / "completion.sock")
        board.publish(folder / "state.json", {"completion": {"state": "ready", "model": "played"}})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> TokenASecond:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.listener.close()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        self.listener.setblocking(False)
        calls: dict[socket.socket, float] = {}
        piece = framing.encode(Piece("word "))
        while not self._over.is_set():
            for key, _ in selector.select(0.02):
                if key.fileobj is self.listener:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            connection, _ = self.listener.accept()
                            connection.sendall(framing.encode(Began(1)))
                            selector.register(connection, selectors.EVENT_READ)
                            calls[connection] = 0.0
                elif not _received(key.fileobj):  # type: ignore[arg-type]
                    selector.unregister(key.fileobj)
                    del calls[key.fileobj]  # type: ignore[arg-type]
            now = time.monotonic()
            for connection, due in calls.items():
                if now >= due:
                    calls[connection] = now + 1
                    with contextlib.suppress(OSError):
                        connection.sendall(piece)
        for connection in calls:
            connection.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionResetError:
        return b""


@dataclass
class Seen:
    """What was seen while all streams were open.

    Attributes:
        health: seconds that each answer of /health took.
        threads: of the web process, at most.
        pieces: of each stream.
    """

    health: list[float]
    threads: int
    pieces: list[int]

    def median(self) -> float:
        """Return the median of what /health took, in seconds."""
        return statistics.median(self.health)


@contextlib.contextmanager
def _reading(port: int, count: int) -> Iterator[list[int]]:
    """Open streams and read them; yields how many pieces each has got."""
    pieces = [0] * count
    over = threading.Event()
    selector = selectors.DefaultSelector()
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(_REQUEST % (len(_BODY), _BODY))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, number)

    def read() -> None:
        while not over.is_set():
            for key, _ in selector.select(0.1):
                pieces[key.data] += key.fileobj.recv(1 << 16).count(b"word ")  # type: ignore[union-attr]

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield pieces
    finally:
        over.set()
        thread.join()
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


def watch(folder: Path, streams: int, looks: int) -> Seen:
    """Open so many streams, and ask for /health so many times while all of them go on."""
    raise_descriptor_limit(4 * streams + 200)
    with TokenASecond(folder) as played:
        lane = LaneSpec(played.address, model="played", served_at_once=streams)
        with supervised(folder, {"completion": lane}, CONNECTION_LIMIT=str(min(10_000, 2 * streams + 100)),
                        REQUEST_TIMEOUT="600") as service, _reading(service.port, streams) as pieces:
            eventually(lambda: all(pieces))
            return _look(service, pieces, looks)


def _look(service: Supervised, pieces: list[int], looks: int) -> Seen:
    before = list(pieces)
    health, threads = [], 0
    while len(health) < looks:
        began = time.monotonic()
        assert service.get("/health")[0] == 200
        health.append(time.monotonic() - began)
        threads = max(threads, len(os.listdir(f"/proc/{service.process.pid}/task")))
        time.sleep(0.05)
    eventually(lambda: all(now > then for now, then in zip(pieces, before, strict=True)))
    return Seen(health, threads, list(pieces))
