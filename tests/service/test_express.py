"""Requests that wait for a lane: no thread waits with them, and the promises are the same however they are read."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from processes import state
from service import Service, until

# Texts of one request whose answer is written by a thread.
MANY = 9
# More than these never serve requests (mayfly.http.server); without the twenty that wait.
THREADS = 8


PLAYED: list[dict[str, Any]] = [
    # Long enough that a starved machine sends the last ones while the first are computed.
    {"when": "alone", "seconds": 0.5}, {"when": "together", "seconds": 0.06},
    {"when": "two at once", "seconds": 0.2}, {"when": "neighbour", "seconds": 0.1}, {"when": "slow", "seconds": 2.0},
    {"when": "poison", "do": "crash"}, {"when": "once", "do": "crash", "times": 1}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose embedding model plays a script, and that has answered before."""
    folder = tmp_path_factory.mktemp("express")
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "EMBED_MODEL": scripts.write(folder, *PLAYED, kind="embedding"),
        "ALLOWED_ORIGINS": "https://town.example", "MODEL_ALIASES": "ada=embedding"})
    service.wait_ready()
    service.embed("first")  # it loads what the loop doesn't wait for
    yield service
    service.stop()


@pytest.fixture
def begin(start: Callable[..., Service], model_path: Path) -> Callable[..., Service]:
    """Start another one, with settings of the test's own."""
    return lambda **settings: start(EMBED_MODEL=scripts.write(model_path, *PLAYED, kind="embedding"),
                                    MODEL_NAME="none", **settings)


def threads(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.pid('app')}/task"))


def held(service: Service) -> int:
    lane = service.lane("embedding")
    return int(lane["queue"] + lane["active"])


def test_calls_that_wait_take_no_threads_whatever_their_size(service: Service) -> None:
    service.health()
    before = threads(service)
    for texts, what in ((1, "alone"), (MANY, "together")):
        with ThreadPoolExecutor(20) as pool:
            asked = [pool.submit(service.embed, [f"{what} {number}"] * texts) for number in range(20)]
            until(lambda: held(service) >= 16, what="calls that wait together")
            assert threads(service) <= before + THREADS
            answers = [answer.result() for answer in asked]
        assert [len(vectors) for vectors in answers] == [texts] * 20
        assert len({tuple(vectors[0]) for vectors in answers}) == 20
    assert until(lambda: held(service) == 0, what="an empty lane")


def test_an_answer_is_that_of_the_application(service: Service) -> None:
    printed = len(service.lines)
    for path, body in (("/embed", {"input": "two words"}),
                       ("/embed", {"input": ["a", "b"], "encoding_format": "base64"}),
                       ("/v1/embeddings", {"input": "two words", "model": "ada", "dimensions": 384}),
                       ("/v1/embeddings", {"input": "two words", "dimensions": 7}),
                       ("/v1/embeddings", {"input": "two words", "model": "nobody"}),
                       ("/embed", {"input": 5})):
        def asked(kind: str, path: str = path, body: dict[str, Any] = body) -> requests.Response:
            return service.post(path, None, data=requests.models.complexjson.dumps(body), headers={
                "Content-Type": kind, "Origin": "https://town.example", "X-Request-Id": "mine"})

        # A character set that nobody asks for is left to the application.
        express, threaded = asked("application/json"), asked("application/json; charset=us-ascii")
        assert express.status_code == threaded.status_code
        assert express.json() == threaded.json()
        names = ("Content-Type", "X-Request-Id", "Access-Control-Allow-Origin", "Vary", "Server", "Content-Length")
        assert [express.headers.get(name) for name in names] == [threaded.headers.get(name) for name in names]
        assert express.headers["X-Request-Id"] == "mine"
        assert express.headers["Access-Control-Allow-Origin"] == "https://town.example"
    until(lambda: len([line for line in service.lines[printed:] if '"POST /v1/embeddings HTTP/1.1" 200' in line]) == 2,
          what="a line of each")


