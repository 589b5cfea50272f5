"""The prefix store: what was evaluated of a prompt isn't evaluated again, and no answer changes by it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_architectures
import tiny_llama
from service import Service, until

from mayfly.wire.calls import CompletionCall, Message, Sampling
from mayfly.workers.prefix_store import PrefixStore

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")
if PrefixStore.of(1 << 20) is None:
    pytest.skip("this system has no memory that can be sealed", allow_module_level=True)

from mayfly.engines.llamacpp.completions import LlamaCompletions
from mayfly.engines.llamacpp.window import pieces
from mayfly.prompts.segments import Segment

pytestmark = pytest.mark.settings(EMBED_MODEL="none")

PERSONA = "You are the keeper of the old house by the river , and you like the morning . " * 12
LIMIT = 64 << 20
KEYS = "ada:key-of-ada-1,bob:key-of-bob-1"


def said(rng: random.Random, most: int) -> str:
    return " ".join(rng.choices(tiny_llama.WORDS, k=rng.randint(1, most)))


def conversation(rng: random.Random, turns: int, persona: str = "", longest: int = 160) -> Iterator[list[Message]]:
    """Yield what is sent at each turn of a conversation."""
    messages = [Message("system", persona or said(rng, 60))]
    for _ in range(turns):
        messages.append(Message("user", said(rng, longest)))
        yield messages
        messages.append(Message("assistant", said(rng, 40)))


class Asked:
    """An engine, with a store or without."""

    def __init__(self, engine: LlamaCompletions, store: PrefixStore | None) -> None:
        self._engine = engine
        self._store = store

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> bytes:
        taken: list[bytes] = []
        prefixes = self._store.lend("") if self._store is not None else None
        self._engine.generate(self._engine.prompt(CompletionCall("test", tuple(messages))), sampling, lambda: True,
                              lambda piece: taken.append(piece) is None, prefixes=prefixes)
        if prefixes is not None:
            prefixes.hand_back()
        return b"".join(taken)


@pytest.fixture
def store() -> Iterator[PrefixStore]:
    store = PrefixStore.of(LIMIT)
    assert store is not None
    yield store
    store.close()


# -- pieces ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_cut_where_a_message_ends_and_alike_whatever_follows() -> None:
    def prompt(*lengths: int) -> list[tuple[Segment, Any]]:
        """The template's texts have 3 tokens and a message the length, in parts of 100 at most."""
        segments = []
        for length in lengths:
            segments.append((Segment("<", special=True), [1] * 3))
            segments += [(Segment("x", special=False), [2] * min(100, length - at)) for at in range(0, length, 100)]
        return [*segments, (Segment(">", special=True), [1] * 4)]

    def sizes(*lengths: int, most: int = 512) -> list[int]:
        found = pieces(prompt(*lengths), most)
        assert [token for piece in found for token in piece] == [token for _, ids in prompt(*lengths) for token in ids]
        return [len(piece) for piece in found]

    assert sizes(300, 70) == [303, 73, 4]
    assert sizes(30, 20) == [60]
    assert sizes(20, 50, 700) == [76, 512, 191, 4]
    assert sizes(250, most=100) == [100, 100, 53, 4]
    whole = sizes(5, 90, 30, 40, 600, 63)
    assert [sizes(5, 90)[:1], sizes(5, 90, 30, 40)[:2], sizes(5, 90, 30, 40, 600)[:4]] == [
        whole[:1], whole[:2], whole[:4]]


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", ["greedy", "seeded"])
def test_two_hundred_conversations_are_answered_alike_with_and_without(
        tmp_path: Path, store: PrefixStore, sampled: str) -> None:
    path = tiny_llama.make(tmp_path / "m.gguf", embedding=32, heads=1)
    engine = LlamaCompletions(path, 1, 1024, "cpu", "m")
    rng = random.Random(sampled)
    personas = [said(rng, 120) for _ in range(20)]
    for number in range(200):
        sampling = Sampling(6, 0.0) if sampled == "greedy" else Sampling(6, 1.5, top_p=1.0, seed=number)
        for messages in conversation(rng, 2, rng.choice(personas), longest=80):
            assert Asked(engine, store)(messages, sampling) == Asked(engine, None)(messages, sampling)
    (told,) = store.news()
    assert told.hits > 150 and told.tokens_saved > 15_000


