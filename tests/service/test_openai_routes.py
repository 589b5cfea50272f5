"""OpenAI's routes by their JSON: what is answered, and what is refused by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import scripts
from service import Service, until

WORDS = ["one ", "two ", "three ", "four"]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose completions are scripted and whose embeddings come from a script too."""
    folder = tmp_path_factory.mktemp("scripted")
    chat = scripts.write(folder, {"when": "count", "pieces": WORDS},
                         {"when": "long", "pieces": ["word "] * 100},
                         {"when": "best", "pieces": ["cut "] * 100, "times": 1},
                         {"when": "best", "pieces": ["ended"]},
                         {"when": "crash", "do": "crash"}, {"when": "fail later", "do": "error", "after": 1},
                         name="played", context_length=64)
    embed = scripts.write(folder, name="vectors", kind="embedding")
    service = Service(tmp_path_factory.mktemp("service"), {
        "MODEL_PATH": folder, "MODEL_NAME": chat, "EMBED_MODEL": embed, "N_CTX": 64, "CHAT_PROCESSES": 2,
        "MODEL_ALIASES": "gpt-3.5-turbo=completion,text-embedding-ada-002=embedding,old=played"})
    service.wait_ready()
    yield service
    service.stop()


def events(answer: requests.Response) -> list[Any]:
    """Return the events of a stream, without the last one, which has to be [DONE]."""
    assert answer.headers["Content-Type"].startswith("text/event-stream"), answer.text
    assert b"\r" not in answer.content and answer.content.isascii()
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def chat(service: Service, content: Any = "count", **fields: Any) -> requests.Response:
    return service.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **fields})


def text(service: Service, prompt: Any = "count", **fields: Any) -> requests.Response:
    return service.post("/v1/completions", {"prompt": prompt, **fields})


def test_the_models_are_listed_and_found_by_every_name(scripted: Service) -> None:
    listed = requests.get(scripted.url + "/v1/models").json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["vectors", "played"]
    assert all(entry["object"] == "model" and entry["created"] > 10**9 and entry["owned_by"] for entry in
               listed["data"])
    for name, found in {"played": "played", "old": "played", "gpt-3.5-turbo": "played", "played.script.json": "played",
                        "text-embedding-ada-002": "vectors", "vectors": "vectors"}.items():
        assert requests.get(f"{scripted.url}/v1/models/{name}/").json()["id"] == found
    absent = requests.get(scripted.url + "/v1/models/gpt-9")
    assert absent.status_code == 404 and absent.json()["error"]["code"] == "model_not_found"
    assert "pull gpt-9" in absent.json()["error"]["message"]
    for word in ("embedding", "completion", "../etc/passwd", "<b>"):
        assert requests.get(f"{scripted.url}/v1/models/{word}").status_code == 404


