"""Processes that stop moving are killed, reported and replaced; whoever waited for them gets an answer."""

from __future__ import annotations

import math
import operator
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import scripts
from processes import busy, runs
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL="none")

HANG_SECONDS = 2.0
# What a hung process may still be there after HANG_SECONDS: it is asked for its stacks first.
REPORTED_WITHIN = HANG_SECONDS + 2.0
# For a machine that is busy otherwise.
ALLOWANCE = 2.0

MANY = 400  # texts, so that the worker is busy for a while


def test_a_stopped_generation_is_killed_and_its_request_answered_by_the_next(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS, MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 1.0)))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.complete, "slow", max_tokens=100)
        (serving,) = until(lambda: busy(service), what="a generation that serves")
        _stop_and_time(service, serving.pid)
        answer = asked.result()
    assert answer["response"] == scripts.counted()
    assert f"completion-{answer['generation']}" != serving.name
    report = _only_report(service)
    assert report.startswith(f"{serving.name} stopped beating and was killed")
    assert f"request:         {serving.request}" in report
    _hung_once(service, "completion", retried=1)
    assert service.complete("quick")["response"] == "Hello there."


def test_a_real_generation_that_is_stopped_twice_is_answered_500_and_the_next_request_is_served(
        start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.post, "/gpt4all_api", {"prompt": "Hello", "max_tokens": 1900})
        for _ in range(2):
            (serving,) = until(lambda: busy(service), what="a generation that serves")
            os.kill(serving.pid, signal.SIGSTOP)
            until(lambda pid=serving.pid: not runs(pid), what="it killed")
        answer = asked.result()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "model_crashed"
    assert until(lambda: service.lane("completion")["restarts"]["hung"] == 2, what="both counted")
    assert service.complete("Hello")["response"]


def test_a_stopped_generation_that_only_waits_is_replaced(start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS)
    (name,) = until(lambda: [name for name in service.sentinels() if name.startswith("completion-")],
                    what="one that waits")
    pid = service.pid(name.removesuffix(".watchdog"))
    os.kill(pid, signal.SIGSTOP)
    # It may be handed this request before anybody can know that it hangs.
    assert service.complete("Hello")["response"]
    until(lambda: not runs(pid), what="it killed")
    _hung_once(service, "completion")
    assert service.complete("Hello")["response"]


@pytest.mark.settings(EMBED_MODEL=None)  # the real one
def test_a_stopped_embed_worker_is_replaced_and_the_vectors_come(start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS)
    (right,) = service.embed("The cat sat on the mat.")
    worker = service.pid("embedding")
    with ThreadPoolExecutor(2) as pool:
        # The same tokens each, but not the same text, which would be computed once.
        many = pool.submit(service.embed, ["The cat sat on the mat." + " " * number for number in range(MANY)])
        until(lambda: service.sentinel("embedding").get("request", {}).get("texts") == MANY, what="the worker busy")
        _stop_and_time(service, worker)
        # The other lane goes on.
        assert service.complete("Hello")["response"]
        queued = pool.submit(service.embed, "The cat sat on the mat.")
        vectors = many.result() + queued.result()
    assert len(vectors) == MANY + 1
    assert min(math.fsum(map(operator.mul, vector, right)) for vector in vectors) > 0.99999
    assert service.pid("embedding") != worker
    assert _only_report(service).startswith("embedding stopped beating and was killed")
    _hung_once(service, "embedding", retried=1)


def test_a_stopped_template_is_replaced_and_requests_wait_for_the_next(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS, MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 0.6)))
    template = service.pid("completion")
    with ThreadPoolExecutor(2) as pool:
        served: Future[dict[str, object]] = pool.submit(service.complete, "slow", max_tokens=100)
        (serving,) = until(lambda: busy(service), what="a generation that serves")
        os.kill(template, signal.SIGSTOP)
        # A generation doesn't need its template to finish what it serves.
        assert f"completion-{served.result()['generation']}" == serving.name
        waiting = pool.submit(service.complete, "quick")
        until(lambda: not runs(template), what="the template killed")
        assert waiting.result()["response"] == "Hello there."
    assert service.pid("completion") != template
    assert _only_report(service).startswith("completion stopped beating and was killed")
    _hung_once(service, "completion")


@pytest.mark.settings(EMBED_MODEL=scripts.VECTORS, MODEL_NAME="none")
def test_a_stopped_web_process_is_replaced_and_connections_wait(start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS)
    app = service.pid("app")
    os.kill(app, signal.SIGSTOP)
    # The kernel takes this connection; the next web process answers it.
    assert len(service.embed("The cat sat on the mat.")) == 1
    assert not runs(app)
    assert _only_report(service).startswith("app stopped beating and was killed")


def test_a_call_that_never_returns_is_ended_and_its_stacks_are_in_the_report(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(HANG_SECONDS=HANG_SECONDS, MODEL_NAME=scripts.write(
        model_path, {"when": "endless", "do": "hang", "after": 2, "times": 1}))
    assert service.complete("endless loop")["response"] == "Hello there."
    report = _only_report(service)
    assert "killed by SIGABRT" in report
    assert "in _hang" in report
    assert "endless" not in report
    _hung_once(service, "completion", retried=1)


def _stop_and_time(service: Service, pid: int) -> None:
    """Stop a process and wait for the report of its end."""
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    until(service.reports, within=REPORTED_WITHIN + ALLOWANCE, what="a report")
    print(f"reported {time.monotonic() - stopped:.2f} s after it was stopped (HANG_SECONDS={HANG_SECONDS:g})")
    assert not runs(pid)


def _only_report(service: Service) -> str:
    """Return the text of the one report that there is."""
    (report,) = until(service.reports, what="a report")
    return report.read_text()


def _hung_once(service: Service, name: str, retried: int | None = None) -> None:
    until(lambda: service.lane(name)["restarts"]["hung"] == 1, what="the hang counted")
    lane = service.lane(name)
    assert (lane["restarts"]["crashed"], lane["restarts"]["failed_start"]) == (0, 0)
    assert lane["last_failure"]["cause"] == "hung"
    assert retried in (None, lane["retried"])
