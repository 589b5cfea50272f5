"""Many calls for embeddings at once: gathered, answered each by itself, and none waits for all of another's texts."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import scripts
from random_texts import random_texts
from service import Service, until

from mayfly.engines.base import Part
from mayfly.errors import EngineFailed
from mayfly.settings import available_cores
from mayfly.workers.batches import Queue, Scheduler, Text


class Words:
    """An engine that computes in batches, a token a word; it notes what it was given."""

    model, dimensions, batch_tokens, facts = "words", 4, 100, {"engine": "words", "precision": "none"}
    threads_spin = False

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.tokenised: list[int] = []

    def plan(self, text: str, long_text: str) -> Iterator[Part | None]:
        yield self._part(text, 0)

    def _part(self, text: str, left: int) -> Part:
        words = [len(word) for word in text.split()]
        self.tokenised.append(len(text))
        return Part([words[at:at + 20] for at in range(0, len(words), 20)], len(words), left)

    def compute(self, chunks: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([len(chunk) for chunk in chunks])
        if any(13 in chunk for chunk in chunks):
            raise EngineFailed("a word of 13 letters")
        rows = np.array([[1, len(chunk), sum(chunk), 0] for chunk in chunks], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def set_threads(self, threads: int) -> None:
        pass

    def prepare(self) -> None:
        pass


def texts(*lengths: int) -> list[Text]:
    return [Text(" ".join(["word"] * length), "mean") for length in lengths]


def drained(engine: Words, *queues: Queue) -> list[list[int]]:
    """Let a scheduler compute everything; return the lengths of the chunks, batch by batch."""
    scheduler = Scheduler(engine)
    batches = []
    while batch := scheduler.next_batch(queues):
        for chunk, row in zip(batch, engine.compute([chunk.ids for chunk in batch]), strict=True):
            chunk.text.take(chunk.number, row)
        batches.append([len(chunk.ids) for chunk in batch])
    return batches


def test_texts_of_one_length_are_computed_side_by_side_and_a_batch_has_a_limit() -> None:
    lengths = [random.Random(1).randint(1, 20) for _ in range(200)]
    made = texts(*lengths)
    batches = drained(Words(), Queue.of(made))
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    for batch in batches:
        padded = len(batch) * max(batch)
        assert padded <= Words.batch_tokens
        assert sum(batch) >= 0.75 * padded
    assert all(text.vector is not None for text in made)
    assert len(batches) < 40


def test_a_long_texts_chunks_are_joined_and_counted() -> None:
    (text,) = made = texts(50)
    assert drained(Words(), Queue.of(made)) == [[10, 20, 20]]
    assert text.tokens == 50 and text.vector is not None


def test_a_short_call_has_its_turn_while_a_long_one_goes_on() -> None:
    engine = Words()
    scheduler = Scheduler(engine)
    long = Queue.of(texts(*[20] * 300))
    assert len(scheduler.next_batch([long])) == 5  # alone it has whole batches
    for _ in range(10):
        short = Queue.of(made := texts(4))
        batch = scheduler.next_batch([long, short])
        if all(chunk.text is not made[0] for chunk in batch):
            assert sum(len(chunk.ids) for chunk in batch) <= 64  # what is computed first is small
            batch = scheduler.next_batch([long, short])
        assert any(chunk.text is made[0] for chunk in batch)
    assert not long.empty()


def test_a_long_call_is_finished_although_short_ones_never_cease() -> None:
    scheduler = Scheduler(Words())
    long = Queue.of(texts(*[20] * 30))
    for _ in range(30):
        scheduler.next_batch([long, Queue.of(texts(4, 4, 4))])
    assert long.empty()


def test_a_text_that_two_calls_have_is_computed_once() -> None:
    engine = Words()
    (shared,) = texts(5)
    other, *_ = texts(6)
    drained(engine, Queue.of([shared, other]), Queue.of([shared]))
    assert sorted(length for batch in engine.batches for length in batch) == [5, 6]
    assert shared.vector is not None


class LongWords(Words):
    """One for which a text has many parts, and is cleaned in steps before the first."""

    def plan(self, text: str, long_text: str) -> Iterator[Part | None]:
        yield from [None] * 5
        for at in range(0, len(text), 5_000):
            yield self._part(text[at:at + 5_000], max(0, len(text) - at - 5_000))


def test_a_long_text_is_made_tokens_part_by_part_and_short_ones_are_served_meanwhile() -> None:
    engine = LongWords()
    scheduler = Scheduler(engine)
    long = Queue.of(made := texts(200_000))
    answered = 0
    for _ in range(40):
        before = sum(engine.tokenised)
        short = Queue.of(others := [Text("a few words", "mean")])
        for _ in range(8):  # one batch is cleaned or computed for the long one between two of the others'
            for chunk in scheduler.next_batch([long, short]):
                chunk.text.take(chunk.number, np.ones(4, np.float32))
        answered += others[0].done
        assert sum(engine.tokenised) - before <= 8 * 20_000
    assert answered == 40
    assert not made[0].done and sum(engine.tokenised) < 0.9 * made[0].size


def test_two_calls_share_a_long_text_and_one_may_leave() -> None:
    engine = LongWords()
    scheduler = Scheduler(engine)
    (text,) = texts(9_000)
    first, second = Queue.of([text]), Queue.of([text])
    queues = [first, second]
    for turn in range(100_000):
        if text.done:
            break
        if turn == 20:
            queues = [second]  # what the first had taken over from the text isn't lost
        for chunk in scheduler.next_batch(queues):
            chunk.text.take(chunk.number, np.ones(4, np.float32))
    assert text.vector is not None and text.tokens == 9_000
    assert sum(engine.tokenised) == text.size


class OneByOne(LongWords):
    """One that computes chunk by chunk."""

    batch_tokens = 1


def test_an_engine_without_batches_gets_the_chunks_of_all_callers_in_turn() -> None:
    engine = OneByOne()
    scheduler = Scheduler(engine)
    long, short = Queue.of(made := texts(10_000)), Queue.of(others := texts(3, 3))
    taken = [scheduler.next_batch([long, short]) for _ in range(30)]
    assert max(map(len, taken)) == 1
    waited = [number for number, batch in enumerate(taken) if any(chunk.text in others for chunk in batch)]
    assert len(waited) == 2 and waited[-1] < 15
    last = []
    while batch := scheduler.next_batch([long]) or ([] if long.empty() else [None]):
        last.append(batch)
    for chunk in [chunk for batch in [*taken, *last] for chunk in batch if chunk is not None]:
        chunk.text.take(chunk.number, np.array([1, 0, 0, 0], "<f4"))
    assert all(text.done for text in [*made, *others]) and made[0].tokens == 10_000


# -- the service ------------------------------------------------------------------------------------------------------


def test_calls_that_come_together_get_each_its_own_vectors(start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME="", THREADS=min(2, available_cores()))
    calls = [random_texts(1 + number % 4, seed=number, longest=30) for number in range(24)]
    calls[7] = calls[3]  # the same texts at the same time
    alone = [service.embed(call) for call in calls]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(service.embed, calls))
    for first, second in zip(alone, together, strict=True):
        cosines = np.sum(np.array(first) * np.array(second), axis=1)
        assert cosines.min() > 0.99999
    with service.session.post(service.url + "/embed", json={"input": calls[3]}, timeout=60) as once:
        assert once.json()["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("engine", ["gpt4all", "auto"])
def test_a_text_alone_and_beside_others_has_the_same_vector(start: Callable[..., Service], engine: str) -> None:
    texts = [f"the lamp of harbour number {number} is lit" for number in range(48)]
    service = start(MODEL_NAME="", EMBED_ENGINE=engine, THREADS=min(2, available_cores()))
    one_by_one = np.array([service.embed(text)[0] for text in texts])
    with ThreadPoolExecutor(16) as pool:
        at_once = np.array([vectors[0] for vectors in pool.map(service.embed, texts)])
    for together in (at_once, np.array(service.embed(texts))):
        assert np.sum(together * one_by_one, axis=1).min() > 0.99999
    assert service.lane("embedding")["generation"] == 1


def test_one_text_does_not_wait_for_a_thousand(start: Callable[..., Service], model_path: Path) -> None:
    # Each text takes 20 ms: text by text, as gpt4all computes.
    vectors = scripts.write(model_path, {"when": "", "seconds": 0.02}, name="vectors", kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="")
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(service.embed, [f"text {number}" for number in range(200)])
        until(lambda: service.sentinel("embedding").get("request", {}).get("texts") == 200, what="the worker busy")
        for number in range(5):
            assert len(service.embed(f"single {number}")) == 1
            assert not many.done()
        assert len(many.result()) == 200


def test_a_bad_text_fails_its_own_request_alone(start: Callable[..., Service], model_path: Path) -> None:
    vectors = scripts.write(model_path, {"when": "bad", "do": "error"}, {"when": "", "seconds": 0.02}, name="vectors",
                            kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="")
    calls = [["good"] * 3, ["good", "bad one", "good"], ["fine"], ["bad"]] * 3
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(lambda call: service.post("/embed", {"input": call}), calls))
    for call, answer in zip(calls, answers, strict=True):
        bad = [index for index, text in enumerate(call) if "bad" in text]
        assert answer.status_code == (500 if bad else 200)
        if bad:
            assert answer.json()["error"]["param"] == f"input.{bad[0]}"
    assert service.reports() == []


def test_a_text_that_kills_the_process_takes_no_other_call_with_it(
        start: Callable[..., Service], model_path: Path) -> None:
    # Long enough that a starved machine sends all of them before the first are answered.
    vectors = scripts.write(model_path, {"when": "poison", "do": "crash"}, {"when": "", "seconds": 0.25},
                            name="vectors", kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="")
    calls = [["healthy"] * 4 + [f"number {number}"] for number in range(8)]
    with ThreadPoolExecutor(9) as pool:
        healthy = [pool.submit(service.post, "/embed", {"input": call}) for call in calls]
        until(lambda: len(service.sentinel("embedding").get("request", {}).get("ids", [])) >= 4, what="calls gathered")
        poison = service.post("/embed", {"input": ["healthy", "poison"]}, headers={"X-Request-Id": "the-poison"})
        answers = [answer.result() for answer in healthy]
    assert [answer.status_code for answer in answers] == [200] * len(calls)
    error = poison.json()["error"]
    assert (poison.status_code, error["code"]) == (500, "model_crashed")
    reports = service.reports()
    assert len(reports) == 2 and any(report.name in error["message"] for report in reports)
    assert all("the-poison" in report.read_text() for report in reports)
    assert not any("healthy" in report.read_text() for report in reports)
    assert len(service.embed("afterwards")) == 1


def test_a_caller_that_leaves_is_forgotten_and_the_others_are_served(
        start: Callable[..., Service], model_path: Path) -> None:
    vectors = scripts.write(model_path, {"when": "", "seconds": 0.05}, name="vectors", kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="")
    body = json.dumps({"input": [f"text {number}" for number in range(2000)]}).encode()  # 100 s
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaver:
        leaver.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: service.sentinel("embedding").get("request", {}).get("texts") == 2000, what="the worker busy")
    assert len(service.embed(["one", "two"])) == 2
    until(lambda: "request" not in service.sentinel("embedding"), what="the worker idle again")
    assert service.lane("embedding")["restarts"]["crashed"] == 0


def test_a_full_queue_is_said_and_those_in_it_are_served(start: Callable[..., Service], model_path: Path) -> None:
    from mayfly.wire.calls import MOST_CALLS_HELD

    vectors = scripts.write(model_path, {"when": "", "seconds": 0.1}, name="vectors", kind="embedding")
    service = start(EMBED_MODEL=vectors, MODEL_NAME="", QUEUE_LIMIT=2)
    most = MOST_CALLS_HELD + 2
    begin = threading.Barrier(most + 6)

    def ask(number: int) -> requests.Response:
        begin.wait(120)
        return service.post("/embed", {"input": f"text {number}"})

    with ThreadPoolExecutor(most + 6) as pool:
        answers = list(pool.map(ask, range(most + 6)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= most
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and refused.headers["Retry-After"]


@pytest.mark.parametrize("settings", [{"EMBED_ENGINE": "gpt4all"}, {"EMBED_ENGINE": "auto"}])
def test_a_deadline_ends_a_call_while_others_go_on(start: Callable[..., Service], settings: dict[str, str]) -> None:
    service = start(MODEL_NAME="", REQUEST_TIMEOUT=3, **settings)
    text = " ".join(f"word {number}" for number in range(60))
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        endless = pool.submit(service.post, "/embed", {"input": [f"{number} {text}" for number in range(2000)]})
        while not endless.done():
            assert len(service.embed("short")) == 1
            assert time.monotonic() < began + 30
        assert (endless.result().status_code, endless.result().json()["error"]["code"]) == (504, "timeout")
    assert service.reports() == []
