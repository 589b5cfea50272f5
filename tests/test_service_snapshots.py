"""Persona snapshots: a persona that is used again has been evaluated already, and nothing else is different."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from processes import runs
from service import Service, until

from mayfly.models import nano

PERSONA = "You are Ada, the keeper of the house by the river, and you like the morning. "


def _snapshots(service: Service) -> dict[str, Any]:
    return dict(service.lane("chat")["snapshots"])


def _settled(service: Service, calls: int) -> dict[str, Any]:
    """Wait until so many calls with a persona are counted; return what /health says of snapshots."""
    until(lambda: (found := _snapshots(service))["hits"] + found["misses"] >= calls, what=f"{calls} calls counted")
    return _snapshots(service)


def _with_snapshot(service: Service, persona: str = PERSONA) -> int:
    """Use a persona until it has a snapshot; return the snapshot's pid."""
    before = {entry["pid"] for entry in _snapshots(service)["living"]}
    for _ in range(2):
        service.complete("Hello", persona=persona)
    (pid,) = until(lambda: {entry["pid"] for entry in _snapshots(service)["living"]} - before, what="a snapshot")
    return int(pid)


def test_a_persona_that_is_used_again_is_evaluated_once(start: Callable[..., Service]) -> None:
    service = start(ISOLATION="fork")
    answers = [service.complete(f"Question {number}", persona=PERSONA * 3, temp=0) for number in range(6)]
    assert len({answer["generation"] for answer in answers}) == 6
    found = _settled(service, 6)
    assert (found["misses"], found["hits"]) == (2, 4)
    (snapshot,) = found["living"]
    assert runs(snapshot["pid"])
    assert snapshot["tokens"] >= len((PERSONA * 3).split())
    assert found["tokens_saved"] == 4 * snapshot["tokens"]
    # It counts as a part of the prompt as ever.
    assert all(answer["usage"]["prompt_tokens"] > snapshot["tokens"] for answer in answers)
    assert found["memory_bytes"] == snapshot["memory_bytes"] == pytest.approx(
        _private_memory(snapshot["pid"]), rel=0.2)
    until(lambda: service.lane("chat")["restarts"]["spent"] == 6, what="six spent")
    assert service.reports() == []


@pytest.mark.parametrize("model", ["tiny-llama.gguf", nano.FILE_NAME], ids=["random", "nano"])
def test_answers_are_the_same_with_and_without_snapshots(start: Callable[..., Service], model: str) -> None:
    """50 prompts for each of 5 personas, of which 4 have a snapshot at a time."""
    rng = random.Random(4)
    personas = [" ".join(rng.choices(tiny_llama.WORDS, k=length)) for length in (3, 20, 60, 127, 300)]
    asked = [(persona, " ".join(rng.choices(tiny_llama.WORDS, k=rng.randint(1, 40))))
             for persona in personas for _ in range(50)]
    rng.shuffle(asked)
    with_them, without = start(folder="with", MODEL_NAME=model), start(folder="without", MODEL_NAME=model, SNAPSHOTS=0)
    for persona, prompt in asked:
        fields = {"persona": persona, "temp": 0, "max_tokens": 12}
        ours, plain = with_them.complete(prompt, **fields), without.complete(prompt, **fields)
        assert (ours["response"], ours["usage"]) == (plain["response"], plain["usage"])
    found = _settled(with_them, len(asked))
    assert found["hits"] >= len(asked) // 4, found
    assert "snapshots" not in without.lane("chat")


def test_whole_conversations_share_the_persona_of_plain_ones(start: Callable[..., Service]) -> None:
    service, plain = start(folder="with"), start(folder="without", SNAPSHOTS=0)
    persona = {"role": "system", "content": PERSONA}
    turns = [{"role": "user", "content": "My name is Bo"}, {"role": "assistant", "content": "Hello Bo"},
             {"role": "user", "content": "What is my name"}]
    _with_snapshot(service)
    for conversation in ([persona, *turns], [persona, turns[1], turns[2]], [persona, turns[0]]):
        body = {"messages": conversation, "temperature": 0, "max_tokens": 12}
        ours, theirs = (one.post("/v1/chat/completions", body).json() for one in (service, plain))
        assert ours["choices"] == theirs["choices"]
        assert ours["usage"] == theirs["usage"]
    found = _settled(service, 5)
    assert found["hits"] == 3
    assert len(found["living"]) == 1


def test_generations_of_one_snapshot_draw_different_texts(start: Callable[..., Service]) -> None:
    service = start()
    texts = [service.complete("Tell me a story", persona=PERSONA, temp=1.0, top_p=1.0, max_tokens=16)["response"]
             for _ in range(10)]
    assert _settled(service, 10)["hits"] == 8
    assert len(set(texts)) == 10