def test_a_stranger_is_refused(begin: Callable[..., Service]) -> None:
    service = begin(API_KEYS="sk-a-key-for-tests", REQUIRE_KEY="always")
    body = {"input": "two words"}
    assert service.post("/embed", body).status_code == 401
    assert service.post("/embed", body, headers={"Authorization": "Bearer sk-another"}).status_code == 401
    assert service.post("/embed", body, headers={"Authorization": "Bearer sk-a-key-for-tests"}).status_code == 200


def test_two_requests_in_one_piece_are_answered_in_their_order(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")

    def request(name: str, text: str, end: str = "") -> bytes:
        body = f'{{"input": "{text}"}}'
        return (f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: {name}\r\n"
                f"{end}Content-Length: {len(body)}\r\n\r\n{body}").encode()

    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(request("first", "two at once") + request("next", "next", "Connection: close\r\n"))
        answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert 0 < answers.index(b"X-Request-Id: first") < answers.index(b"X-Request-Id: next")


def test_a_text_that_crashes_every_process_costs_two_of_them_and_is_answered_500(service: Service) -> None:
    retried, before = service.lane("embedding")["retried"], set(service.reports())

    def reports(least: int) -> set[Path]:
        return until(lambda: new if len(new := set(service.reports()) - before) >= least else set(), what="reports")

    answer = service.post("/embed", {"input": "drink this poison"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_crashed")
    assert len(reports(2)) == 2
    assert all(answer.headers["X-Request-Id"] in report.read_text() for report in reports(2))
    assert service.lane("embedding")["retried"] == retried + 1
    assert service.embed("this only once")
    assert service.lane("embedding")["retried"] == retried + 2
    assert len(reports(3)) == 3
    assert held(service) == 0


def test_the_neighbours_of_a_crash_are_answered(service: Service) -> None:
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(service.post, "/embed", {"input": f"neighbour {number}"}) for number in range(12)]
        until(lambda: held(service) >= 8, what="calls that wait together")
        bad = pool.submit(service.post, "/embed", {"input": "poison"})
        assert [answer.result().status_code for answer in asked] == [200] * 12
        assert bad.result().status_code == 500
    assert held(service) == 0


def test_a_process_that_died_while_nothing_was_asked_costs_no_try(service: Service) -> None:
    retried = service.lane("embedding")["retried"]
    service.embed("its connection is kept")
    pid = service.pid("embedding")
    os.kill(pid, signal.SIGKILL)
    # Not before the last of its threads has ended are its connections closed.
    until(lambda: not state(pid), what="its end, and the watchdog's look at it")
    assert service.embed("to the next process")
    assert service.lane("embedding")["retried"] == retried


def test_a_call_that_is_not_finished_in_time_is_answered_504(begin: Callable[..., Service]) -> None:
    service = begin(REQUEST_TIMEOUT=1)
    answer = service.post("/embed", {"input": "too slow"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_client_that_leaves_frees_its_place_and_is_logged(service: Service) -> None:
    printed = len(service.lines)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.embed, "slow")
        until(lambda: held(service) == 1, what="the slow call")
        with pytest.raises(requests.Timeout):
            service.post("/embed", {"input": "impatient"}, timeout=0.3)
        until(lambda: held(service) == 1 and '"POST /embed HTTP/1.1" 499' in "".join(service.lines[printed:]),
              what="a line of the client that left")
        assert not slow.done()
        assert slow.result()


def test_a_full_queue_is_told_and_its_calls_are_answered(begin: Callable[..., Service]) -> None:
    service = begin(QUEUE_LIMIT=1)
    with ThreadPoolExecutor(60) as pool:
        statuses = [answer.status_code for answer in pool.map(
            lambda number: service.post("/embed", {"input": f"together {number}"}), range(60))]
    assert set(statuses) == {200, 429}
    assert until(lambda: held(service) == 0, what="an empty lane")


def test_what_is_asked_before_the_stop_is_answered(begin: Callable[..., Service]) -> None:
    service = begin()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.post, "/embed", {"input": "slow"})
        until(lambda: held(service) == 1, what="the call")
        service.process.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200
        assert service.stop() == 0