def test_a_chat_answer_has_openais_form(scripted: Service) -> None:
    answer = chat(scripted, model="gpt-3.5-turbo").json()
    assert answer.pop("id").startswith("chatcmpl-") and type(answer.pop("created")) is int
    prompt_tokens = answer["usage"]["prompt_tokens"]
    assert answer == {
        "object": "chat.completion", "model": "played",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two three four", "refusal": None},
                     "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 4, "total_tokens": prompt_tokens + 4}}


def test_a_text_answer_has_openais_form_and_16_tokens_unless_told(scripted: Service) -> None:
    answer = text(scripted, "long").json()
    assert answer.pop("id").startswith("cmpl-") and type(answer.pop("created")) is int
    assert answer == {
        "object": "text_completion", "model": "played",
        "choices": [{"index": 0, "text": "word " * 16, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 16, "total_tokens": 17}}


def test_a_chat_without_max_tokens_goes_on_to_the_end_of_the_window(scripted: Service) -> None:
    answer = chat(scripted, "long").json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64
    for name in ("max_tokens", "max_completion_tokens"):
        assert chat(scripted, "long", **{name: 3}).json()["choices"][0]["message"]["content"] == "word word word "


def test_a_real_model_without_max_tokens_goes_on_to_the_end_of_the_window(start: Callable[..., Service]) -> None:
    service = start(N_CTX=64, EMBED_MODEL="none")
    answer = chat(service, "Hello").json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64
    few = chat(service, "Hello", max_tokens=4, prompt_batch_size=1, thread_count=99).json()
    assert few["usage"]["completion_tokens"] == 4 and few["model"] == "tiny-llama"


@pytest.mark.parametrize("usage", [False, True])
def test_a_chat_stream_is_a_role_then_text_then_an_end(scripted: Service, usage: bool) -> None:
    chunks = events(chat(scripted, stream=True, stream_options={"include_usage": usage}))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["model"] == "played" for chunk in chunks)
    if usage:
        last = chunks.pop()
        assert last["choices"] == [] and last["usage"]["completion_tokens"] == 4
        assert all(chunk["usage"] is None for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"]["content"] for choice in choices[1:-1]) == "one two three four"
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == "stop"
    assert all(choice["index"] == 0 and choice["finish_reason"] is None for choice in choices[:-1])


def test_a_text_stream_ends_with_its_reason(scripted: Service) -> None:
    chunks = events(text(scripted, stream=True, echo=True, max_tokens=2))
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["count", "one ", "two ", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]


def test_each_of_n_choices_comes_from_a_process_of_its_own(scripted: Service) -> None:
    before = scripted.lane("completion")["restarts"]["spent"]
    answer = chat(scripted, n=3).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"one two three four"}
    one = chat(scripted).json()["usage"]
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["prompt_tokens"] == one["prompt_tokens"]
    # Its end is counted a moment after its answer.
    until(lambda: scripted.lane("completion")["restarts"]["spent"] - before >= 4)


@pytest.mark.parametrize("form", ["completion", "text"])
def test_choices_of_a_stream_are_told_apart_by_their_index(scripted: Service, form: str) -> None:
    answer = chat(scripted, n=4, stream=True) if form == "completion" else text(scripted, ["count", "count up"], n=2,
                                                                          stream=True)
    texts = dict.fromkeys(range(4), "")
    ends = []
    for chunk in events(answer):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "") if form == "completion" else choice["text"]
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert set(texts.values()) == {"one two three four"} and sorted(ends) == [0, 1, 2, 3]


def test_several_prompts_have_their_choices_in_order_and_echo_shows_each_prompt(scripted: Service) -> None:
    answer = text(scripted, ["count", "long"], n=2, echo=True, max_tokens=2, prompt_template="### %1:").json()
    assert [choice["text"] for choice in answer["choices"]] == ["countone two ", "countone two ", "longword word ",
                                                                "longword word "]
    assert answer["usage"]["completion_tokens"] == 8


def test_best_of_prefers_what_came_to_its_own_end_and_counts_all(scripted: Service) -> None:
    answer = text(scripted, "best", best_of=3, n=2, max_tokens=5).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "ended"), (1, "ended")]
    assert answer["usage"]["completion_tokens"] == 5 + 1 + 1


