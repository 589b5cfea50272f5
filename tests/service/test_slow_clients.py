"""Slow clients of the running service: everybody else is served, and /health answers throughout."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import scripts
from service import Service, until

LIMIT = 16
RECEIVE_TIMEOUT = 2.0
# The point allows a second beyond the receive deadline; the rest is for a machine that is busy otherwise.
SECOND = 1.0
ALLOWANCE = 4.0


@pytest.fixture
def limited(start: Callable[..., Service], model_path: Path) -> Service:
    """A service with few connections and a short receive deadline."""
    embeddings = scripts.write(model_path, name="vectors", kind="embedding")
    chat = scripts.write(model_path, {"when": "long", "pieces": ["word " * 400] * 100})
    return start(CONNECTION_LIMIT=LIMIT, RECEIVE_TIMEOUT=RECEIVE_TIMEOUT, EMBED_MODEL=embeddings, MODEL_NAME=chat)


def _connect(service: Service, *, receive_buffer: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
    return sock


@contextlib.contextmanager
def _health_watched(service: Service) -> Iterator[list[float]]:
    """Ask for /health, on a new connection each time, until the block ends; yields the seconds that each answer took.

    Fails if one answer isn't a 200.
    """
    over, took, failed = threading.Event(), [], []

    def ask() -> None:
        while not over.wait(0.05):
            began = time.monotonic()
            try:
                assert requests.get(service.url + "/health", timeout=120).status_code == 200
            except Exception as exc:
                failed.append(exc)
                return
            took.append(time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join(60)
    assert not failed, failed
    assert took
    print(f"/health answered {len(took)} times, the slowest after {max(took):.2f} s")


class Drips:
    """Connections that send a header line a second, twice as many as the service takes; each closed one is opened anew.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.closed = 0
        self.opened = 0

    def __enter__(self) -> Drips:
        self._thread.start()
        until(lambda: self.opened >= 2 * LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _open(self) -> socket.socket:
        sock = _connect(self._service)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(b"POST /embed HTTP/1.1\r\nHost: localhost\r\n")
        self.opened += 1
        return sock

    def _run(self) -> None:
        sockets = [self._open() for _ in range(2 * LIMIT)]
        line = time.monotonic()
        while not self._over.wait(0.1):
            speak = time.monotonic() - line >= 1
            line = time.monotonic() if speak else line
            for index, sock in enumerate(sockets):
                with contextlib.suppress(BlockingIOError):
                    try:
                        if speak:
                            sock.send(b"X-Line: one more\r\n")
                        while sock.recv(1000):
                            pass
                    except ConnectionError:
                        pass
                    sock.close()
                    self.closed += 1
                    sockets[index] = self._open()
        for sock in sockets:
            sock.close()


def test_a_header_line_a_second_on_twice_the_connection_limit_keeps_nobody_else_waiting(limited: Service) -> None:
    with _health_watched(limited), Drips(limited) as drips:
        began = time.monotonic()
        assert len(limited.embed("first")) == 1
        first = time.monotonic() - began
        # Long enough for every slow connection to be closed once: by the limit, or by the receive deadline.
        slowest = first
        ends = time.monotonic() + RECEIVE_TIMEOUT + SECOND
        while time.monotonic() < ends or drips.closed < 2 * LIMIT:
            for ask in (lambda: limited.embed("text"), lambda: limited.complete("Hello")):
                began = time.monotonic()
                assert ask()
                slowest = max(slowest, time.monotonic() - began)
        print(f"served beside {2 * LIMIT} slow connections: the first after {first:.2f} s, the slowest after "
              f"{slowest:.2f} s; {drips.closed} slow connections were closed")
        assert slowest <= RECEIVE_TIMEOUT + SECOND + ALLOWANCE
    until(lambda: limited.health()["status"] == "ok")
    assert limited.reports() == []


def test_a_slow_request_is_told_at_the_receive_deadline(limited: Service) -> None:
    with _connect(limited) as sock:
        began = time.monotonic()
        sock.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        took = time.monotonic() - began
    print(f"408 after {took:.2f} s (RECEIVE_TIMEOUT {RECEIVE_TIMEOUT:g} s)")
    assert b" 408 " in answer.split(b"\r\n")[0] and b'"code": "request_timeout"' in answer
    assert RECEIVE_TIMEOUT <= took <= RECEIVE_TIMEOUT + SECOND + ALLOWANCE


@pytest.mark.parametrize(("path", "body"), [
    ("/embed", '{"input": [' + ",".join(['"a text"'] * 1000) + "]}"),  # the answer has some 5 MB
    ("/gpt4all_api", '{"prompt": "long", "max_tokens": 100}'),
    ("/gpt4all_api", '{"prompt": "long", "max_tokens": 100, "stream": true}'),
], ids=["vectors", "completion", "stream"])
def test_readers_of_one_byte_a_second_hold_nobody_up(limited: Service, path: str, body: str) -> None:
    request = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
               f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_health_watched(limited))
        readers = [stack.enter_context(_connect(limited, receive_buffer=4096)) for _ in range(5)]
        for sock in readers:
            sock.sendall(request)
            assert sock.recv(1) == b"H"
        # Their answers are made and kept; the lanes are free, although hardly a byte has been taken.
        until(lambda: all(lane["active"] == lane["queue"] == 0 for lane in limited.health()["lanes"].values()))
        began = time.monotonic()
        for number in range(2):
            if number:
                time.sleep(1)  # what is asked of the readers is one byte a second
            assert all(len(sock.recv(1)) == 1 for sock in readers)
            assert len(limited.embed(["text"] * 50)) == 50
            assert limited.complete("Hello")["response"]
        print(f"others were served beside {len(readers)} such readers for {time.monotonic() - began:.1f} s")
        # Nothing is lost for whoever begins to read.
        answer = b"".join(iter(lambda: readers[0].recv(1 << 20), b""))
        assert answer.count(b'"object":"embedding"') == 1000 or answer.count(b"word ") == 40_000
    assert limited.reports() == []
