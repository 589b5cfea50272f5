"""What real clients send beside what is documented: it is taken, or refused in words that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from service import Service, until

CHAT, TEXT, EMBEDDINGS, EMBED, ASK = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/embed",
                                      "/gpt4all_api")
USER = {"role": "user", "content": "count"}
WINDOW = 64


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two scripted models of each kind; each completion model answers with its name."""
    folder = tmp_path_factory.mktemp("scripted")
    for name in ("first", "second"):
        scripts.write(folder, {"when": "fail later", "do": "error", "after": 1}, {"when": "fail", "do": "error"},
                      {"when": "much", "pieces": ["word "] * 100}, {"when": "", "pieces": [f"I am {name}."]}, name=name,
                      context_length=WINDOW)
        scripts.write(folder, {"when": "fail", "do": "error"}, name=f"{name}-vectors", kind="embedding")
    service = Service(tmp_path_factory.mktemp("service"), {
        "MODEL_PATH": folder, "MODEL_NAME": "first.script.json", "EMBED_MODEL": "first-vectors.script.json",
        "N_CTX": WINDOW, "MODEL_ALIASES": "gpt-3.5-turbo=completion,other=second,other-vectors=second-vectors,"
                                          "text-embedding-ada-002=embedding"})
    service.wait_ready()
    yield service
    service.stop()


def chat(service: Service, *messages: dict[str, Any], **fields: Any) -> requests.Response:
    return service.post(CHAT, {"messages": list(messages), **fields})


def ignored(answer: requests.Response) -> set[str]:
    """Return the fields that an answer says were ignored."""
    assert answer.status_code == 200, answer.text
    named = answer.headers.get("X-Ignored-Fields")
    return set(named.split(", ")) if named else set()


# -- fields -----------------------------------------------------------------------------------------------------

def test_unknown_fields_of_openais_routes_are_ignored_and_named(scripted: Service) -> None:
    message = {**USER, "content": [{"type": "text", "text": "count", "cache_control": {}}], "weight": 1}
    for stream in (False, True):
        answer = chat(scripted, message, message, stream=stream, safety_identifier="me", verbosity=None,
                      stream_options={"include_usage": True, "more": 1} if stream else None)
        named = {"safety_identifier", "verbosity", "messages.weight", "messages.content.cache_control"}
        assert ignored(answer) == named | ({"stream_options.more"} if stream else set())
    for path, body in ((TEXT, {"prompt": "count"}), (EMBEDDINGS, {"input": "a"}), (EMBEDDINGS, {"input": ["a"] * 50}),
                       ("/v1/engines/first-vectors/embeddings", {"input": "a"}), ("/v1/tokenize", {"input": "a"}),
                       ("/api/v1/token_check", {"prompts": [{"model": "first", "prompt": "a", "max_tokens": 1}]})):
        for _ in range(2):
            assert ignored(scripted.post(path, {**body, "novelty": {"a": [1]}})) == {"novelty"}
        assert ignored(scripted.post(path, body)) == set()
    strange = "\x1b[31m\r\nX-Evil: 1" + "k" * 500
    (named,) = ignored(scripted.post(EMBEDDINGS, {"input": "a", strange: 1}))
    assert len(named) == 40 and named.startswith("??31m??X-Evil?")
    many = ignored(scripted.post(TEXT, {"prompt": "count", **{f"field{number}": 1 for number in range(1000)}}))
    assert len(many) == 21 and "..." in many


def test_an_ignored_field_is_in_the_log_once(scripted: Service) -> None:
    for number in range(3):
        assert ignored(chat(scripted, USER, fresh=number)) == {"fresh"}
        assert ignored(scripted.post(EMBEDDINGS, {"input": "a", "fresher": number})) == {"fresher"}
    log = scripted.log_folder / "watchdog.log"
    for name in ("fresh", "fresher"):
        until(lambda word=f" {name}\n": word in log.read_text(), what="a line of the log")
        assert log.read_text().count(f"is ignored: {name}\n") == 1


def test_native_routes_refuse_unknown_fields(scripted: Service) -> None:
    for path, body in ((EMBED, {"input": "a"}), (ASK, {"prompt": "a"})):
        error = scripted.post(path, {**body, "novelty": 1}).json()["error"]
        assert (error["code"], error["param"]) == ("unknown_field", "novelty")