def test_the_least_recently_used_snapshot_leaves_for_the_next(start: Callable[..., Service]) -> None:
    service = start(SNAPSHOTS=2)
    first, second = _with_snapshot(service, PERSONA + "one"), _with_snapshot(service, PERSONA + "two")
    service.complete("Hello", persona=PERSONA + "one")
    third = _with_snapshot(service, PERSONA + "three")
    until(lambda: not runs(second), what="the one that was used least recently gone")
    assert {entry["pid"] for entry in _snapshots(service)["living"]} == {first, third}
    assert service.reports() == []


def test_a_snapshot_that_takes_too_much_memory_leaves_and_is_not_made_again(start: Callable[..., Service]) -> None:
    service = start(SNAPSHOT_MEMORY="1MB")
    for _ in range(6):
        assert service.complete("Hello", persona=PERSONA)["response"]
    found = _settled(service, 6)
    assert (found["hits"], found["misses"]) == (0, 6)
    until(lambda: not _snapshots(service)["living"], what="none left")
    assert service.output().count("keeps a persona") == 1
    assert service.reports() == []


def test_a_snapshot_that_is_killed_is_reported_and_the_template_serves(start: Callable[..., Service]) -> None:
    service = start()
    right = service.complete("Hello", persona=PERSONA, temp=0)["response"]
    for _ in range(2):
        pid = _with_snapshot(service)
        os.kill(pid, signal.SIGKILL)
        assert service.complete("Hello", persona=PERSONA, temp=0)["response"] == right
    until(lambda: len(service.reports()) == 2, what="two reports")
    assert "snapshot" in service.reports()[0].name
    assert "killed by SIGKILL" in service.reports()[0].read_text()
    assert service.lane("chat")["restarts"]["crashed"] == 2


def test_a_snapshot_that_is_stopped_is_killed_and_its_call_served_by_the_template(
        start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=60)
    right = service.complete("Hello", persona=PERSONA, temp=0)["response"]
    pid = _with_snapshot(service)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    assert service.complete("Hello", persona=PERSONA, temp=0)["response"] == right
    print(f"answered {time.monotonic() - started:.1f} s after it was stopped")
    until(lambda: not runs(pid), what="it killed")
    (report,) = until(service.reports, what="a report")
    assert "took no call" in report.read_text()
    # The report is written before the watchdog's count is published.
    until(lambda: service.lane("chat")["restarts"]["hung"] == 1, what="it counted")


def test_a_snapshot_that_is_stopped_between_calls_is_seen_to_hang(start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=2)
    pid = _with_snapshot(service)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not runs(pid), what="it killed")
    until(lambda: service.lane("chat")["restarts"]["hung"] == 1, what="it counted")
    assert service.complete("Hello", persona=PERSONA)["response"]


@pytest.mark.parametrize("what", ["crash", "hang"])
def test_a_persona_over_which_a_snapshot_dies_is_answered_by_the_template_and_not_tried_again(
        start: Callable[..., Service], model_path: Path, what: str) -> None:
    rule = {"when": "poison", "do": what, "times": 1}
    service = start(MODEL_NAME=scripts.write(model_path, rule), HANG_SECONDS=2, SNAPSHOT_AFTER=1)
    for _ in range(3):
        assert service.complete("Hello", persona="You are poison.")["response"] == "Hello there."
    (report,) = until(service.reports, what="one report")
    assert "snapshot" in report.name
    assert "poison" not in report.read_text()
    assert _settled(service, 3)["misses"] == 3
    # Others still get theirs.
    service.complete("Hello", persona="You are fine.")
    until(lambda: len(_snapshots(service)["living"]) == 1, what="a snapshot")


def test_a_persona_that_fits_no_window_is_refused_each_time(start: Callable[..., Service]) -> None:
    service = start()
    for _ in range(4):
        answer = service.post("/gpt4all_api", {"prompt": "Hello", "persona": "house " * 3000})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert service.reports() == []
    assert _snapshots(service)["living"] == []


def test_a_client_that_leaves_while_its_persona_is_evaluated_stops_that(
        start: Callable[..., Service], model_path: Path) -> None:
    slow = {"when": "slow persona", "evaluation": 600, "pieces": ["Fine."]}
    service = start(MODEL_NAME=scripts.write(model_path, slow), SNAPSHOT_AFTER=1)
    with pytest.raises(requests.Timeout):
        service.post("/gpt4all_api", {"prompt": "Hello", "persona": "a slow persona"}, timeout=1.5)
    assert service.complete("Hello")["response"] == "Hello there."
    until(lambda: not any("snapshot" in name for name in service.sentinels()), what="the snapshot gone")
    assert service.reports() == []


def test_a_persona_may_take_longer_to_evaluate_than_a_snapshot_may_take_over_a_call(
        start: Callable[..., Service], model_path: Path) -> None:
    slow = {"when": "slow persona", "evaluation": 6, "pieces": ["Fine."]}
    service = start(MODEL_NAME=scripts.write(model_path, slow), SNAPSHOT_AFTER=1)
    for _ in range(3):
        assert service.complete("Hello", persona="a slow persona")["response"] == "Fine."
    assert _settled(service, 3)["hits"] == 2
    assert service.reports() == []


