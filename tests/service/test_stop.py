"""Stopping under load: what is in flight finishes or is told, nothing is reset, and the end comes in time."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import scripts
from processes import runs
from service import Service, until

GRACE = 10.0
# What a busy machine may need beyond the second that the service has after its grace.
ALLOWANCE = 5.0
AT_ONCE = 20
STOPS = 2


def _ask(service: Service, prompt: str, *, stream: bool) -> tuple[str, float]:
    """Ask for a completion; return what became of it ("200", "503", "stream", "stream ended by an error") and when.

    Anything that isn't a complete HTTP answer in JSON or a complete event stream raises.
    """
    connection = http.client.HTTPConnection("127.0.0.1", int(service.url.rpartition(":")[2]), timeout=90)
    body = json.dumps({"prompt": prompt, "max_tokens": 500, "stream": stream})
    connection.request("POST", "/gpt4all_api", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    now = time.monotonic()
    connection.close()
    if answer.status == 200 and stream:
        *events, last = [event for event in content.decode("ascii").split("\n\n") if event]
        if last == "data: [DONE]":
            assert "".join(_data(event)["response"] for event in events) == scripts.counted()
            return "stream", now
        assert _data(last)["error"]["code"] == "model_unavailable", last
        return "stream ended by an error", now
    parsed = json.loads(content)
    if answer.status == 200:
        assert parsed["response"] == scripts.counted()
    else:
        assert parsed["error"]["code"] == "model_unavailable", content
        assert int(answer.headers["Retry-After"]) >= 1
    return str(answer.status), now


def _data(event: str) -> dict[str, Any]:
    return dict(json.loads(event.removeprefix("data: ")))


def test_twenty_in_flight_and_twenty_queued_are_all_answered_and_the_end_comes_in_time(
        start: Callable[..., Service], model_path: Path) -> None:
    quick, slow = 3.0, 120.0
    model = scripts.write(model_path, scripts.slowly("quick", quick), scripts.slowly("slow", slow))
    service = start(MODEL_NAME=model, CHAT_PROCESSES=AT_ONCE, EMBED_MODEL=_embeddings(model_path))
    with ThreadPoolExecutor(2 * AT_ONCE + 1) as pool:
        # Half of those in flight finish within the grace; the places they leave go to the queued ones.
        flying = [pool.submit(_ask, service, "quick" if number % 2 else "slow", stream=number % 4 < 2)
                  for number in range(AT_ONCE)]
        until(lambda: service.lane("completion")["active"] == AT_ONCE, what="all in flight")
        queued = [pool.submit(_ask, service, "quick" if number % 2 else "slow", stream=number % 4 < 2)
                  for number in range(AT_ONCE)]
        until(lambda: service.lane("completion")["queue"] == AT_ONCE, what="all queued")
        family = service.family()
        service.process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        late = until(lambda: _late(service), what="a new request to be refused")
        code = service.process.wait(60)
        took = time.monotonic() - asked
        outcomes = [entry.result() for entry in [*flying, *queued]]
    in_flight = Counter(what for what, _ in outcomes[:AT_ONCE])
    waiting = Counter(what for what, _ in outcomes[AT_ONCE:])
    print(f"in flight: {dict(in_flight)}; queued: {dict(waiting)}; exit code {code} after {took:.2f} s")
    assert late == 503
    assert in_flight == {"200": 5, "stream": 5, "503": 5, "stream ended by an error": 5}
    # Those of the queue that were served early enough finished; the rest was told.
    assert sum(waiting.values()) == AT_ONCE and waiting["503"] >= 5
    assert set(waiting) <= {"200", "stream", "503", "stream ended by an error"}
    assert code == 0
    assert max(when for _, when in outcomes) - asked <= GRACE + 1 + ALLOWANCE
    assert took <= GRACE + 1 + ALLOWANCE
    assert [pid for pid in family if runs(pid)] == []
    assert [path.name for path in service.run_folder.iterdir()] == ["watchdog.lock"]
    assert service.reports() == []


def _late(service: Service) -> int:
    """Send a request after the signal; return its status, or 0 while the service doesn't know of the signal yet."""
    answer = requests.post(service.url + "/embed", json={"input": "a"}, timeout=120)
    assert answer.json()
    return answer.status_code if answer.status_code != 200 else 0


