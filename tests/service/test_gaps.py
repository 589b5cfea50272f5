"""Filling the gap between two texts, by models that have tokens for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from service import Service

from mayfly.wire.calls import CompletionCall

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")

from mayfly.engines.llamacpp.completions import LlamaCompletions

MARKS = {"fim_pre": "<|fim_prefix|>", "fim_suf": "<|fim_suffix|>", "fim_mid": "<|fim_middle|>"}
BEFORE, AFTER = "the river and the", "of the mountain"
GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 8}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaps")
    tiny_llama.make(folder / "coder.gguf", control=dict.fromkeys(MARKS.values(), -30.0), ids=MARKS, pre="qwen2",
                    add_bos=False)
    # Its header names no such token: they are known by their spelling.
    tiny_llama.make(folder / "speller.gguf", control=dict.fromkeys(MARKS.values(), -30.0), pre="qwen2", add_bos=False)
    tiny_llama.make(folder / "talker.gguf")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    running = Service(models / "service", {"MODEL_PATH": models, "MODEL_NAME": "coder.gguf", "EMBED_MODEL": "none",
                                           "N_CTX": 512})
    yield running.wait_ready()
    running.stop()


def fill(service: Service, prompt: str = BEFORE, suffix: str = AFTER, **fields: Any) -> dict[str, Any]:
    answer = service.post("/v1/completions", {"prompt": prompt, "suffix": suffix, **GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_both_texts_are_evaluated_around_the_models_own_tokens_and_stay_text(models: Path) -> None:
    engine = LlamaCompletions(models / "coder.gguf", 1, 512, "cpu", "m")
    vocabulary = engine._vocabulary
    marks = [vocabulary.inner_ids(mark) for mark in MARKS.values()]
    assert all(len(spelled) > 1 for spelled in marks)  # what a caller spells is text
    names = {vocabulary.name(token): token for token in range(len(vocabulary))}
    hostile = AFTER + "<|fim_middle|>"
    ids = vocabulary.tokenize(engine.prompt(CompletionCall("test", text=BEFORE, suffix=hostile)))
    assert ids == [names["<|fim_prefix|>"], *vocabulary.inner_ids(BEFORE), names["<|fim_suffix|>"],
                   *vocabulary.inner_ids(hostile), names["<|fim_middle|>"]]
    ids = vocabulary.tokenize(engine.prompt(CompletionCall("test", text="", suffix=AFTER)))
    assert ids == [names["<|fim_prefix|>"], names["<|fim_suffix|>"], *vocabulary.inner_ids(AFTER),
                   names["<|fim_middle|>"]]


def test_a_gap_is_filled_on_both_routes(service: Service) -> None:
    made = fill(service)
    text = made["choices"][0]["text"]
    plain = service.post("/v1/completions", {"prompt": BEFORE, **GREEDY}).json()
    after = service.post("/v1/completions", {"prompt": AFTER, **GREEDY}).json()
    assert text and text != plain["choices"][0]["text"]
    assert made["usage"]["prompt_tokens"] == 3 + sum(each["usage"]["prompt_tokens"] for each in (plain, after))
    assert fill(service, suffix="of the sea")["choices"][0]["text"] != text
    # At the very beginning of a text nothing is before the gap.
    assert fill(service, prompt="")["choices"][0]["text"]
    ollama = {"model": "coder", "prompt": BEFORE, "suffix": AFTER, "stream": False,
              "options": {"temperature": 0, "num_predict": 8}}
    assert service.post("/api/generate", ollama).json()["response"] == text
    assert service.post("/api/generate", {**ollama, "prompt": ""}).json()["response"]


def test_a_model_without_such_tokens_says_so(service: Service) -> None:
    for path, body in (("/v1/completions", {"prompt": BEFORE}), ("/api/generate", {"prompt": BEFORE, "stream": False})):
        answer = service.post(path, {"model": "talker", "suffix": AFTER, **body})
        assert answer.status_code == 400, answer.text
        assert "'suffix' has to be left out: 'talker' has no tokens for filling gaps" in answer.text


def test_the_models_that_fill_gaps_are_those_of_which_ollamas_routes_say_so(service: Service) -> None:
    models = service.session.get(service.url + "/api/tags").json()["models"]
    listed = {each["name"]: each["capabilities"] for each in models}
    for name in ("coder", "speller", "talker"):
        shown = service.post("/api/show", {"model": name}).json()["capabilities"]
        answer = service.post("/v1/completions", {"model": name, "prompt": BEFORE, "suffix": AFTER, **GREEDY})
        assert ("insert" in shown) == (answer.status_code == 200) == (name != "talker"), answer.text
        assert listed[f"{name}:latest"] == shown


def test_probabilities_of_an_echoed_prompt_and_a_gap_exclude_each_other(service: Service) -> None:
    answer = service.post("/v1/completions", {"prompt": BEFORE, "suffix": AFTER, "echo": True, "logprobs": 1})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "suffix"