def test_calls_that_come_while_a_persona_is_evaluated_do_not_wait_for_it(
        start: Callable[..., Service], model_path: Path) -> None:
    slow = {"when": "slow persona", "evaluation": 600, "pieces": ["Fine."]}
    service = start(MODEL_NAME=scripts.write(model_path, slow), SNAPSHOT_AFTER=1, CHAT_PROCESSES=2, REQUEST_TIMEOUT=8)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.post, "/gpt4all_api", {"prompt": "Hello", "persona": "a slow persona"})
        until(lambda: any("snapshot" in name for name in service.sentinels()), what="it evaluated")
        for _ in range(3):
            assert service.complete("Hello", persona="a slow persona")["response"] == "Fine."
        assert asked.result().status_code == 504


def test_several_calls_at_once_are_served_from_one_snapshot(start: Callable[..., Service]) -> None:
    service = start(CHAT_PROCESSES=4)
    right = service.complete("Hello", persona=PERSONA, temp=0, max_tokens=40)["response"]
    pid = _with_snapshot(service)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(
            lambda _: service.complete("Hello", persona=PERSONA, temp=0, max_tokens=40)["response"], range(40)))
    assert answers == [right] * 40
    assert _settled(service, 43)["hits"] >= 40
    assert [entry["pid"] for entry in _snapshots(service)["living"]] == [pid]
    until(lambda: service.lane("chat")["restarts"]["spent"] == 43, what="all spent")
    assert service.reports() == []


def test_clients_get_the_right_answers_while_snapshots_are_killed(start: Callable[..., Service]) -> None:
    service = start(CHAT_PROCESSES=2, SNAPSHOTS=2, LOG_KEEP=10_000)
    personas = [f"{PERSONA} You are number {number}" for number in range(3)]
    fields = {"temp": 0, "max_tokens": 16}
    right = {persona: service.complete("Hello", persona=persona, **fields)["response"] for persona in personas}
    assert len(set(right.values())) == 3
    over = threading.Event()

    def kill() -> int:
        killed = 0
        while not over.wait(0.3):
            for entry in _snapshots(service)["living"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(entry["pid"], signal.SIGKILL)
                    killed += 1
        return killed

    def ask(seed: int) -> Counter[str]:
        rng = random.Random(seed)
        answers: Counter[str] = Counter()
        for _ in range(40):
            persona = rng.choice(personas)
            answer = service.post("/gpt4all_api", {"prompt": "Hello", "persona": persona, **fields})
            if answer.status_code == 200:
                assert answer.json()["response"] == right[persona]
                answers["right"] += 1
            else:  # it was hit twice
                assert answer.json()["error"]["code"] == "model_crashed"
                answers["crashed"] += 1
        return answers

    with ThreadPoolExecutor(5) as pool:
        killing = pool.submit(kill)
        try:
            answers = sum(pool.map(ask, range(4)), Counter())
        finally:
            over.set()
        killed = killing.result()
    print(f"killed: {killed}; answers: {dict(answers)}; {service.lane('chat')['restarts']}")
    assert killed >= 3
    assert answers.total() == 160
    assert answers["right"] >= 140
    # All that was begun has ended, and both places are free.
    until(lambda: not [name for name in service.sentinels() if "request" in service.sentinel(name.removesuffix(
        ".watchdog"))], what="nobody serves")
    assert service.complete("Hello", persona=personas[0], **fields)["response"] == right[personas[0]]


def test_no_trace_of_a_persona_is_in_the_services_files(start: Callable[..., Service]) -> None:
    service = start()
    os.kill(_with_snapshot(service, "You are Zorbelquist. " * 4), signal.SIGABRT)
    until(service.reports, what="a report")
    for folder in (service.run_folder, service.log_folder):
        for path in folder.iterdir():
            if path.is_file():
                assert b"Zorbelquist" not in path.read_bytes(), path
    assert "Zorbelquist" not in service.output() + str(service.health())


@pytest.mark.parametrize("isolation", ["none", "respawn"])
def test_other_isolations_have_no_snapshots(start: Callable[..., Service], isolation: str) -> None:
    service = start(ISOLATION=isolation)
    for _ in range(3):
        assert service.complete("Hello", persona=PERSONA)["response"]
    assert "snapshots" not in service.lane("chat")


def test_a_model_that_is_replaced_takes_its_snapshots_along(start: Callable[..., Service], model_path: Path) -> None:
    service = start()
    pid = _with_snapshot(service)
    before = service.lane("chat")["pid"]
    tiny_llama.make(model_path / "next.gguf", seed=7)
    os.replace(model_path / "next.gguf", model_path / "tiny-llama.gguf")
    until(lambda: service.lane("chat")["pid"] not in (None, before), what="the next template")
    assert not runs(pid)
    assert service.reports() == []
    _with_snapshot(service)


def _private_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
