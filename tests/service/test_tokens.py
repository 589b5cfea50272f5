"""Token counts against what the models are really given."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from service import Service, until

TEXTS = ["Hello", "the of and to", "naïve café 你好 😀", "</s> is text here", "  two  blanks \n and a line ", "a" * 500]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Iterator[Service]:
    """A service with real models: the embedding one, a completion one, and one that isn't configured."""
    folder = tmp_path_factory.mktemp("models")
    os.link(embedding_model, folder / embedding_model.name)
    tiny_llama.make(folder / "tiny-llama.gguf")
    tiny_llama.make(folder / "second.gguf", seed=2, context=256)
    service = Service(tmp_path_factory.mktemp("service"), {"MODEL_PATH": folder, "MODEL_NAME": "tiny-llama.gguf"})
    service.wait_ready()
    yield service
    service.stop()


def tokenize(service: Service, **body: Any) -> list[dict[str, Any]]:
    answer = service.post("/v1/tokenize", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "list"
    return list(answer.json()["data"])


def check(service: Service, *prompts: tuple[str, str, int]) -> requests.Response:
    return service.post("/api/v1/token_check", {"prompts": [
        {"model": model, "prompt": prompt, "max_tokens": most} for model, prompt, most in prompts]})


@pytest.mark.parametrize("text", TEXTS)
def test_the_count_of_a_prompt_is_what_its_completion_evaluates(counting: Service, text: str) -> None:
    (entry,) = tokenize(counting, model="tiny-llama", input=text)
    assert entry["count"] == len(entry["tokens"])
    used = counting.post("/v1/completions", {"prompt": text, "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert entry["count"] == used
    (checked,) = check(counting, ("tiny-llama", text, 1)).json()["prompts"]
    assert checked == {"fits": True, "tokenCount": used, "contextLength": 2048}


@pytest.mark.parametrize("text", TEXTS[:5])
def test_the_count_of_a_text_is_what_its_embedding_uses_and_the_tokens_around_it(counting: Service, text: str) -> None:
    (entry,) = tokenize(counting, model="all-MiniLM-L6-v2", input=text)
    used = counting.post("/embed", {"input": text}).json()["usage"]["prompt_tokens"]
    assert entry["count"] == used + 2  # [CLS] and [SEP], which take room in the window


def test_the_ids_are_the_vocabularys(counting: Service) -> None:
    # [CLS] the cat sat [SEP], as in BERT's vocab.txt.
    assert tokenize(counting, model="all-MiniLM-L6-v2", input="the cat sat")[0]["tokens"] == [
        101, 1996, 4937, 2938, 102]
    assert tokenize(counting, input="</s>")[0]["tokens"][0] == 1
    assert 2 not in tokenize(counting, input="</s>")[0]["tokens"]  # text, not the end of a turn


def test_many_texts_are_counted_in_their_order(counting: Service) -> None:
    data = tokenize(counting, input=[TEXTS[0]] * 3 + TEXTS)
    assert [entry["index"] for entry in data] == list(range(9))
    assert [entry["count"] for entry in data[3:]] == [tokenize(counting, input=text)[0]["count"] for text in TEXTS]
    assert tokenize(counting, input="word " * 100_000)[0]["count"] > 100_000


def test_prompts_for_several_models_are_checked_against_their_windows(counting: Service) -> None:
    many = "the " * 300
    counts = [tokenize(counting, model=model, input=many)[0]["count"] for model in ("second", "all-MiniLM-L6-v2")]
    answer = check(
        counting, ("second", many, 1), ("tiny-llama", many, 1), ("second", "the", 200), ("second", "the", 300),
        ("all-MiniLM-L6-v2", many, 0), ("gpt-3.5-turbo", "the", 2047), ("gpt-3.5-turbo", "the", 2045)).json()
    assert [prompt["fits"] for prompt in answer["prompts"]] == [False, True, True, False, False, False, True]
    assert [prompt["contextLength"] for prompt in answer["prompts"]] == [256, 2048, 256, 256, 256, 2048, 2048]
    assert (answer["prompts"][0]["tokenCount"], answer["prompts"][4]["tokenCount"]) == tuple(counts)


def test_counting_loads_no_model_and_spends_no_generation(counting: Service) -> None:
    before = counting.lane("completion")
    tokenize(counting, model="second", input="Hello")
    check(counting, ("tiny-llama", "Hello", 1))
    assert "model:second" not in counting.health()["lanes"]
    after = counting.lane("completion")
    assert (after["generation"], after["restarts"]) == (before["generation"], before["restarts"])


@pytest.mark.parametrize(("path", "body", "status", "code", "param"), [
    ("/v1/tokenize", {}, 400, "missing_field", "input"),
    ("/v1/tokenize", {"input": []}, 400, None, "input"),
    ("/v1/tokenize", {"input": 5}, 400, None, "input"),
    ("/v1/tokenize", {"input": "a\0b"}, 400, None, "input.0"),
    ("/v1/tokenize", {"input": "a", "model": "absent"}, 404, "model_not_found", "model"),
    ("/v1/tokenize", {"input": ["a"] * 2049}, 400, "too_many_texts", "input"),
    ("/api/v1/token_check", {"prompts": []}, 400, None, "prompts"),
    ("/api/v1/token_check", {"prompts": [{"model": "tiny-llama", "prompt": "a"}]}, 400, "missing_field",
     "prompts.0.max_tokens"),
    ("/api/v1/token_check", {"prompts": [{"model": "tiny-llama", "prompt": "a", "max_tokens": -1}]}, 400, None,
     "prompts.0.max_tokens"),
    ("/api/v1/token_check", {"prompts": [{"model": "absent", "prompt": "a", "max_tokens": 1}]}, 404, "model_not_found",
     "prompts.0.model"),
])
def test_what_is_wrong_is_named(counting: Service, path: str, body: dict[str, Any], status: int, code: str | None,
                                param: str) -> None:
    answer = counting.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert code in (None, error["code"])


def test_tokens_are_counted_while_the_model_is_busy(start: Callable[..., Service], model_path: Path) -> None:
    scripts.write(model_path, scripts.slowly("slow", 5.0), name="busy")
    service = start(MODEL_NAME="busy.script.json", EMBED_MODEL="none")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(service.post, "/gpt4all_api", {"prompt": "slow", "max_tokens": 100})
        until(lambda: service.lane("completion")["active"])
        assert tokenize(service, input="three words here")[0]["count"] == 3
        assert not slow.done()
        assert slow.result().status_code == 200


def test_a_counting_process_that_dies_is_replaced_and_files_may_change(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start()
    text = "winter morning"
    (before,) = tokenize(service, model="tiny-llama", input=text)
    os.kill(service.pid("vocabulary"), signal.SIGKILL)
    assert tokenize(service, model="tiny-llama", input=text) == [before]
    tiny_llama.malformed(model_path / "aborts.gguf", "impossible_header")
    assert tokenize(service, model="aborts", input=text) == [before]  # its layers are not what is needed
    assert tokenize(service, model="tiny-llama", input=text) == [before]
    (model_path / "tiny-llama.gguf").unlink()
    assert service.post("/v1/tokenize", {"model": "tiny-llama", "input": "a"}).status_code == 404


@pytest.mark.settings(EMBED_MODEL="none")
@pytest.mark.parametrize("engine", ["llamacpp", "gpt4all"])
def test_the_tokens_of_a_conversation_are_those_of_its_prompt(start: Callable[..., Service], engine: str) -> None:
    body = {"system": "Be brief.", "messages": [{"role": "user", "content": "Hello </s> there"}]}
    counts = set()
    for folder, template in (("file", ""), ("setting", "### Human: %1\n### Assistant:")):
        service = start(CHAT_ENGINE=engine, PROMPT_TEMPLATE=template, folder=folder)
        counted = service.post("/v1/messages/count_tokens", body).json()["input_tokens"]
        assert counted == service.post("/v1/messages", {**body, "max_tokens": 1}).json()["usage"]["input_tokens"]
        counts.add(counted)
        service.stop()
    assert len(counts) == 2
