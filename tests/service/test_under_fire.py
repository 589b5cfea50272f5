"""Processes are killed under load: nobody is refused, nobody gets anything but JSON, and vectors stay right."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import requests
from processes import busy, kill_while_busy, runs
from service import Service, until

T = TypeVar("T")

CLIENTS = 8
REQUESTS = 160
MOST_ASKED = 6 * REQUESTS
# Any model process is hit, and not only one that serves: so often, and more often until so many of them were hit while
# they loaded; and of what is asked meanwhile so much must get a 200.
KILLS = 40
MOST_KILLS = 4 * KILLS
KILLS_OF_LOADING = 5
STRUCK_SERVED = 7 / 8
TOKENS = 40
KILL_EVERY = 0.3

# The web process must be back within three seconds; the rest is for a machine that is busy otherwise.
BACK_WITHIN = 3.0
ALLOWANCE = 4.0

TEXTS = ["The cat sat on the mat.", "", "Ein Satz mit Umlauten: äöü.", "猫坐在垫子上。", "def f(x): return x + 1",
         "mayflies live for a day " * 8]


# -- the models' processes ------------------------------------------------------------------------------------


def test_clients_get_json_while_busy_processes_are_killed(start: Callable[..., Service]) -> None:
    service = start(LOG_KEEP=10_000)
    right = dict(zip(TEXTS, service.embed(TEXTS), strict=True))
    clients = [_Client(service, right, seed) for seed in range(CLIENTS)]
    killed: Counter[str] = Counter()
    retried: dict[str, int] = {}
    # Vectors are computed so fast that a process may have answered just before it is hit: then nothing is retried.
    asked = 0
    while not asked or (asked < MOST_ASKED and not all(retried.values())):
        asked += REQUESTS
        hit, answers = _ask_while_killing(clients, REQUESTS, lambda over: _kill_whoever_is_busy(service, over))
        killed += hit
        retried = {name: lane["retried"] for name, lane in service.health()["lanes"].items()}
        print(f"killed: {dict(killed)}; answers: {dict(answers)}; retried: {retried}")
    assert sum(answers.values()) == asked
    # Anything else than an answer is a request that was hit twice.
    assert {what for what in answers if "200" not in what} <= {"500 model_crashed", "stream broken off"}
    assert answers["200 vectors"] and answers["200 completion"] and answers["200 stream"]
    assert set(killed) == {"embedding", "completion"}
    assert all(retried.values())
    # Each kill is reported, unless the process had just finished the request when the signal arrived.
    reports = [report.read_text() for report in service.reports()]
    assert 0 < len(reports) <= sum(killed.values())
    assert [text for text in reports if "killed by SIGKILL" not in text] == []
    until(lambda: sum(lane["restarts"]["crashed"] for lane in service.health()["lanes"].values())
          == len(service.reports()), what="as many crashes counted as reported")
    service.wait_ready()
    assert service.embed(TEXTS) == [pytest.approx(vector, abs=1e-5) for vector in right.values()]
    assert service.complete("Hello")["response"]


@pytest.mark.parametrize("isolation", ["fork", "respawn"])
def test_killing_any_model_process_again_and_again_is_no_verdict_on_the_models(
        start: Callable[..., Service], isolation: str) -> None:
    service = start(ISOLATION=isolation)
    right = dict(zip(TEXTS, service.embed(TEXTS), strict=True))
    clients = [_Client(service, right, seed) for seed in range(CLIENTS)]
    # On a machine that is busy otherwise a start takes seconds: one that is hit before it can end teaches nothing.
    starts = [float(seconds) for seconds in
              re.findall(r"(?:embedding|completion).* ready after (\S+) s", service.output())]
    every = max(KILL_EVERY, sum(starts) / len(starts) / 3)
    over = threading.Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        asking = [pool.submit(client.keep_asking, over) for client in clients]
        try:
            killed, loading = _kill_anybody(service, every)
        finally:
            over.set()
        for ask in asking:
            ask.result()
    answers = sum((client.answers for client in clients), Counter())
    asked = sum(answers.values())
    served = sum(count for what, count in answers.items() if "200" in what)
    print(f"{isolation}: killed {killed}, one every {every:.2f} s, {loading} while they loaded; {served} of {asked} "
          f"served; {dict(answers)}")
    assert loading >= KILLS_OF_LOADING
    assert {what for what in answers if "200" not in what} <= {"500 model_crashed", "stream broken off"}
    assert served >= STRUCK_SERVED * asked
    # Nobody holds the models for damaged.
    assert all(lane["restarts"]["failed_start"] == 0 for lane in service.health()["lanes"].values())
    service.wait_ready()


def _ask_while_killing(clients: list[_Client], requests: int, kill: Callable[[threading.Event], T]
                       ) -> tuple[T, Counter[str]]:
    """Ask so many requests by all clients together while processes are killed, until the event is set; return what
    `kill` returns, and the answers."""
    over = threading.Event()
    with ThreadPoolExecutor(len(clients) + 1) as pool:
        killing = pool.submit(kill, over)
        asking = [pool.submit(client.ask, requests // len(clients) + (client.seed < requests % len(clients)))
                  for client in clients]
        try:
            for ask in asking:
                ask.result()
        finally:
            over.set()
        return killing.result(), sum((client.answers for client in clients), Counter())


class _Client:
    """Asks for vectors, completions and streams, and counts what it gets. Anything that isn't JSON fails the test."""

    def __init__(self, service: Service, right: dict[str, list[float]], seed: int) -> None:
        self.seed = seed
        self.answers: Counter[str] = Counter()
        self._service = service
        self._right = right
        self._random = random.Random(seed)
        self._session = requests.Session()
        self._session.trust_env = False

    def ask(self, times: int) -> None:
        """Ask so many times."""
        with self._session:
            for _ in range(times):
                self._ask_once()

    def keep_asking(self, over: threading.Event) -> None:
        """Ask until the event is set."""
        with self._session:
            while not over.is_set():
                self._ask_once()

    def _ask_once(self) -> None:
        kind = self._random.choice([self._vectors, self._completion, self._completion, self._stream])
        self.answers[kind()] += 1

    def _post(self, path: str, body: dict[str, Any]) -> requests.Response:
        return self._session.post(self._service.url + path, json=body, timeout=120)

    def _vectors(self) -> str:
        texts = self._random.choices(TEXTS, k=self._random.randint(1, 3))
        answer = self._post("/embed", {"input": texts})
        if answer.status_code != 200:
            return self._refused(answer)
        vectors = [entry["embedding"] for entry in answer.json()["data"]]
        assert len(vectors) == len(texts)
        for text, vector in zip(texts, vectors, strict=True):
            cosine = math.fsum(a * b for a, b in zip(vector, self._right[text], strict=True))
            assert cosine > 0.99999
        return "200 vectors"

    def _completion(self) -> str:
        answer = self._post("/gpt4all_api", {"prompt": "Tell me a story.", "max_tokens": TOKENS})
        if answer.status_code != 200:
            return self._refused(answer)
        assert answer.json()["usage"]["completion_tokens"] == TOKENS
        return "200 completion"

    def _stream(self) -> str:
        body = {"prompt": "Tell me a story.", "max_tokens": TOKENS, "stream": True}
        answer = self._post("/gpt4all_api", body)
        if answer.status_code != 200:
            return self._refused(answer)
        *_, last = answer.text.removesuffix("\n\n").split("\n\n")
        if last == "data: [DONE]":
            return "200 stream"
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_crashed"
        return "stream broken off"

    def _refused(self, answer: requests.Response) -> str:
        error = answer.json()["error"]
        assert "watchdog_error.log" in error["message"]
        return f"{answer.status_code} {error['code']}"


