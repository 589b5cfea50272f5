"""Ordinary long texts, which neither end a worker nor keep others waiting."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import tiny_llama
from service import Service

RUNS = {"letters": "a", "line breaks": "\n", "blanks": " ", "signs": "=", "Chinese": "修", "words": "the of and "}
# More than enough to end a process whose tokenizer recurses.
LONG = 27_000
WINDOW = 2048


@pytest.fixture(scope="module", params=["qwen2", ""], ids=["qwen2", "SentencePiece"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose vocabulary has tokens for several of a letter, as real ones have."""
    folder: Path = tmp_path_factory.mktemp("models")
    joins = [("a" * n, "a" * n) for n in (1, 2, 4)] + [("=" * n, "=" * n) for n in (1, 2, 4, 8, 16)]
    model = tiny_llama.make(folder / "tiny.gguf", pre=request.param, joins=joins)
    service = Service(tmp_path_factory.mktemp("service"), {
        "MODEL_PATH": folder, "MODEL_NAME": model.name, "EMBED_MODEL": "none"})
    service.wait_ready()
    yield service
    restarts = {name: lane.get("restarts", {}) for name, lane in service.health()["lanes"].items()}
    service.stop()
    assert not any(lane.get(cause) for lane in restarts.values() for cause in ("crashed", "hung")), restarts
    assert service.reports() == []


def ask(service: Service, prompt: str, **fields: Any) -> requests.Response:
    return service.post("/v1/completions", {"prompt": prompt, "max_tokens": 1, **fields})


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_long_run_is_counted_and_as_a_prompt_answered_or_refused(service: Service, run: str) -> None:
    text = "x = " + run * LONG
    answer = service.post("/v1/tokenize", {"input": text})
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    count = entry["count"]
    assert len(entry["tokens"]) == count
    checked = service.post("/api/v1/token_check", {"prompts": [{"model": "tiny", "prompt": text, "max_tokens": 1}]})
    assert checked.json()["prompts"] == [{"fits": count < WINDOW, "tokenCount": count, "contextLength": WINDOW}]
    conversation = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    for response in (ask(service, text), service.post("/v1/chat/completions", conversation)):
        if count < WINDOW:
            assert response.status_code == 200, response.text
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_long_run_that_fits_is_answered(service: Service) -> None:
    text = "=" * LONG
    count = service.post("/v1/tokenize", {"input": text}).json()["data"][0]["count"]
    assert count < 2_000
    answer = ask(service, text)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] == count


def test_a_prompt_of_a_million_bytes_is_refused_with_both_numbers(service: Service) -> None:
    for text in ("修" * 330_000, "a" * 1_000_000, "the " * 250_000):
        error = ask(service, text).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "at least" in error["message"] and "holds 2048" in error["message"]
    assert ask(service, "the light").status_code == 200


def test_one_word_is_counted_while_megabytes_are(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(service.post, "/v1/tokenize", {"input": "a" * 4_000_000})
        beside = 0
        while not long.done():
            answer = service.post("/v1/tokenize", {"input": "light"})
            assert answer.json()["data"][0]["count"] >= 1
            beside += not long.done()
        (entry,) = long.result().json()["data"]
    assert len(entry["tokens"]) == entry["count"] >= 500_000
    assert beside > 2
