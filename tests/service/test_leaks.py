"""Nothing piles up: no zombies, descriptors or memory, and no work for a client that has left."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import scripts
import tiny_llama
from processes import anonymous_memory, busy, descriptors, resident_memory, state
from service import Service, until

from mayfly.engines import backends

WARM_UP = 60
COMPLETIONS = 500
MEGABYTE = 1 << 20
# What an interpreter's allocator may still take for good after the warm-up; 500 leaked answers of 5 kB would show.
MOST_GROWTH = 2 * MEGABYTE

# A client's leaving must end its completion within a second; the rest is for a machine that is busy otherwise.
CONTEXT = 8192
WANTED = 1900
STOPS_WITHIN = 1.0
ALLOWANCE = 1.5


def test_500_completions_say_the_same_and_leave_no_zombie_and_take_no_memory_or_descriptors(
        start: Callable[..., Service]) -> None:
    service = start(DEBUG="true")  # else only root may count descriptors
    assert service.lane("completion")["engine"] == ("llamacpp" if backends.LlamaCpp().installed() else "gpt4all")
    who = {"watchdog": service.process.pid, "app": service.pid("app"), "template": service.pid("completion"),
           "embedding": service.pid("embedding")}
    asked = 0
    said: set[str] = set()
    generations: set[int] = set()

    def ask(until_asked: int) -> None:
        nonlocal asked
        while asked < until_asked:
            answer = service.complete("Hello", max_tokens=4, temperature=0)
            said.add(answer["response"])
            generations.add(answer["generation"])
            if asked % 10 == 0:
                body = {"input": f"Hello {asked}"}
                assert service.session.post(service.url + "/embed", json=body, timeout=60).status_code == 200
            asked += 1
        until(lambda: service.lane("completion")["restarts"]["spent"] == asked, what=f"{asked} spent")
        # One generation waits; all others are gone, and reaped.
        until(lambda: len(service.family()) == 4, what="app, embed, template and one generation")

    ask(WARM_UP)
    before = {name: _measured(pid) for name, pid in who.items()}
    ask(COMPLETIONS)
    after = {name: _measured(pid) for name, pid in who.items()}
    for name in who:
        print(f"{name:9} after {WARM_UP}: {_shown(before[name])}   after {COMPLETIONS}: {_shown(after[name])}")
    assert len(said) == 1 and len(generations) == COMPLETIONS
    assert [pid for pid in service.family() if state(pid) == "Z"] == []
    assert service.health()["lanes"]["completion"]["restarts"]["crashed"] == 0
    for name in who:
        assert after[name][0] <= before[name][0] + 2, f"descriptors of {name}"
        assert after[name][1] <= before[name][1] + MOST_GROWTH, f"memory of {name}"


def _measured(pid: int) -> tuple[int, int, int]:
    return descriptors(pid), anonymous_memory(pid), resident_memory(pid)


def _shown(measured: tuple[int, int, int]) -> str:
    return (f"{measured[0]:3} descriptors, {measured[1] / MEGABYTE:6.2f} MB of its own,"
            f"{measured[2] / MEGABYTE:6.2f} MB resident;")


@pytest.fixture
def slower_model(model_path: Path) -> str:
    """A real model that takes some milliseconds a token and doesn't end by itself."""
    return tiny_llama.make(model_path / "slower.gguf", embedding=384, blocks=6, eos_bias=-1000.0, context=CONTEXT).name


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_tokens_stop_when_the_client_leaves(start: Callable[..., Service], slower_model: str, stream: bool) -> None:
    service = start(MODEL_NAME=slower_model, EMBED_MODEL="none")
    seen = _leave_a_stream(service) if stream else _leave_a_request(service, "Hello")
    left = time.monotonic()
    seconds, tokens = _cancelled(service)
    stopped = time.monotonic() - left
    print(f"stopped {stopped:.2f} s after the client had left: {tokens} tokens in {seconds:.2f} s, {seen} seen")
    assert stopped <= STOPS_WITHIN + ALLOWANCE
    assert seen <= tokens < WANTED
    if stream:
        # What the client hadn't seen yet when it left is at most what is made in that time.
        assert tokens - seen <= tokens / seconds * (STOPS_WITHIN + ALLOWANCE)
    assert service.lane("completion")["restarts"]["crashed"] == 0
    assert service.reports() == []
    assert service.complete("Hello")["finish_reason"] == "length"


def test_a_prompt_is_evaluated_no_further_when_the_client_leaves(
        start: Callable[..., Service], slower_model: str) -> None:
    service = start(MODEL_NAME=slower_model, N_CTX=CONTEXT, EMBED_MODEL="none")
    _leave_a_request(service, "word " * (CONTEXT - 200))  # takes many seconds before the first token
    left = time.monotonic()
    seconds, tokens = _cancelled(service)
    print(f"stopped {time.monotonic() - left:.2f} s after the client had left: {tokens} tokens in {seconds:.2f} s")
    assert time.monotonic() - left <= STOPS_WITHIN + ALLOWANCE
    assert tokens == 0
    assert service.complete("Hello")["finish_reason"] == "length"


def test_a_client_that_leaves_the_queue_is_never_served(start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME=scripts.write(model_path, scripts.slowly("first", 2.0)), EMBED_MODEL="none")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.complete, "first", max_tokens=100)
        until(lambda: busy(service), what="the first one served")
        with pytest.raises(requests.ReadTimeout):
            service.post("/gpt4all_api", {"prompt": "second"}, timeout=0.3)
        third = service.complete("third")
        assert first.result()["response"] == scripts.counted()
    assert third["generation"] == first.result()["generation"] + 1
    until(lambda: service.lane("completion")["restarts"]["spent"] == 2, what="two spent")


def _leave_a_stream(service: Service) -> int:
    """Read 20 pieces, hang up, and return how many there were."""
    events = service.stream("Hello", max_tokens=WANTED)
    for _ in range(20):
        assert "finish_reason" not in next(events)
    events.close()
    return 20


def _leave_a_request(service: Service, prompt: str) -> int:
    """Hang up on a completion while it is made."""
    with pytest.raises(requests.ReadTimeout):
        service.post("/gpt4all_api", {"prompt": prompt, "max_tokens": WANTED}, timeout=0.7)
    return 0


def _cancelled(service: Service) -> tuple[float, int]:
    """Wait until a generation was cancelled; return its own count of seconds and tokens."""
    line = service.printed(r"spent after ([\d.]+) s, (\d+) tokens \(cancelled\)")
    return float(line[1]), int(line[2])