@pytest.mark.parametrize("name", ["qwen3moe", "gemma3", "mamba"])
def test_mixtures_sliding_windows_and_recurrent_networks_answer_alike_too(
        tmp_path: Path, store: PrefixStore, name: str) -> None:
    engine = LlamaCompletions(tiny_architectures.make(tmp_path / "m.gguf", name), 1, 1024, "cpu", "m")
    # Gemma's window slides over 64 tokens.
    for number, messages in enumerate(conversation(random.Random(name), 3)):
        for sampling in (Sampling(100, 0.0), Sampling(100, 1.5, top_p=1.0, seed=number)):
            assert Asked(engine, store)(messages, sampling) == Asked(engine, None)(messages, sampling)
    assert store.news()[0].hits >= 3


def test_where_states_cannot_be_taken_or_put_back_the_prompt_is_evaluated(
        tiny_model: Path, store: PrefixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LlamaCompletions(tiny_model, 1, 1024, "cpu", "m")
    turns = [list(messages) for messages in conversation(random.Random(1), 2, PERSONA)]
    greedy = Sampling(8, 0.0)
    answers = [Asked(engine, None)(messages, greedy) for messages in turns]
    for failing in ("get_size", "get_data", "set_data"):
        with monkeypatch.context() as patch:
            patch.setattr(engine._llama, f"llama_state_seq_{failing}", lambda *anything: 0)
            assert [Asked(engine, store)(messages, greedy) for messages in turns] == answers
        assert store.news()[0].states == (failing == "set_data") * 2


def test_what_is_evaluated_ahead_is_left_for_later_unless_somebody_else_computes(
        tiny_model: Path, store: PrefixStore) -> None:
    engine = LlamaCompletions(tiny_model, 1, 1024, "cpu", "m")
    *_, messages = conversation(random.Random(1), 2, PERSONA)
    later = engine.prompt(CompletionCall("test", (
        *messages, Message("assistant", PERSONA), Message("user", "Hello"))))
    prefixes = store.lend("")
    for idle in (False, True):
        engine.generate(engine.prompt(CompletionCall("test", tuple(messages))), Sampling(4), lambda: True,
                        lambda piece: True, prefixes=prefixes)
        prefixes.hand_back()
        before = store.news()[0].states
        engine.evaluate_ahead(later, lambda idle=idle: idle, prefixes)
        prefixes.hand_back()
        assert sum(told.states for told in store.news()) == (before + 1 if idle else 0)


# -- the service ----------------------------------------------------------------------------------------------------


def remembered(service: Service, **least: int) -> dict[str, int]:
    """Wait until /health tells of at least so much; return what it tells."""
    def look() -> dict[str, int]:
        told = service.lane("completion").get("prefixes", {})
        return told if all(told.get(name, 0) >= value for name, value in least.items()) else {}

    return until(look, what=lambda: f"{least} in {service.lane('completion').get('prefixes')}")


@pytest.mark.parametrize("isolation", ["fork", "none"])
def test_a_persona_is_evaluated_twice_and_a_turn_of_a_conversation_once(
        start: Callable[..., Service], isolation: str) -> None:
    service = start(ISOLATION=isolation, PREFIX_MEMORY="64MB")
    assert "prefixes" not in service.lane("completion")
    for number in range(3):
        service.complete(f"{number} {PERSONA}", persona=PERSONA)
        told = remembered(service, hits=max(0, number - 1), misses=min(2, number + 1))
    assert (told["hits"], told["misses"]) == (1, 2)
    persona = told["tokens_saved"]
    assert len(PERSONA.split()) < persona < 2 * len(PERSONA.split())
    turns = [list(messages) for messages in conversation(random.Random(1), 4, PERSONA)]
    saved = []
    for number, messages in enumerate(turns, 1):
        body = {"messages": [vars(message) for message in messages], "max_tokens": 4}
        assert service.post("/v1/chat/completions", body).status_code == 200
        saved.append(remembered(service, hits=1 + number)["tokens_saved"])
    gained = [after - before for before, after in zip([persona, *saved], saved, strict=False)]
    assert gained[0] == persona < gained[2] < gained[3]


def test_an_answer_is_evaluated_before_the_next_turn_begins_with_it(start: Callable[..., Service]) -> None:
    services = {memory: start(folder=memory, PREFIX_MEMORY=memory, THREADS=2) for memory in ("64MB", "none")}
    service = services["64MB"]
    messages: list[dict[str, str]] = []
    rng = random.Random(1)
    saved = states = 0
    for turn in range(4):
        messages.append({"role": "user", "content": " ".join(rng.choices(tiny_llama.WORDS, k=150))})
        body = {"messages": messages, "max_tokens": 90, "seed": turn, "logprobs": True}
        answers = {memory: each.post("/v1/chat/completions", body).json() for memory, each in services.items()}
        # To the last bit.
        assert answers["64MB"]["choices"] == answers["none"]["choices"]
        if turn == 3:
            break
        evaluated = answers["64MB"]["usage"]["prompt_tokens"]
        messages.append({"role": "assistant", "content": answers["64MB"]["choices"][0]["message"]["content"]})
        # Of a first answer nobody knows whether another turn follows.
        states += 2 if turn else 1
        saved = remembered(service, states=states)["tokens_saved"]
    told = until(lambda: (lane := service.lane("completion")["prefixes"])["tokens_saved"] > saved and lane)
    assert told["tokens_saved"] - saved > evaluated


def test_without_memory_nothing_is_kept_and_gpt4all_runs_without(start: Callable[..., Service]) -> None:
    for number, settings in enumerate(({"PREFIX_MEMORY": "none"}, {"CHAT_ENGINE": "gpt4all"})):
        service = start(folder=f"service-{number}", **settings)
        for _ in range(2):
            service.complete("Who are you ?", persona=PERSONA)
        until(lambda service=service: service.lane("completion")["restarts"]["spent"] >= 1)
        assert "prefixes" not in service.lane("completion")
        service.stop()


@pytest.mark.settings(API_KEYS=KEYS)
@pytest.mark.parametrize("require", ["always", "auto"])
def test_two_keys_never_share(start: Callable[..., Service], require: str) -> None:
    service = start(REQUIRE_KEY=require)
    service.session.headers["Authorization"] = "Bearer key-of-ada-1"  # to see more of /health

    def ask(key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"prompt": "Who are you ?", "persona": PERSONA, "max_tokens": 2}
        assert service.post("/gpt4all_api", body, headers=headers).status_code == 200

    for number, key in enumerate(("key-of-ada-1", "key-of-bob-1", *([""] if require == "auto" else [])), 1):
        for _ in range(2):
            ask(key)
        told = remembered(service, misses=number, hits=number)
        assert (told["misses"], told["hits"]) == (number, number)


def test_memory_stays_under_its_bound_while_many_personas_pass(start: Callable[..., Service]) -> None:
    service = start(PREFIX_MEMORY="3MB", CHAT_PROCESSES=2)
    for number in range(60):
        service.complete("Who are you ?", persona=f"You are number {number} . {PERSONA}", max_tokens=1)
    told = remembered(service, misses=60)
    assert 1 << 20 < told["bytes"] <= 3 << 20
    held = Path(f"/proc/{service.lane('completion')['pid']}/fd")
    size = sum(os.stat(entry).st_size for entry in held.iterdir() if "memfd:mayfly" in os.readlink(entry))
    assert size <= 4 << 20


def test_a_kill_at_any_moment_costs_an_evaluation_and_never_an_answer(start: Callable[..., Service]) -> None:
    service = start(HANG_SECONDS=60)
    rng = random.Random(1)
    asked = {"prompt": "Who are you ?", "persona": PERSONA, "temp": 0}
    answer = service.complete(**asked)["response"]
    ended: list[int] = []

    def kill_some(stop: threading.Event) -> None:
        while not stop.wait(rng.random() * 0.05):
            # Those that have a call, and whatever they do: no byte of their answers is out before the last one is.
            for name in service.sentinels():
                told = service.sentinel(name.removesuffix(".watchdog"))
                if "-" in name and "request" in told and len(ended) < 8:
                    ended.append(told["pid"])
                    with_pid(told["pid"])

    def with_pid(pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            ended.remove(pid)

    for _ in range(4):
        assert service.complete(**asked)["response"] == answer
    assert ended == []
    stop = threading.Event()
    killer = threading.Thread(target=kill_some, args=(stop,))
    killer.start()
    answers = [service.post("/gpt4all_api", {**asked, "max_tokens": 8}) for _ in range(30)]
    stop.set()
    killer.join()
    assert ended
    good = [each.json()["response"] for each in answers if each.status_code == 200]
    # One whose second generation was killed, too, is refused as always.
    crashed = [each.json()["error"]["code"] for each in answers if each.status_code != 200]
    assert set(good) == {answer} and set(crashed) <= {"model_crashed"}
    template = service.pid("completion")
    os.kill(template, signal.SIGKILL)
    assert service.complete(**asked)["response"] == answer
    assert service.pid("completion") != template
    assert service.complete(**asked)["response"] == answer
    assert remembered(service, hits=1)["misses"] <= 1
