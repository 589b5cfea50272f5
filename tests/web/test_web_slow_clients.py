"""Clients that keep the service waiting: others are served all the same, and nobody waits for ever."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from web_rig import PATIENCE, ScriptedLane, Service, eventually, http_post, one_answer, read_all, serving

from mayfly.http.connection import State

LIMIT = 16


class Slowloris:
    """Connections that send a header line now and then, and a new connection for each that is closed."""

    def __init__(self, service: Service, count: int, interval: float) -> None:
        self._service, self._count, self._interval = service, count, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.closed = 0

    def __enter__(self) -> Slowloris:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _open(self) -> socket.socket:
        sock = self._service.connect()
        sock.sendall(b"POST /embed HTTP/1.1\r\n")
        sock.setblocking(False)
        return sock

    def _run(self) -> None:
        sockets = [self._open() for _ in range(self._count)]
        while not self._stop.wait(self._interval):
            for index, sock in enumerate(sockets):
                try:
                    sock.send(b"X: y\r\n")
                    if sock.recv(1000) is not None:
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    self.closed += 1
                    sock.close()
                    sockets[index] = self._open()
        for sock in sockets:
            sock.close()


def test_health_and_requests_are_served_beside_twice_the_limit_of_slow_senders() -> None:
    with serving(CONNECTION_LIMIT=str(LIMIT), RECEIVE_TIMEOUT="1") as service, \
            Slowloris(service, 2 * LIMIT, 0.02) as attack:
        eventually(lambda: attack.closed > LIMIT)
        for _ in range(20):
            assert service.healthy()
            assert service.post("/embed", {"input": "x"})[0] == 200
        assert len(service.server.active_channels) <= LIMIT + 1


def test_request_that_takes_too_long_to_arrive_is_408_and_logged() -> None:
    with serving(RECEIVE_TIMEOUT="0.5") as service, service.connect() as sock:
        sock.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\n")
        drip = threading.Event()

        def dripping() -> None:
            while not drip.wait(0.05):
                try:
                    sock.send(b"X: y\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=dripping)
        thread.start()
        answer = one_answer(read_all(sock))
        drip.set()
        thread.join(PATIENCE)
        assert (answer.status, answer.error()["code"]) == (408, "request_timeout")
        eventually(lambda: service.lines)
        assert '"-" 408 ' in service.lines[0]


def test_time_that_an_answer_takes_is_not_counted_against_the_next_request() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, RECEIVE_TIMEOUT="0.5") as service, service.connect() as sock:
        second = http_post("/embed", b'{"input": "x"}', "Connection: close")
        sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x"}') + second[:40])
        eventually(lambda: chat.held == 1)
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > 1.5)
        chat.release()
        sock.sendall(second[40:])
        data = read_all(sock)
        assert data.count(b"HTTP/1.1 200 OK") == 2


def test_idle_connections_give_way_first() -> None:
    with serving(CONNECTION_LIMIT="8", RECEIVE_TIMEOUT="20") as service:
        idle = service.kept_alive()
        senders = []
        for _ in range(7):
            senders.append(service.connect())
            senders[-1].sendall(b"POST /embed HTTP/1.1\r\n")
        eventually(lambda: len(service.server.active_channels) == 8)
        begun = [c.since for c in service.server.active_channels.values()]
        eventually(lambda: time.monotonic() - max(begun) > 0.2)
        assert service.healthy()
        assert read_all(idle) == b""
        # Then whoever has been sending for the longest, and that one is told.
        eventually(lambda: len(service.server.active_channels) == 7)
        fresh = service.connect()
        fresh.sendall(b"POST /embed HTTP/1.1\r\n")
        eventually(lambda: len(service.server.active_channels) == 8)
        assert service.healthy()
        answer = one_answer(read_all(senders[0]))
        assert (answer.status, answer.error()["code"]) == (503, "too_many_connections")
        assert not any(map(_closed, senders[1:]))
        for sock in [idle, fresh, *senders]:
            sock.close()


def _closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(65536) is not None
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_request_that_is_being_served_never_gives_way() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, CONNECTION_LIMIT="8") as service:
        served = [service.connect() for _ in range(8)]
        for sock in served:
            sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x"}', "Connection: close"))
        eventually(lambda: chat.held == 8)
        # There is always room for one more, so that /health answers.
        for _ in range(10):
            assert service.healthy()
        served.append(service.connect())
        served[-1].sendall(http_post("/gpt4all_api", b'{"prompt": "x"}', "Connection: close"))
        eventually(lambda: chat.held == 9)
        waiting = service.connect()
        waiting.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        assert chat.held == 9
        chat.release()
        waiting.settimeout(PATIENCE)
        with waiting:
            assert one_answer(read_all(waiting)).status == 200
        for sock in served:
            with sock:
                assert one_answer(read_all(sock)).status == 200


def slow_reader(service: Service) -> socket.socket:
    """Ask for a large answer and take a byte of it."""
    sock = service.connect(SO_RCVBUF=4096)
    sock.sendall(http_post("/embed", json.dumps({"input": ["x"] * 2048}).encode()))
    assert sock.recv(1) == b"H"
    return sock


def test_slow_reader_holds_no_thread_and_its_answer_is_whole() -> None:
    with serving(QUEUE_LIMIT="0", CONNECTION_LIMIT="64") as service:
        # More of them than there are threads.
        readers = [slow_reader(service) for _ in range(16)]
        eventually(lambda: len(service.embed.calls) == 16)
        assert service.healthy()
        assert service.post("/embed", {"input": "x"})[0] == 200
        for _ in range(20):
            for sock in readers:
                assert len(sock.recv(1)) == 1
        assert service.healthy()
        with readers[0] as sock:
            data = bytearray(sock.recv(1 << 20))
            while b'"usage"' not in data[-200:]:
                data += sock.recv(1 << 20)
        assert data.endswith(b"}}")
        for sock in readers[1:]:
            sock.close()
        eventually(lambda: len(service.server.active_channels) == 0)


def test_slow_reader_gives_way_under_pressure() -> None:
    with serving(CONNECTION_LIMIT="8", MAX_TEXTS="2048") as service:
        readers = [slow_reader(service) for _ in range(8)]
        first, *others = list(service.server.active_channels.values())
        eventually(lambda: all(c.state is State.SENDING for c in [first, *others]))
        assert service.healthy()
        assert not first.connected
        assert all(c.connected for c in others)
        for sock in readers:
            sock.close()


def test_descriptors_do_not_grow() -> None:
    import os

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")
    with serving(CONNECTION_LIMIT="64") as service:
        def used() -> int:
            return len(os.listdir("/proc/self/fd"))

        def round_of_requests() -> None:
            for _ in range(10):
                service.post("/embed", {"input": "x"})
                service.raw(b"nonsense\r\n\r\n")
                service.connect().close()
            slow_reader(service).close()
            eventually(lambda: not service.server.active_channels)

        round_of_requests()
        before = used()
        for _ in range(10):
            round_of_requests()
        assert used() <= before + 2


def test_answers_beyond_the_memory_for_them_go_to_disk_or_stay_if_there_is_none(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mayfly.http.connection._IN_MEMORY", 1000)
    for folder in (str(tmp_path), "/nowhere/at/all"):
        monkeypatch.setattr("tempfile.tempdir", folder)
        with serving() as service:
            sock = slow_reader(service)
            connection = _only(service)
            eventually(lambda connection=connection: connection.state is State.SENDING)
            kinds = {type(getattr(buffer, "file", None)).__name__ for buffer in connection.outbufs}
            assert ("FileIO" if folder == str(tmp_path) else "BytesIO") in kinds
            with sock:
                data = bytearray(sock.recv(1 << 20))
                while b'"usage"' not in data[-200:]:
                    data += sock.recv(1 << 20)
            assert len(json.loads(data.partition(b"\r\n\r\n")[2])["data"]) == 2048


def _only(service: Service) -> Any:
    (connection,) = service.server.active_channels.values()
    return connection


def test_client_that_leaves_behind_a_pipelined_queue_is_noticed() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat) as service, service.connect() as sock:
        # The third request stays unread in the kernel, and the end of the connection behind it.
        sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x"}') * 3)
        eventually(lambda: chat.held == 1)
        sock.close()
        eventually(lambda: chat.left >= 1)