def _embeddings(folder: Path) -> str:
    return scripts.write(folder, name="vectors", kind="embedding")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_idle_service_ends_at_once(start: Callable[..., Service], number: signal.Signals) -> None:
    service = start(MODEL_NAME="none")
    connection = http.client.HTTPConnection("127.0.0.1", int(service.url.rpartition(":")[2]), timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    asked = time.monotonic()
    service.process.send_signal(number)
    assert service.process.wait(120) == 0
    took = time.monotonic() - asked
    print(f"{number.name}: ended after {took:.2f} s")
    assert connection.sock.recv(10) == b""  # an orderly end, not a reset
    connection.close()
    assert took < GRACE
    assert service.lines[-1].endswith(" stopped")


def test_a_second_signal_ends_everything_now(start: Callable[..., Service], model_path: Path) -> None:
    model = scripts.write(model_path, {"when": "", "do": "hang"})
    service = start(MODEL_NAME=model, EMBED_MODEL=_embeddings(model_path))
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(requests.post, service.url + "/gpt4all_api", json={"prompt": "a"}, timeout=60)
        until(lambda: service.lane("completion")["active"] == 1)
        family = service.family()
        service.process.send_signal(signal.SIGTERM)
        service.printed("stopping")
        asked = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(120) == 0
        took = time.monotonic() - asked
        print(f"ended {took:.2f} s after the second signal")
        assert took < GRACE - 2
        assert isinstance(hanging.exception(60), requests.RequestException)
    assert [pid for pid in family if runs(pid)] == []
    assert [path.name for path in service.run_folder.iterdir()] == ["watchdog.lock"]


class _Caller:
    """A client that asks for vectors as fast as it can until the service is gone, and notes what became of each try."""

    def __init__(self, address: tuple[str, int], *, keeps: bool) -> None:
        self._address = address
        self._keeps = keeps
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        connection: socket.socket | None = None
        while True:
            if connection is None:
                try:
                    connection = socket.create_connection(self._address, timeout=120)
                except ConnectionRefusedError:
                    return
                except OSError as exc:
                    self.outcomes[f"not connected: {exc!r}"] += 1
                    return
            try:
                connection.sendall(_post(self._keeps))
                status, goes_on = _one_answer(connection)
                self.outcomes[status] += 1
            except OSError as exc:
                self.outcomes[repr(exc)] += 1
                goes_on = False
            if not goes_on:
                connection.close()
                connection = None


def _addresses(service: Service) -> list[tuple[str, int]]:
    """Return where a service listens."""
    urls = service.printed(r"listening on (http.*)")[1].split(" and ")
    return [(str(parts.hostname), int(parts.port or 0)) for parts in map(urlsplit, urls)]


def _post(keep: bool) -> bytes:
    body = b'{"input": "a"}'
    return (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
            % (len(body), b"" if keep else b"Connection: close\r\n")) + body


def _one_answer(connection: socket.socket) -> tuple[str, bool]:
    """Read an answer; return its status, or what is wrong with it, and whether the connection goes on."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    content = answer.read()
    if answer.status == 503 and json.loads(content)["error"]["code"] != "model_unavailable":
        return content.decode(), False
    return str(answer.status), not answer.will_close


@pytest.mark.parametrize("busy", [True, False], ids=["with a call in flight", "with nothing else to do"])
def test_whoever_calls_while_the_service_stops_is_served_or_told(
        start: Callable[..., Service], model_path: Path, busy: bool) -> None:
    model = scripts.write(model_path, scripts.slowly("", 0.5))
    outcomes: Counter[str] = Counter()
    for stop in range(STOPS):
        service = start(folder=f"service {stop}", MODEL_NAME=model, EMBED_MODEL=_embeddings(model_path))
        addresses = _addresses(service)
        callers = [_Caller(addresses[number % len(addresses)], keeps=number % 4 < 2) for number in range(8)]
        with ThreadPoolExecutor(len(callers) + 1) as pool:
            running = [pool.submit(caller.run) for caller in callers]
            until(lambda callers=callers: all(caller.outcomes["200"] > 20 for caller in callers), what="all served")
            flying = pool.submit(_ask, service, "slow", stream=False) if busy else None
            until(lambda service=service: service.lane("completion")["active"] == busy, what="what is in flight")
            service.process.send_signal(signal.SIGTERM)
            for entry in running:
                entry.result()
            assert flying is None or flying.result()[0] == "200"
        assert service.process.wait(120) == 0
        outcomes += sum((caller.outcomes for caller in callers), Counter())
    print(dict(outcomes))
    assert set(outcomes) == {"200", "503"}


def test_whoever_waits_for_a_web_process_that_died_is_told_that_the_service_stops(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME="none", EMBED_MODEL=_embeddings(model_path))
    (address, *_), app = _addresses(service), service.pid("app")
    os.kill(app, signal.SIGKILL)
    until(lambda: not runs(app), what="its end")
    waiting = [socket.create_connection(address, timeout=120) for _ in range(20)]
    for connection in waiting:
        connection.sendall(_post(False))
    service.process.send_signal(signal.SIGTERM)
    for connection in waiting:
        with connection:
            assert _one_answer(connection)[0] in ("200", "503")
    assert service.process.wait(120) == 0