def test_an_answer_of_the_service_comes_back_as_a_client_dumps_it(scripted: Service) -> None:
    message = chat(scripted, USER).json()["choices"][0]["message"]
    dumped = {**message, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    assert ignored(chat(scripted, USER, dumped, USER)) == {"messages.annotations"}
    for more in ({"annotations": []}, {"tool_calls": []}, {"name": None}, {"reasoning_content": "hm"}):
        assert chat(scripted, USER, {**dumped, **more}, USER).status_code == 200


def test_the_content_of_an_assistant_may_be_left_out(scripted: Service) -> None:
    for message in ({"content": None}, {}, {"content": ""}, {"content": []}):
        assert chat(scripted, USER, {"role": "assistant", **message}, USER).status_code == 200
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": "5", "tool_call_id": "a"}
    assert chat(scripted, USER, called, result).status_code == 200
    assert chat(scripted, USER, called, {**result, "content": None}).status_code == 200
    for message, param in (({**called, "tool_calls": [{"id": "a"}]}, "tool_calls.0.function"),
                           ({**USER, "tool_calls": [call]}, "tool_calls"),
                           ({**result, "tool_call_id": None}, "tool_call_id"),
                           ({**result, "role": "function"}, "role"), ({**USER, "function_call": {}}, "function_call")):
        error = chat(scripted, USER, message).json()["error"]
        assert error["param"] == f"messages.1.{param}" and "tool" in error["message"]


def test_tokens_beyond_the_window_are_cut_to_what_fits(scripted: Service) -> None:
    for fields in ({"max_tokens": 10**6}, {"max_tokens": -1}, {"max_completion_tokens": WINDOW + 1},
                   {"max_completion_tokens": -1}, {"max_tokens": None}):
        usage = chat(scripted, {"role": "user", "content": "much"}, **fields).json()["usage"]
        assert usage["total_tokens"] == WINDOW
    for path in (TEXT, ASK):
        usage = scripted.post(path, {"prompt": "much", "max_tokens": 10**6}).json()["usage"]
        assert usage["total_tokens"] == WINDOW


def test_an_empty_stop_is_none(scripted: Service) -> None:
    for stop in ("", [""], [], None, ["", ""]):
        for path, body in ((CHAT, {"messages": [USER]}), (TEXT, {"prompt": "count"}), (ASK, {"prompt": "count"})):
            answer = scripted.post(path, {**body, "stop": stop})
            assert answer.status_code == 200 and "I am first." in answer.text
    assert chat(scripted, USER, stop=["", "first"]).json()["choices"][0]["message"]["content"] == "I am "


def test_a_larger_window_is_advised_where_it_would_help(
        start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.make(model_path / "narrow.gguf", seed=2, context=32)
    service = start(N_CTX=32, EMBED_MODEL="none")
    for model, prompt, helps in (("tiny-llama", "word " * 40, True), ("tiny-llama", "word " * 5000, False),
                                 ("narrow", "word " * 40, False)):
        for path, body, field in (
                (CHAT, {"messages": [{"role": "user", "content": prompt}]}, "messages"),
                (TEXT, {"prompt": prompt}, "prompt"), (ASK, {"prompt": prompt}, "prompt")):
            error = service.post(path, {**body, "model": model}).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", field)
            assert ("N_CTX" in error["message"]) is helps


# -- models -----------------------------------------------------------------------------------------------------

def test_the_native_completion_route_serves_the_model_that_is_named(scripted: Service) -> None:
    for model, name in (("first", "first"), ("", "first"), (None, "first"), ("gpt-3.5-turbo", "first"),
                        ("second", "second"), ("second.script.json", "second"), ("other", "second")):
        answer = scripted.post(ASK, {"prompt": "Hi", "model": model}).json()
        assert (answer["response"], answer["model"]) == (f"I am {name}.", name)
    streamed = scripted.post(ASK, {"prompt": "Hi", "model": "second", "stream": True})
    assert "I am second." in streamed.text
    for stream in (False, True):
        answer = scripted.post(ASK, {"prompt": "Hi", "model": "absent", "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert scripted.post(ASK, {"prompt": "Hi", "model": "first-vectors"}).status_code == 400


def test_embed_serves_a_listed_embedding_model_by_name_and_takes_any_other_name(scripted: Service) -> None:
    for model, name in (("first-vectors", "first"), ("", "first"), ("text-embedding-ada-002", "first"),
                        ("whatever it is", "first"), ("first", "first"), ("second", "first"),
                        ("gpt-3.5-turbo", "first"), ("second-vectors", "second"),
                        ("second-vectors.script.json", "second"), ("other-vectors", "second"), ("m" * 5000, "first"),
                        ("../first-vectors", "first")):
        for texts in ("one", ["a text"] * 50):
            for _ in range(2):
                answer = scripted.post(EMBED, {"input": texts, "model": model})
                assert (answer.status_code, answer.json()["model"]) == (200, f"{name}-vectors")


def test_embed_serves_a_model_that_came_under_a_name_that_nothing_had(scripted: Service) -> None:
    def served_by() -> str:
        return str(scripted.post(EMBED, {"input": "one", "model": "late"}).json()["model"])

    assert served_by() == "first-vectors"
    folder = Path(str(scripted.settings["MODEL_PATH"]))
    scripts.write(folder, name="late", kind="embedding")
    until(lambda: served_by() == "late")


def test_the_default_embedding_model_answers_to_its_usual_names(served: Service) -> None:
    key = {"Authorization": "Bearer " + str(served.settings["API_KEYS"])}
    for name in ("all-minilm", "all-minilm:latest", "sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2",
                 "text-embedding-3-large", "text-embedding-3-small", "text-embedding-ada-002"):
        for path in (EMBEDDINGS, EMBED):
            answer = served.post(path, {"model": name, "input": "a"}, headers=key)
            assert (answer.status_code, answer.json()["model"]) == (200, "all-MiniLM-L6-v2"), name
        assert requests.get(f"{served.url}/v1/models/{name}", headers=key, timeout=120).status_code == 200


def test_a_name_with_a_colon_is_quoted_as_it_is(scripted: Service) -> None:
    for name in ("llama3:8b", "hf.co/org/model:Q4_K_M", "user/model@1.0"):
        for answer in (chat(scripted, USER, model=name), scripted.post(ASK, {"prompt": "a", "model": name}),
                       requests.get(f"{scripted.url}/v1/models/{name}", timeout=120)):
            message = answer.json()["error"]["message"]
            assert answer.status_code == 404 and f" {name} " in message and "pull" not in message


# -- paths ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "named"), [
    ("/v1/v1/chat/completions", "/v1/chat/completions"), ("/v1/v1/models", "/v1/models"),
    ("/chat/completions", "/v1/chat/completions"), ("/completions", "/v1/completions"),
    ("/embeddings", "/v1/embeddings"), ("/models", "/v1/models"), ("/openai/v1/embeddings/", "/v1/embeddings"),
    ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
    ("/v1", "/docs"), ("/v1/audio/speech", "/docs"), ("/nowhere", "/v1"), ("/responses", "/v1/responses"),
    ("/v1/chat/completion", "POST /v1/chat/completions"), ("/embd", "POST /embed"),
    ("/v1/embedding", "POST /v1/embeddings"), ("/gpt4all-api", "POST /gpt4all_api"), ("/v1/Model", "GET /v1/models"),
    ("/generate", "POST /api/generate"), ("/metric/", "GET /metrics"), ("/v1/api/chat", "POST /api/chat"),
    ("/embed" * 20, "/docs"), ("/embed/%7B%7D%0a", "/docs"),
])
def test_a_path_that_is_not_there_is_answered_with_the_one_that_is_meant(scripted: Service, path: str, named: str
                                                                         ) -> None:
    for method in ("GET", "POST"):
        answer = requests.request(method, scripted.url + path, json={}, timeout=120)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "path_not_found")
        assert named in error["message"]


# -- failures ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "body"), [
    (CHAT, {"messages": [{"role": "user", "content": "fail"}]}), (TEXT, {"prompt": ["fail", "fail"]}),
    (ASK, {"prompt": "fail"}), (ASK, {"prompt": "fail later", "stream": True}), (EMBED, {"input": "fail"}),
    (EMBEDDINGS, {"input": ["fail"] * 50})], ids=["completion", "texts", "native", "stream", "express", "embeddings"])
def test_a_500_leaves_its_stack_in_the_log_under_its_id(scripted: Service, path: str, body: dict[str, Any]) -> None:
    answer = scripted.post(path, body)
    assert answer.status_code == (200 if body.get("stream") else 500) and "engine_failed" in answer.text
    log = scripted.log_folder / "watchdog.log"

    def stack() -> list[str]:
        begun = f"request {answer.headers['X-Request-Id']} failed: EngineFailed"
        return log.read_text().partition(begun)[2].split("\n")

    # It tells where it was raised: in the model's process.
    until(lambda: any("scripted.py" in line for line in stack()[:30]), what="the stack")
