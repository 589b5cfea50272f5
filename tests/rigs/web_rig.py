"""A real server on a free port of 127.0.0.1 for tests of the web room, with lanes that do as they are told.

    with serving(lane, RECEIVE_TIMEOUT="1") as service:
        status, headers, body = service.post("/embed", {"input": "text"})
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mayfly.app import create_app, site_of
from mayfly.draining import Draining
from mayfly.errors import DeadlinePassed, QueueFull
from mayfly.http.server import Server
from mayfly.settings import Settings, parse
from mayfly.tallies import Served
from mayfly.web.service import Service as Web
from mayfly.wire.calls import Completion, EmbedCall, Embeddings, Finished, Piece

KEY = "a-key-for-tests-0123456789"
# Far more than anything here takes; a test that reaches it has failed.
PATIENCE = 30.0

FINISHED = Finished("stop", "scripted.gguf", 7, 5, 2)


@dataclass
class ScriptedLane:
    """A lane that answers at once, unless it is told to raise, to hold every call, or to answer something else."""

    name: str = "completion"
    fails: Exception | None = None
    items: list[Any] = field(default_factory=lambda: [Piece("Hello"), Piece(" w\u00f6rld"), FINISHED])
    is_ready: bool = True
    is_configured: bool = True
    vectors: Callable[[int], Embeddings] | None = None
    most: int = 1 << 30

    def __post_init__(self) -> None:
        self.calls: list[Any] = []
        self.served = Served()
        self.held = 0
        self.left = 0
        self.closed = 0
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        """Keep every call from now on until `release`, its deadline, or its client's end."""
        self._go.clear()

    def release(self) -> None:
        """Let the held calls go on."""
        self._go.set()

    def begin(self, call: Any, deadline: float, *, in_pieces: bool = False) -> ScriptedCall:
        with self._lock:
            if self.held >= self.most:
                raise QueueFull("too many requests wait already", retry_after=1)
            self.calls.append(call)
        return ScriptedCall(self, call, deadline, in_pieces)

    def held_back(self) -> bool:
        """Tell whether calls are held now."""
        return not self._go.is_set()

    def count(self, **counters: int) -> None:
        """Add to some of the counters."""
        with self._lock:
            for name, more in counters.items():
                setattr(self, name, getattr(self, name) + more)

    def status(self) -> dict[str, Any]:
        return {"state": "ready" if self.is_ready else "loading", "model": "scripted.gguf"}

    def ready(self) -> bool:
        return self.is_ready and self.is_configured

    def configured(self) -> bool:
        return self.is_configured


class ScriptedCall:
    """A call of a ScriptedLane; it is asked again and again, as a call without a socket is."""

    watched = None
    sending = False

    def __init__(self, lane: ScriptedLane, call: Any, deadline: float, in_pieces: bool) -> None:
        self._lane = lane
        self._call = call
        self._deadline = deadline
        self._in_pieces = in_pieces
        self._rest: list[Any] | None = None
        self._held = False
        self._closed = False

    @property
    def due(self) -> float:
        return time.monotonic() + 0.01

    def advance(self, now: float) -> list[Any]:
        if self._lane.held_back():
            self._hold(True)
            if now >= self._deadline:
                raise DeadlinePassed("the deadline (REQUEST_TIMEOUT) passed")
            return []
        self._hold(False)
        if self._rest is None:
            if self._lane.fails is not None:
                raise self._lane.fails
            if isinstance(self._call, EmbedCall):
                return [(self._lane.vectors or unit_vectors)(len(self._call.texts))]
            if not self._in_pieces:
                pieces = [item for item in self._lane.items if isinstance(item, Piece)]
                ends = (item for item in self._lane.items if isinstance(item, Finished))
                return [Completion.of(pieces, next(ends, FINISHED))]
            self._rest = list(self._lane.items)
        item = self._rest.pop(0)
        if isinstance(item, Exception):
            raise item
        if item is HOLD:
            self._lane.hold()
            self._hold(True)
            return []
        return [item]

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Held to its end: its client has left, or its time is over.
        self._lane.count(left=self._held and time.monotonic() < self._deadline, closed=self._rest is not None)
        self._hold(False)

    def _hold(self, held: bool) -> None:
        self._lane.count(held=held - self._held)
        self._held = held


