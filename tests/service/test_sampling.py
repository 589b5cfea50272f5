"""How tokens are chosen is as asked: seen in the answers of a real model over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from service import Service

from mayfly.engines import backends
from mayfly.models.header import read_header

# As free as it gets: every token may be drawn, and none is penalised.
FREELY = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "max_tokens": 24}
GREEDY = {**FREELY, "temperature": 0}
PROMPT = "Tell me a story."


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("sampling")
    # Greedily it soon repeats itself, so that a penalty shows.
    tiny_llama.make(folder / "tiny.gguf")
    running = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": "tiny.gguf", "EMBED_MODEL": "",
                                           "N_CTX": 512})
    yield running.wait_ready()
    running.stop()


def native(service: Service, fields: dict[str, Any]) -> str:
    return str(service.complete(PROMPT, **fields)["response"])


def streamed(service: Service, fields: dict[str, Any]) -> str:
    events = [event for event in service.stream(PROMPT, **fields) if isinstance(event, dict)]
    return "".join(str(event["response"]) for event in events)


def chat(service: Service, fields: dict[str, Any]) -> str:
    body = {"messages": [{"role": "user", "content": PROMPT}], **fields}
    answer = service.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def completion(service: Service, fields: dict[str, Any]) -> str:
    answer = service.post("/v1/completions", {"prompt": PROMPT, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


ROUTES = [native, streamed, chat, completion]


@pytest.mark.parametrize("ask", ROUTES)
def test_temperature_zero_is_greedy_and_repeatable_whatever_came_before(service: Service, ask: Any) -> None:
    first = ask(service, GREEDY)
    assert ask(service, FREELY) != first
    assert ask(service, GREEDY) == first and first
    # The cuts make no difference to the likeliest token.
    assert ask(service, {**GREEDY, "top_k": 3, "top_p": 0.2, "min_p": 0.5}) == first


@pytest.mark.parametrize("ask", ROUTES)
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_choosing_among_the_likeliest_token_alone_is_greedy_at_any_temperature(
        service: Service, ask: Any, narrow: dict[str, Any]) -> None:
    assert ask(service, {**FREELY, **narrow}) == ask(service, GREEDY)


def test_answers_differ_at_high_temperature_and_less_where_the_choice_is_narrow(service: Service) -> None:
    def kinds(fields: dict[str, Any]) -> int:
        return len({native(service, {**FREELY, **fields, "max_tokens": 1}) for _ in range(12)})

    assert kinds({}) > 3
    assert kinds({"top_k": 2}) <= 2
    assert kinds({"temperature": 0.01}) == 1


@pytest.mark.parametrize("ask", ROUTES)
def test_a_repeat_penalty_changes_the_greedy_answer(service: Service, ask: Any) -> None:
    longer = {**GREEDY, "max_tokens": 100}
    free, penalised = (ask(service, {**longer, "repeat_penalty": penalty}).split() for penalty in (1.0, 10.0))
    assert free != penalised
    assert len(set(penalised)) > len(set(free))


def test_without_the_field_the_native_route_has_gpt4alls_penalty_and_openais_routes_have_none(service: Service) -> None:
    longer = {"temperature": 0, "max_tokens": 100}
    for ask, usual, other in ((native, 1.18, 1.0), (chat, 1.0, 1.18), (completion, 1.0, 1.18)):
        free = ask(service, longer)
        assert ask(service, {**longer, "repeat_penalty": usual}) == free != ask(
            service, {**longer, "repeat_penalty": other})


@pytest.mark.parametrize("ask", ROUTES)
def test_a_penalty_over_no_tokens_is_no_penalty_and_over_more_of_them_another_one(service: Service, ask: Any) -> None:
    longer = {**GREEDY, "max_tokens": 100}
    free = ask(service, longer)
    assert ask(service, {**longer, "repeat_penalty": 10.0, "repeat_last_n": 0}) == free
    few, many = (ask(service, {**longer, "repeat_penalty": 10.0, "repeat_last_n": last}) for last in (8, 200))
    assert many not in (free, few)


@pytest.mark.parametrize("ask", ROUTES)
@pytest.mark.parametrize("most", [1, 7])
def test_max_tokens_is_the_number_of_words(service: Service, ask: Any, most: int) -> None:
    words = ask(service, {**GREEDY, "max_tokens": most})
    full = ask(service, {**GREEDY, "max_tokens": 20})
    assert full.startswith(words) and len(full) > len(words)
    assert service.complete(PROMPT, **{**GREEDY, "max_tokens": most})["usage"]["completion_tokens"] == most


# -- what only llama.cpp has ----------------------------------------------------------------------------------------

WITH_SEEDS = pytest.mark.skipif(not backends.LlamaCpp().installed(), reason="there is no wheel of llama.cpp here")


@WITH_SEEDS
@pytest.mark.parametrize("ask", ROUTES)
def test_the_same_seed_gives_the_same_answer_and_others_give_others(service: Service, ask: Any) -> None:
    first, other, again = (ask(service, {**FREELY, "seed": seed}) for seed in (7, 8, 7))
    assert first == again != other
    assert ask(service, {**FREELY, "seed": -(1 << 63)}) == ask(service, {**FREELY, "seed": -(1 << 63)})


@WITH_SEEDS
def test_an_answer_names_the_seed_that_makes_it_again(service: Service) -> None:
    made = service.post("/gpt4all_api", {"prompt": PROMPT, **FREELY})
    seed = made.json()["seed"]
    assert made.headers["X-Seed"] == str(seed)
    assert native(service, {**FREELY, "seed": seed}) == made.json()["response"]
    assert list(service.stream(PROMPT, **FREELY, seed=seed))[-2]["seed"] == seed  # type: ignore[index]
    for path, body in (("/v1/completions", {"prompt": PROMPT}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]})):
        asked = {**body, **FREELY, "n": 3}
        drawn = service.post(path, asked)
        again = service.post(path, {**asked, "seed": int(drawn.headers["X-Seed"])})
        assert again.json()["choices"] == drawn.json()["choices"]
        assert len({str({**choice, "index": 0}) for choice in drawn.json()["choices"]}) == 3
        streamed_answer = service.post(path, {**asked, "stream": True, "seed": 5})
        assert streamed_answer.headers["X-Seed"] == "5"
        # What isn't answered was made with none.
        assert "X-Seed" not in service.post(path, {**asked, "logit_bias": {"999999999": 1}}).headers


@WITH_SEEDS
def test_what_is_repeatable_is_the_same_to_the_last_bit_when_threads_are_shared(tmp_path: Path) -> None:
    tiny_llama.make(tmp_path / "tiny.gguf", embedding=64, heads=2)
    service = Service(tmp_path / "service", {"MODEL_PATH": tmp_path, "MODEL_NAME": "tiny.gguf", "EMBED_MODEL": "none",
                                             "N_CTX": 2048, "THREADS": 2, "CHAT_PROCESSES": 3})
    try:
        service.wait_ready()
        prompt = " ".join(itertools.islice(itertools.cycle(tiny_llama.WORDS), 900))

        def likelihoods(fields: dict[str, Any]) -> Any:
            asked = {"prompt": prompt, **FREELY, "max_tokens": 400, "logprobs": 0, **fields}
            return service.post("/v1/completions", asked).json()["choices"][0]["logprobs"]["token_logprobs"]

        for fields in ({"temperature": 0}, {"seed": 7}):
            alone = likelihoods(fields)
            with ThreadPoolExecutor(3) as clients:
                assert list(clients.map(likelihoods, [fields] * 3)) == [alone] * 3
    finally:
        service.stop()


@WITH_SEEDS
@pytest.mark.parametrize("ask", ROUTES)
@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_makes_what_was_said_less_likely_and_a_negative_one_likelier(
        service: Service, ask: Any, penalty: str) -> None:
    fewer, free, more = (len(set(ask(service, {**GREEDY, "max_tokens": 100, penalty: value}).split()))
                         for value in (-2, 0, 2))
    assert fewer <= free < more


@WITH_SEEDS
@pytest.mark.parametrize("ask", ROUTES)
def test_a_bias_makes_a_token_certain_or_impossible(service: Service, ask: Any) -> None:
    free = ask(service, GREEDY).split()
    [said] = service.post("/v1/tokenize", {"input": free[0]}).json()["data"]
    [token] = said["tokens"][-1:]
    assert free[0] not in ask(service, {**GREEDY, "logit_bias": {str(token): -100}}).split()
    assert set(ask(service, {**FREELY, "logit_bias": {str(token): 100}}).split()) == {free[0]}


@WITH_SEEDS
@pytest.mark.parametrize(("path", "body"), [
    ("/gpt4all_api", {"prompt": PROMPT}), ("/v1/completions", {"prompt": PROMPT}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]})])
def test_a_bias_for_what_is_no_token_of_the_model_is_refused(service: Service, tiny_model: Path, path: str,
                                                             body: dict[str, Any]) -> None:
    size = read_header(tiny_model).vocabulary_size
    for token, stream in itertools.product((size - 1, size, 999999999), (False, True)):
        biased = {**body, "max_tokens": 1, "stream": stream, "logit_bias": {"5": 1, str(token): -1}}
        answer = service.post(path, biased)
        assert answer.status_code == (200 if token < size else 400), answer.text
        if token >= size:
            error = answer.json()["error"]
            assert (error["param"], error["type"]) == ("logit_bias", "invalid_request_error")
            assert f"0 to {size - 1}" in error["message"] and str(token) in error["message"]


@WITH_SEEDS
@pytest.mark.parametrize("ask", ROUTES)
def test_the_other_samplers_do_what_they_are_for(service: Service, ask: Any) -> None:
    seeded = {**FREELY, "seed": 3}
    free = ask(service, seeded)
    # The likeliest tokens are left out, where others are likely too; and only typical ones are drawn.
    assert ask(service, {**seeded, "xtc_probability": 1.0, "xtc_threshold": 0.0}) != free
    assert ask(service, {**seeded, "typical_p": 0.01}) != free
    # What would repeat a run of tokens is penalised: a greedy answer that goes in circles doesn't.
    circling = {**GREEDY, "max_tokens": 200}
    words, dry = (ask(service, {**circling, "dry_multiplier": value}).split() for value in (0, 5))
    assert _runs(dry) < _runs(words)


def _runs(words: list[str]) -> int:
    """Return how many runs of four words have been there before."""
    runs = [tuple(words[index:index + 4]) for index in range(len(words) - 3)]
    return len(runs) - len(set(runs))