def _kill_whoever_is_busy(service: Service, over: threading.Event) -> Counter[str]:
    """Every 300 ms, send SIGKILL to a model process that is busy just then; return how many of each lane."""
    killed: Counter[str] = Counter()
    while not over.wait(KILL_EVERY):
        # If both lanes are busy, the one that was hit less often.
        for target in sorted(busy(service), key=lambda entry: killed[entry.lane]):
            if kill_while_busy(service, target):
                killed[target.lane] += 1
                break
    return killed


def _kill_anybody(service: Service, every: float) -> tuple[int, int]:
    """Every so many seconds, send SIGKILL to one of the model processes, whatever it does: load, wait, serve. Return
    how many were sent, and how many of them to one that was still loading."""
    killed, loading, chance = 0, 0, random.Random(7)
    while killed < KILLS or (loading < KILLS_OF_LOADING and killed < MOST_KILLS):
        time.sleep(every)
        app = service.sentinel("app").get("pid")
        models = [pid for pid in service.family() if pid != app and app is not None]
        # Who has loaded its model has a sentinel.
        loaded = {service.sentinel(name.removesuffix(".watchdog")).get("pid") for name in service.sentinels()}
        if models:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target := chance.choice(models), signal.SIGKILL)
                killed += 1
                loading += target not in loaded
    return killed, loading