# In a lane's items: from here on the stream is held.
HOLD = object()


def web(settings: Settings) -> Web:
    """Return what an application is built on, with lanes of this rig."""
    return Web.of(settings, {"embedding": ScriptedLane("embedding"), "completion": ScriptedLane()}, Draining())


def unit_vectors(count: int, dimensions: int = 384) -> Embeddings:
    """Return `count` different vectors of norm 1."""
    array = np.random.default_rng(count).normal(size=(count, dimensions)).astype("<f4")
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    return Embeddings(array.tobytes(), dimensions, 3 * count, "scripted-embedder", 1)


@dataclass
class Service:
    """A running server as a test sees it."""

    port: int
    lines: list[str]
    embed: ScriptedLane
    chat: ScriptedLane
    server: Server
    _stop: threading.Event
    _thread: threading.Thread

    def connect(self, **options: Any) -> socket.socket:
        """Open a connection."""
        sock = socket.socket()
        for option, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def kept_alive(self) -> socket.socket:
        """Return a connection over which one request has been answered."""
        sock = self.connect()
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while not data.endswith(b"}}}"):
            part = sock.recv(65536)
            assert part
            data += part
        assert one_answer(data).status == 200
        return sock

    def raw(self, data: bytes) -> bytes:
        """Send bytes, and return everything that comes back until the server closes."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_all(sock)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str
                ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Make a request; underscores in header names stand for hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, http.client.HTTPMessage, Any]:
        """Post an object (or bytes) as JSON; return the status, the headers and the parsed answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answered, content = self.request("POST", path, data, **{"Content_Type": "application/json", **headers})
        return status, answered, json.loads(content)

    def healthy(self) -> bool:
        """Tell whether /health answers."""
        return self.request("GET", "/health")[0] == 200

    def stop(self) -> None:
        """Tell the server to stop; it drains."""
        self._stop.set()

    def stopped(self, within: float = PATIENCE) -> bool:
        """Wait for the server's end."""
        self._thread.join(within)
        return not self._thread.is_alive()


@contextlib.contextmanager
def serving(chat: ScriptedLane | None = None, embed: ScriptedLane | None = None, *, grace: float = 5.0,
            backlog: int = 128, **values: str) -> Iterator[Service]:
    """Run a server with the given settings (environment names) while the block runs."""
    # An engine that takes no seed: what the web process draws for others differs from call to call.
    settings = parse({"API_KEYS": KEY, "CHAT_ENGINE": "gpt4all", "GRACE_SECONDS": str(grace), **values})
    lanes = {"embedding": embed or ScriptedLane("embedding"), "completion": chat or ScriptedLane("completion")}
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    port = listener.getsockname()[1]
    draining = Draining()
    lines: list[str] = []
    server = Server(site_of(create_app(settings, lanes, draining)), [listener], settings,
                    log_access=lines.append, draining=draining)
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run(lambda: None, stop.is_set)
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    service = Service(port, lines, lanes["embedding"], lanes["completion"], server, stop, thread)
    try:
        yield service
    finally:
        for lane in lanes.values():
            lane.release()
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not failures


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes; a reset raises."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@dataclass
class Answer:
    """One HTTP answer as it was on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Return the error object; fails unless the body has exactly the form of an error."""
        parsed = json.loads(self.body)
        assert set(parsed) == {"error"}
        error: dict[str, Any] = parsed["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        return error


def answers(data: bytes) -> list[Answer]:
    """Split what a server sent into answers (100 Continue included); fails if anything is left over."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(status_line.split()[1])
        if status == 100:
            size = 0
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                length, _, data = data.partition(b"\r\n")
                chunk, data = data[: int(length, 16)], data[int(length, 16) + 2:]
                body += chunk
                if not chunk:
                    break
            found.append(Answer(status, headers, body))
            continue
        else:
            size = int(headers["content-length"])
        assert len(data) >= size
        found.append(Answer(status, headers, data[:size]))
        data = data[size:]
    return found


def one_answer(data: bytes) -> Answer:
    """Return the only answer in what a server sent."""
    (answer,) = answers(data)
    return answer


def http_post(path: str, body: bytes, *lines: str) -> bytes:
    """Return a POST of JSON as bytes."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