def test_stop_strings_end_a_completion_and_are_never_shown(scripted: Service) -> None:
    for stop in ("e four", ["nowhere", "e four", *map(str, range(14))]):
        answer = chat(scripted, stop=stop).json()["choices"][0]
        assert answer["message"]["content"] == "one two thre" and answer["finish_reason"] == "stop"
    chunks = events(text(scripted, stop=["two three"], stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one "


def test_a_request_whose_completions_fail_fails_as_a_whole(scripted: Service) -> None:
    answer = text(scripted, ["count", "fail later", "count"])
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
    broken = text(scripted, ["fail later", "fail later"], stream=True)
    assert broken.status_code == 200
    last = broken.text.rstrip("\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"
    crashed = chat(scripted, "crash", n=2)
    assert crashed.status_code == 500 and crashed.json()["error"]["code"] == "model_crashed"


def test_roles_parts_and_null_fields_are_taken(scripted: Service) -> None:
    messages = [{"role": "developer", "content": "Be brief.", "name": None},
                {"role": "assistant", "content": "Yes?", "refusal": None, "tool_calls": None},
                {"role": "user", "content": [{"type": "text", "text": "please"}, {"type": "text", "text": "count"}]},
                {"role": "assistant", "content": "well"}]
    neutral = {"model": None, "max_tokens": None, "stop": None, "seed": None, "logit_bias": {}, "frequency_penalty": 0,
               "presence_penalty": 0.0, "logprobs": False, "top_logprobs": None, "tools": [], "tool_choice": None,
               "functions": None, "response_format": {"type": "text"}, "user": "me", "n": 1, "stream": False,
               "stream_options": None, "reload": True, "repeat_penality": 1.1, "repeat_last_n": 8, "temperature": 0,
               "top_p": 0, "top_k": 1, "min_p": 0.1}
    kept = {"store": True, "metadata": {"a": "b"}, "service_tier": "flex"}  # nothing is, whatever they say
    answer = scripted.post("/v1/chat/completions", {"messages": messages, **neutral, **kept})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "one two three four"
    assert answer.headers["X-Ignored-Fields"].split(", ") == list(kept)
    neutral = {"suffix": None, "logprobs": None, "best_of": 1, "echo": False, "logit_bias": None}
    assert text(scripted, **neutral).status_code == 200


@pytest.mark.parametrize(("field", "value"), [
    ("logprobs", True), ("top_logprobs", 2), ("logit_bias", {"5": 1}), ("seed", 1), ("frequency_penalty", 0.5),
    ("presence_penalty", -0.5), ("tools", [{"type": "function"}]), ("functions", [{"name": "f"}]),
    ("response_format", {"type": "json_object"}), ("stop", ["a"] * 17), ("n", 17), ("n", 0),
    ("logit_bias", {"50256": "-100"}), ("logit_bias", {"50256": None}), ("logit_bias", {"50256": {}}),
    ("max_tokens", 0), ("max_tokens", -2), ("max_completion_tokens", 0), ("temperature", 2.1),
    ("top_p", -0.1),
    ("repeat_last_n", 65), ("thread_count", 0), ("prompt_batch_size", 0), ("stream_options", {"include_usage": True}),
    ("audio", {}), ("messages", []), ("messages", None), ("messages", "hi"),
    ("messages", [{"role": "tool", "content": "x"}]), ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": "a\0b"}]), ("messages", [{"role": "user", "content": " "}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages", [{"role": "user", "content": "x", "tool_calls": [{}]}]), ("messages", ["hi"]),
    ("messages", [{"role": "user"}]), ("messages", [{"role": "system", "content": []}]),
    ("messages", [{"role": "assistant", "content": None}]), ("messages", [{"role": "assistant", "audio": {"id": "a"}}]),
])
def test_what_chat_cannot_do_is_refused_by_its_name(scripted: Service, field: str, value: Any) -> None:
    answer = chat(scripted, **{field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error", answer.text
    assert error["param"].split(".")[0] == field and field in error["message"]


@pytest.mark.parametrize(("field", "value"), [
    ("suffix", "end"), ("logprobs", 0), ("seed", 7), ("best_of", 17), ("prompt", [1, 2]), ("prompt", [[1], [2]]),
    ("prompt", []), ("prompt", ["x"] * 65), ("prompt", ["fine", 5]), ("prompt", None), ("prompt_template", "no mark"),
    ("prompt", "a\0"), ("prompt", ""), ("max_tokens", 0), ("max_tokens", -1),
])
def test_what_completions_cannot_do_is_refused_by_its_name(scripted: Service, field: str, value: Any) -> None:
    answer = scripted.post("/v1/completions", {"prompt": "count", field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error", answer.text
    assert error["param"].split(".")[0] == field and field in error["message"]


def test_what_the_engine_has_nothing_for_is_refused_with_its_name(scripted: Service) -> None:
    sampled = {"seed": 0, "logit_bias": {"50256": -100}, "frequency_penalty": 2, "presence_penalty": -0.5}
    for path, body, fields in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "count"}]},
             {"logprobs": True, "top_logprobs": 20, "grammar": "start: \"a\"",
              "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": {}}}}),
            ("/v1/completions", {"prompt": "count"}, {"logprobs": 0, "suffix": "end", "regex": "a"}),
            ("/gpt4all_api", {"prompt": "count"}, {"format": {"type": "object"}})):
        for field, value in {**sampled, **fields}.items():
            error = scripted.post(path, {**body, field: value}).json()["error"]
            assert error["param"] == field and error["message"].startswith(f"'{field}' has to be ")
            assert "left out: scripted " in error["message"]
        # What no engine takes is told before, without any engine's name.
        for field, value, allowed in (
                ("seed", "7", "a whole number"), ("frequency_penalty", 2.1, "a number from -2 to 2"),
                ("logit_bias", {"5": 1, "fifty": 1}, "without 'fifty': "),
                ("logit_bias", {"50": 101}, "a number from -100 to 100 for the token 50, not 101."),
                ("logit_bias", {"50": "1"}, "a number from -100 to 100 for the token 50, not a string."),
                ("logit_bias", [], "an object of up to 1024 token ids"),
                ("logit_bias", dict.fromkeys(map(str, range(1025)), 1), "an object of up to 1024 token ids")):
            error = scripted.post(path, {**body, field: value}).json()["error"]
            assert error["param"] == field and error["message"].startswith(f"'{field}' has to be {allowed}")
        neutral = {"seed": None, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0}
        assert scripted.post(path, {**body, **neutral}).status_code == 200


