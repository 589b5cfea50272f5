"""Limits of the running service: a full queue is 429, a passed deadline 504, and both cost the others nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import scripts
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

ASK = "/gpt4all_api"


def test_a_full_queue_is_a_429_that_says_when_to_come_back_and_the_other_lane_goes_on(
        start: Callable[..., Service], model_path: Path) -> None:
    model = scripts.write(model_path, scripts.slowly("slow", 120, pieces=1200), {"when": "", "pieces": ["quick"]})
    service = start(MODEL_NAME=model, QUEUE_LIMIT=2)
    leave = threading.Event()

    def ask(prompt: str) -> None:
        stream = service.stream(prompt, max_tokens=1500)
        next(stream)
        leave.wait(60)
        stream.close()

    with ThreadPoolExecutor(3) as pool:
        try:
            first = pool.submit(ask, "slow")
            until(lambda: service.lane("completion")["active"] == 1)
            queued = [pool.submit(service.complete, "quick") for _ in range(2)]
            until(lambda: service.lane("completion")["queue"] == 2)
            for stream in (False, True):
                answer = service.post(ASK, {"prompt": "quick", "stream": stream})
                error = answer.json()["error"]
                assert (answer.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
                assert int(answer.headers["Retry-After"]) >= 1
                assert "QUEUE_LIMIT" in error["message"]
            assert len(service.embed("a")) == 1
            assert service.session.get(service.url + "/ready").status_code == 200
        finally:
            leave.set()
        first.result()
        # Those who waited are served as soon as the first has gone.
        assert [entry.result()["response"] for entry in queued] == ["quick", "quick"]
    assert service.complete("quick")["response"] == "quick"


def test_a_passed_deadline_is_a_504_and_the_generation_is_cancelled(
        start: Callable[..., Service], model_path: Path) -> None:
    model = scripts.write(model_path, scripts.slowly("slow", 120, pieces=1200), {"when": "", "pieces": ["quick"]})
    service = start(MODEL_NAME=model, EMBED_MODEL="none", REQUEST_TIMEOUT=5)
    # So long that the first call is seen at work, and the second one waits, on a machine that is busy otherwise too.
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(service.post, ASK, {"prompt": "slow", "max_tokens": 1500})
        until(lambda: service.lane("completion")["active"] == 1)
        waiting = pool.submit(service.post, ASK, {"prompt": "slow, too", "max_tokens": 1500})
        for answer, said in ((running.result(), "Ask for less"), (waiting.result(), "deadline")):
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["code"]) == (504, "server_error", "timeout")
            assert said in error["message"] and "or raise REQUEST_TIMEOUT" in error["message"]
    print(f"both were told {time.monotonic() - began:.2f} s after the first one began (REQUEST_TIMEOUT 5 s)")
    assert time.monotonic() - began >= 5
    spent = service.printed(r"generation 1 spent after ([\d.]+) s, (\d+) tokens \((cancelled|refused)\)")
    assert int(spent[2]) < 600
    assert service.complete("quick")["response"] == "quick"
    assert service.reports() == []


def test_a_stream_whose_deadline_passes_ends_with_that_error(start: Callable[..., Service], model_path: Path) -> None:
    model = scripts.write(model_path, scripts.slowly("", 120, pieces=1200))
    service = start(MODEL_NAME=model, EMBED_MODEL="none", REQUEST_TIMEOUT=2)
    *pieces, last = list(service.stream("slow", max_tokens=1500))
    assert isinstance(last, dict) and last["error"]["code"] == "timeout"
    assert 0 < len(pieces) < 1200
    service.printed(r"generation 1 spent")


def test_embeddings_end_at_the_deadline_between_two_texts(start: Callable[..., Service], model_path: Path) -> None:
    vectors = scripts.write(model_path, {"when": "slow", "seconds": 0.2}, name="vectors", kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="none", REQUEST_TIMEOUT=1)
    pid = service.pid("embedding")
    answer = service.post("/embed", {"input": [f"slow {number}" for number in range(1000)]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert len(service.embed(["quick"] * 1000)) == 1000
    assert service.pid("embedding") == pid and service.reports() == []


def test_a_model_that_is_still_loading_is_waited_for_and_beyond_the_deadline_a_503(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME=scripts.write(model_path, load="hang"), REQUEST_TIMEOUT=1, START_SECONDS=600, wait=False)
    service.wait_listening()
    answer = service.post(ASK, {"prompt": "Hello"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "model_unavailable")
    assert "loading" in error["message"] and int(answer.headers["Retry-After"]) >= 1
    assert service.lane("completion")["state"] == "loading"
    assert len(service.embed("a")) == 1


def test_without_a_queue_only_as_many_are_taken_as_are_served_at_once(
        start: Callable[..., Service], model_path: Path) -> None:
    model = scripts.write(model_path, scripts.slowly("", 3))
    service = start(MODEL_NAME=model, EMBED_MODEL="none", QUEUE_LIMIT=0, CHAT_PROCESSES=2)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: requests.post(service.url + ASK, json={"prompt": "a"}, timeout=60), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