# -- the web process ------------------------------------------------------------------------------------------


def test_connections_wait_while_a_killed_web_process_is_replaced(start: Callable[..., Service]) -> None:
    service = start()
    embedder, template = service.pid("embedding"), service.pid("completion")
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        visitors = [_Visitor(service, over) for _ in range(CLIENTS)]
        visits = [pool.submit(visitor.keep_visiting) for visitor in visitors]
        try:
            for _ in range(2):
                _kill_the_web_process(service, visitors)
        finally:
            over.set()
        for visit in visits:
            visit.result()
    broken = sum(visitor.broken for visitor in visitors)
    served = sum(len(visitor.served) for visitor in visitors)
    print(f"{served} requests served, {broken} in flight broken off, none refused")
    assert broken <= 2 * CLIENTS
    assert [report.name.split("_")[2].partition(".")[0] for report in service.reports()] == ["app", "app"]
    assert all("killed by SIGKILL" in report.read_text() for report in service.reports())
    # The models had no part in it.
    assert (service.pid("embedding"), service.pid("completion")) == (embedder, template)
    assert service.lane("embedding")["restarts"]["crashed"] == service.lane("completion")["restarts"]["crashed"] == 0


def _kill_the_web_process(service: Service, visitors: list[_Visitor]) -> None:
    until(lambda: all(visitor.served for visitor in visitors), what="load from every visitor")
    app = service.pid("app")
    os.kill(app, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: not runs(app), what="the web process dead")
    dead = time.monotonic()
    for visitor in visitors:
        visitor.must_succeed_from = dead

    def back() -> bool:
        return any(began >= dead for visitor in visitors for began in visitor.served[-1:])

    until(back, within=BACK_WITHIN + ALLOWANCE, what="an answer from the next web process")
    print(f"answered again {time.monotonic() - killed:.2f} s after the kill")
    # Everybody who came meanwhile has waited and is served.
    until(lambda: all(visitor.served[-1] >= dead for visitor in visitors), what="an answer for every visitor")
    for visitor in visitors:
        visitor.must_succeed_from = math.inf
        visitor.served.clear()


class _Visitor:
    """Opens a connection for each request, until told to stop. What breaks before `must_succeed_from` was in flight
    when the web process died; a refused connection is never right."""

    def __init__(self, service: Service, over: threading.Event) -> None:
        self.served: list[float] = []
        self.broken = 0
        self.must_succeed_from = math.inf
        self._service = service
        self._over = over

    def keep_visiting(self) -> None:
        """Ask until told to stop."""
        while not self._over.is_set():
            began = time.monotonic()
            try:
                answer = self._service.post("/embed", {"input": "The cat sat on the mat."}, timeout=60)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as exc:
                if "refused" in str(exc) or began >= self.must_succeed_from:
                    raise
                self.broken += 1
            else:
                assert answer.status_code == 200, answer.text
                self.served.append(began)