def test_fields_that_contradict_each_other_are_refused(scripted: Service) -> None:
    for fields, param in (({"n": 3, "best_of": 2}, "best_of"), ({"best_of": 2, "stream": True}, "best_of"),
                          ({"repeat_penalty": 1.0, "repeat_penality": 1.0}, "repeat_penality"),
                          ({"prompt": ["x"] * 40, "n": 4}, "prompt")):
        error = scripted.post("/v1/completions", {"prompt": "count", **fields}).json()["error"]
        assert error["param"] == param


def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(scripted: Service) -> None:
    answer = text(scripted, "word " * 70)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded"
    assert "70" in error["message"] and "64" in error["message"]
    # The model's own window is no larger.
    assert "N_CTX" not in error["message"] and error["param"] == "prompt" and "'prompt'" in error["message"]
    for form in ("word " * 70, [{"type": "text", "text": "word " * 70}]):
        for stream in (False, True):
            error = chat(scripted, form, stream=stream).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
            assert "'messages'" in error["message"]


def test_an_unknown_model_is_404_and_one_of_the_other_kind_400(scripted: Service) -> None:
    for path, body in (("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})):
        answer = scripted.post(path, {**body, "model": "gpt-9"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
        other = "gpt-3.5-turbo" if path == "/v1/embeddings" else "text-embedding-ada-002"
        answer = scripted.post(path, {**body, "model": other})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"


def test_embeddings_have_openais_form_on_both_paths(scripted: Service) -> None:
    texts = ["one", "", "two words"]
    answer = scripted.post("/v1/embeddings", {"input": texts, "model": "text-embedding-ada-002", "user": "me",
                                              "dimensions": 384, "encoding_format": None}).json()
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2] and answer["model"] == "vectors"
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    coded = scripted.post("/v1/engines/vectors/embeddings/", {"input": texts, "encoding_format": "base64"}).json()
    for plain, packed in zip(answer["data"], coded["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
        assert vector.shape == (384,) and np.abs(vector - np.array(plain["embedding"])).max() < 1e-6


@pytest.mark.parametrize(("field", "value"), [
    ("input", []), ("input", 5), ("input", [1, 2]), ("input", [[1], [2]]), ("input", {"a": 1}), ("input", None),
    ("dimensions", 96), ("dimensions", 0), ("encoding_format", "hex"), ("user", 5)])
def test_what_embeddings_cannot_do_is_refused_by_its_name(scripted: Service, field: str, value: Any) -> None:
    answer = scripted.post("/v1/embeddings", {"input": "x", field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == field, answer.text


def test_token_ids_are_refused_with_the_option_that_cures_it(scripted: Service) -> None:
    for ids in ([1, 2], [[1, 2], [3]]):
        error = scripted.post("/v1/embeddings", {"input": ids}).json()["error"]
        assert "check_embedding_ctx_length=False" in error["message"]


def test_a_client_that_leaves_ends_all_choices_at_once(tmp_path: Path, start: Callable[..., Service]) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    slow = scripts.write(folder, scripts.slowly("", 60), name="slow")
    embed = scripts.write(folder, name="vectors", kind="embedding")
    service = start(MODEL_PATH=folder, MODEL_NAME=slow, EMBED_MODEL=embed, CHAT_PROCESSES=2)
    body = {"messages": [{"role": "user", "content": "x"}], "n": 8}
    for stream in (False, True):
        if stream:
            with requests.post(service.url + "/v1/chat/completions", json={**body, "stream": True}, stream=True,
                               timeout=10) as answer:
                assert next(answer.iter_content(1)) == b"d"
        else:
            with pytest.raises(requests.Timeout):
                requests.post(service.url + "/v1/chat/completions", json=body, timeout=(5, 1.0))
        until(lambda: (service.lane("completion")["active"], service.lane("completion")["queue"]) == (0, 0), within=10)


def test_choices_beyond_the_queue_wait_instead_of_failing_their_own_request(
        tmp_path: Path, start: Callable[..., Service]) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    played = scripts.write(folder, {"when": "", "pieces": WORDS, "seconds": 0.02})
    embed = scripts.write(folder, name="vectors", kind="embedding")
    service = start(MODEL_PATH=folder, MODEL_NAME=played, EMBED_MODEL=embed, QUEUE_LIMIT=0, CHAT_PROCESSES=2)
    answer = chat(service, n=6)
    assert answer.status_code == 200 and len(answer.json()["choices"]) == 6, answer.text
