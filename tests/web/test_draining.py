"""Stopping: what is in flight gets its answer, what comes is told so, nothing is reset, and it ends in time."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from web_rig import FINISHED, HOLD, KEY, ScriptedLane, answers, eventually, http_post, one_answer, read_all, serving

from mayfly.app import create_app, site_of
from mayfly.compat.process import LINUX
from mayfly.draining import Draining
from mayfly.http.server import Server
from mayfly.listening import accept_no_newcomers
from mayfly.settings import parse
from mayfly.wire.calls import Piece

PROMPT = http_post("/gpt4all_api", b'{"prompt": "x"}')


def test_idle_server_stops_at_once() -> None:
    with serving(grace=30.0) as service:
        idle = service.kept_alive()
        untouched = service.connect()
        service.stop()
        assert service.stopped(within=10.0)
        # An orderly end, not a reset.
        assert read_all(idle) == b""
        assert read_all(untouched) == b""
        idle.close()
        untouched.close()


def test_a_lame_duck_is_not_ready_and_serves_what_comes_then_refuses_it() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, grace=30.0, LAME_DUCK_SECONDS="3") as service:
        kept = service.kept_alive()
        flying = service.connect()
        flying.sendall(PROMPT)
        eventually(lambda: chat.held == 1)
        service.stop()
        eventually(lambda: service.request("GET", "/ready")[0] == 503)
        assert json.loads(service.request("GET", "/health")[2])["status"] == "stopping"
        assert not service.server.draining.started, "the machine was too busy to look in time"
        # Whoever has a connection is served as well, and told that it is the last time.
        with kept:
            kept.sendall(http_post("/embed", b'{"input": "x"}'))
            answer = one_answer(read_all(kept))
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert service.post("/embed", {"input": "x"})[0] == 200
        eventually(lambda: service.server.draining.started)
        assert service.post("/embed", {"input": "x"})[0] == 503
        chat.release()
        assert one_answer(read_all(flying)).status == 200
        flying.close()


def test_requests_in_flight_finish_and_new_ones_get_503() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, grace=30.0) as service:
        flying = [service.connect() for _ in range(20)]
        for sock in flying:
            sock.sendall(PROMPT)
        eventually(lambda: chat.held == 20)
        kept = service.kept_alive()
        service.stop()
        eventually(lambda: service.server.draining.started)
        status, headers, answer = service.post("/embed", {"input": "x"})
        assert (status, answer["error"]["code"]) == (503, "model_unavailable")
        assert int(headers["Retry-After"]) >= 1
        assert headers["Connection"] == "close"
        assert json.loads(service.request("GET", "/health")[2])["status"] == "stopping"
        assert service.request("GET", "/ready")[0] == 503
        with kept:
            kept.sendall(http_post("/embed", b'{"input": "x"}'))
            assert one_answer(read_all(kept)).status == 503
        assert chat.held == 20
        chat.release()
        for sock in flying:
            with sock:
                answered = one_answer(read_all(sock))
                assert answered.status == 200
                assert answered.headers["connection"] == "close"
        assert service.stopped()


def test_calls_that_outlast_the_grace_get_503_and_the_server_ends() -> None:
    chat = ScriptedLane(items=[Piece("one"), HOLD, FINISHED])
    with serving(chat, grace=0.5) as service:
        streaming = service.connect()
        streaming.sendall(http_post("/gpt4all_api", b'{"prompt": "x", "stream": true}'))
        eventually(lambda: chat.held == 1)
        flying = [service.connect() for _ in range(40)]
        for sock in flying:
            sock.sendall(PROMPT)
        eventually(lambda: chat.held == 41)
        begun = time.monotonic()
        service.stop()
        assert service.stopped()
        # Not a matter of speed: a server that waited for its lane would be here for ever.
        assert time.monotonic() - begun < 10.0
        for sock in flying:
            with sock:
                answered = one_answer(read_all(sock))
                assert (answered.status, answered.error()["code"]) == (503, "model_unavailable")
                assert answered.headers["retry-after"]
        with streaming:
            body = one_answer(read_all(streaming)).body
        assert body.startswith(b'data: {"response": "one"}\n\n')
        assert json.loads(body.split(b"data: ")[-1])["error"]["code"] == "model_unavailable"


def test_connections_that_wait_in_the_kernel_are_answered() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, grace=30.0, CONNECTION_LIMIT="8") as service:
        clients = [service.connect() for _ in range(40)]
        for sock in clients:
            sock.sendall(PROMPT)
        # The server accepts nobody while all of its places, and the one beyond them, are being served.
        eventually(lambda: chat.held == 9)
        service.stop()
        eventually(lambda: service.server.draining.started)
        chat.release()
        statuses = []
        for sock in clients:
            with sock:
                statuses.append(one_answer(read_all(sock)).status)
        assert sorted(statuses) == [200] * 9 + [503] * 31
        assert service.stopped()


def test_request_that_is_still_arriving_gets_503() -> None:
    with serving(grace=30.0) as service:
        sock = service.connect()
        sock.sendall(PROMPT[:-5])
        eventually(lambda: any(c.request is not None for c in list(service.server.active_channels.values())))
        service.stop()
        with sock:
            assert one_answer(read_all(sock)).status == 503
        assert service.stopped(within=10.0)


def test_client_that_is_still_sending_when_the_server_ends_can_read_its_answer() -> None:
    part = b"a" * 10_000
    with serving(grace=30.0) as service:
        sock = service.connect()
        sock.sendall(http_post("/embed", part * 100)[:-len(part) * 99])
        eventually(lambda: any(c.request is not None for c in list(service.server.active_channels.values())))
        service.stop()
        eventually(lambda: service.server.draining.started)
        for _ in range(99):
            time.sleep(0.02)  # a slow line: longer than the server would wait for a silent client
            sock.sendall(part)
        with sock:
            assert one_answer(read_all(sock)).status == 503
        assert service.stopped(within=10.0)


@pytest.mark.skipif(not LINUX, reason="other systems have no such filter")
def test_nobody_can_connect_any_more_while_the_last_are_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        early = socket.create_connection(listener.getsockname(), timeout=120)
        accept_no_newcomers(listener)
        with socket.socket() as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with early, accepted:
            early.sendall(b"still")
            assert accepted.recv(10) == b"still"
            accepted.sendall(b"there")
            assert early.recv(10) == b"there"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    with serving(grace=0.5) as service:
        sock = service.connect(SO_RCVBUF=4096)
        sock.sendall(http_post("/embed", json.dumps({"input": ["x"] * 2048}).encode()))
        eventually(lambda: len(service.embed.calls) == 1)
        service.stop()
        assert service.stopped(within=10.0)
        sock.close()


def test_lane_that_ignores_the_end_does_not_hold_it_up() -> None:
    class Deaf(ScriptedLane):
        def _wait(self, watch: object) -> None:
            self.held += 1
            self._go.wait()

    chat = Deaf()
    chat.hold()
    with serving(chat, grace=0.2) as service:
        sock = service.connect()
        sock.sendall(PROMPT)
        eventually(lambda: chat.held == 1)
        service.stop()
        assert service.stopped(within=10.0)
        sock.close()


@pytest.mark.parametrize("clients", [8])
def test_nobody_is_reset_while_clients_keep_coming(clients: int) -> None:
    statuses: list[int] = []
    broken: list[str] = []
    over = threading.Event()

    with serving(grace=30.0) as service:
        def client(_: int) -> None:
            while not over.is_set():
                try:
                    with service.connect() as sock:
                        sock.sendall(http_post("/embed", b'{"input": "x"}', "Connection: close"))
                        data = read_all(sock)
                except ConnectionRefusedError:
                    return
                except OSError as exc:
                    # Elsewhere one may come in the moment in which the listening socket is closed.
                    if LINUX or not service.server._closed:
                        broken.append(repr(exc))
                    return
                if not data:
                    broken.append("no answer")
                statuses.extend(answer.status for answer in answers(data))

        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(client, n) for n in range(clients)]
            eventually(lambda: len(statuses) > 50)
            service.stop()
            assert service.stopped(within=20.0)
            over.set()
            for future in futures:
                future.result()
    assert not broken
    assert set(statuses) <= {200, 503}


def test_a_signals_handler_wakes_the_loop_in_whose_thread_it_runs() -> None:
    """What the loop itself has written needs no wake; the signal to stop comes while the loop waits."""
    settings = parse({"API_KEYS": KEY})
    lanes = {name: ScriptedLane(name) for name in ("embedding", "completion")}
    draining = Draining()
    server = Server(site_of(create_app(settings, lanes, draining)),
                    [socket.create_server(("127.0.0.1", 0))], settings, log_access=lambda line: None, draining=draining)
    woken: list[bool] = []

    def should_stop() -> bool:
        for wake in (server.pull_trigger, server.wake):
            wake()
            woken.append(bool(select.select([server.trigger.socket.fileno()], [], [], 0)[0]))
        return True

    server.run(lambda: None, should_stop)
    assert woken == [False, True]
