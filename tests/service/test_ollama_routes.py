"""Ollama's API, as its clients use it: names, forms, errors, what is too long, and what loads and leaves."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ollama_rig
import pytest
import requests
import scripts
from clients import COUNTED, GREETING, KEY
from service import Service, until

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
COUNT = [{"role": "user", "content": "count"}]
TEXT = "The cat sat on the mat."
DECADES = 20 * 365 * 86400.0
# Fields that a client sends though it means nothing by them.
NOTHING: dict[str, Any] = {"suffix": "", "system": "", "template": "", "format": "", "raw": False, "tools": [],
                           "images": [], "think": None, "keep_alive": None, "logprobs": None, "of_tomorrow": {"a": 1}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path, tiny_model: Path) -> Iterator[Service]:
    service = ollama_rig.begin(tmp_path_factory.mktemp("ollama"), embedding_model, tiny_model)
    service.wait_ready()
    yield service
    service.stop()


def ask(service: Service, path: str, **body: Any) -> dict[str, Any]:
    answer = service.post(path, {"stream": False, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def lines(service: Service, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = service.post(path, body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.content.endswith(b"\n") and b"\n\n" not in answer.content and answer.content.isascii()
    return [json.loads(line) for line in answer.content.splitlines()]


def refused(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    [(name, message)] = answer.json().items()
    assert name == "error" and isinstance(message, str)
    return message


# -- forms --------------------------------------------------------------------------------------------------------


def test_who_asks_whether_it_runs_is_told(service: Service) -> None:
    assert requests.get(service.url, timeout=60).text == "Ollama is running"
    for path in ("", "/api/version", "/api/tags"):
        assert requests.head(service.url + path, timeout=60).status_code == 200
    version = requests.get(service.url + "/api/version", timeout=60).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


def test_a_chat_and_its_stream_agree(service: Service) -> None:
    whole = ask(service, "/api/chat", model="llama3.2", messages=COUNT, **NOTHING)
    assert whole["message"] == {"role": "assistant", "content": COUNTED} and whole["model"] == "llama3.2"
    assert (whole["done"], whole["done_reason"], whole["eval_count"]) == (True, "stop", 4)
    assert whole["prompt_eval_count"] > 0 and "dropped_messages" not in whole
    streamed = lines(service, "/api/chat", model="llama3.2", messages=COUNT, **NOTHING)
    assert "".join(line["message"]["content"] for line in streamed) == COUNTED
    assert all(line["message"]["role"] == "assistant" for line in streamed)
    assert [line["done"] for line in streamed] == [False] * (len(streamed) - 1) + [True]
    assert streamed[-1]["message"]["content"] == "" and streamed[-1].keys() == whole.keys()


def test_a_completion_and_its_stream_agree(service: Service) -> None:
    whole = ask(service, "/api/generate", model="llama3", prompt="greet", **NOTHING)
    assert whole["response"] == GREETING and whole["done_reason"] == "stop"
    streamed = lines(service, "/api/generate", model="llama3", prompt="greet", options={"num_predict": 6.0})
    assert "".join(line["response"] for line in streamed) == GREETING[:2]
    assert streamed[-1]["response"] == "" and streamed[-1]["done_reason"] == "length"
    raw = ask(service, "/api/generate", model="llama3", prompt="count", raw=True)
    assert raw["response"] == COUNTED and raw["prompt_eval_count"] == 1


def test_durations_add_up_and_times_have_a_zone(service: Service) -> None:
    slow = ask(service, "/api/chat", model="played", messages=[{"role": "user", "content": "slow"}])
    parts = sum(slow[name] for name in ("load_duration", "prompt_eval_duration", "eval_duration"))
    assert parts == pytest.approx(slow["total_duration"], abs=5)
    # Three of four pieces come after the first; each takes 0.15 s.
    assert slow["eval_duration"] > 0.4e9 and slow["prompt_eval_duration"] > 0.1e9
    assert datetime.datetime.fromisoformat(slow["created_at"].replace("Z", "+00:00")).tzinfo


def test_a_body_is_json_whatever_it_is_said_to_be(service: Service) -> None:
    body = json.dumps({"model": "played", "messages": COUNT, "stream": False})
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        answer = requests.post(service.url + "/api/chat", data=body, headers={"Content-Type": kind}, timeout=60)
        assert answer.json()["message"]["content"] == COUNTED
    assert "empty" in refused(requests.post(service.url + "/api/chat", timeout=60), 400)


def test_options_do_what_they_are_for(service: Service) -> None:
    stopped = ask(service, "/api/chat", model="played", messages=COUNT, options={"stop": "three", "num_ctx": 131072})
    assert stopped["message"]["content"] == "one two "
    cut = ask(service, "/api/chat", model="played", messages=COUNT, options={
        "num_predict": 2, "stop": ["four"], "seed": None, "mirostat": 1, "num_gpu": 99, "top_k": 5.0})
    assert cut["message"]["content"] == "one two " and cut["done_reason"] == "length"
    for limitless in (-1, -2, 0, None):
        assert ask(service, "/api/chat", model="played", messages=COUNT,
                   options={"num_predict": limitless})["message"]["content"] == COUNTED
    answer = service.post("/api/chat", {"model": "played", "messages": COUNT, "options": {"mirostat": 1}})
    assert answer.headers["X-Ignored-Fields"] == "options.mirostat"


def test_a_seed_and_log_probabilities_work_where_the_engine_has_them(service: Service) -> None:
    asked: dict[str, Any] = {"model": "tiny-llama", "messages": COUNT, "logprobs": True, "top_logprobs": 2,
                             "options": {"seed": 7, "temperature": 1.5, "num_predict": 6}}
    first, again = (ask(service, "/api/chat", **asked) for _ in range(2))
    assert first["message"] == again["message"] and first["eval_count"] == 6
    assert len(first["logprobs"]) == 6 and all(len(token["top_logprobs"]) == 2 for token in first["logprobs"])
    streamed = lines(service, "/api/chat", **asked)
    assert [token for line in streamed for token in line.get("logprobs", [])] == first["logprobs"]


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["played", "played:latest", "PLAYED", "Played:Latest", "played.script.json", "llama3",
                                  "llama3:latest", "played:local"])
def test_a_model_is_found_by_all_its_names_and_called_as_it_was_asked_for(service: Service, name: str) -> None:
    assert ask(service, "/api/chat", model=name, messages=COUNT)["model"] == name
    answer = service.post("/v1/chat/completions", {"model": name, "messages": COUNT})
    assert answer.json()["choices"][0]["message"]["content"] == COUNTED
    assert ask(service, "/api/show", name=name)["capabilities"] == ["completion", "tools"]


def test_models_are_listed_with_their_tags_and_by_their_aliases_too(service: Service) -> None:
    listed = requests.get(service.url + "/api/tags", timeout=60).json()["models"]
    names = [model["name"] for model in listed]
    assert {"played:latest", "tiny-llama:latest", "all-MiniLM-L6-v2:latest", "llama3:latest", "all-minilm:latest",
            "all-minilm:l6-v2", "mxbai-embed-large:latest"} <= set(names)
    assert "damaged:latest" not in names and len(names) == len(set(names))
    assert all(model["model"] == model["name"] for model in listed)
    by_name = {model["name"]: model for model in listed}
    vectors = by_name["all-minilm:latest"]
    assert vectors["digest"] == by_name["all-MiniLM-L6-v2:latest"]["digest"] and vectors["size"] == 45827456
    assert re.fullmatch("[0-9a-f]{64}", vectors["digest"])
    assert vectors["details"]["parameter_size"] == "22.47M" and vectors["details"]["quantization_level"] == "F16"
    assert [model["modified_at"] for model in listed] == sorted((m["modified_at"] for m in listed), reverse=True)


def test_a_model_shows_the_window_that_it_has(service: Service) -> None:
    shown = ask(service, "/api/show", model="tiny-llama:latest", verbose=True)
    assert shown["model_info"]["llama.context_length"] == 512
    assert shown["parameters"] == f"{'num_ctx':<30} 512" and shown["template"] == ""
    vectors = ask(service, "/api/show", model="all-minilm")
    assert vectors["model_info"]["bert.embedding_length"] == 384 and vectors["capabilities"] == ["embedding"]
    assert vectors["details"]["family"] == "bert" and vectors["model_info"]["general.basename"] == "all-MiniLM-L6-v2"


def test_another_name_is_kept_until_it_is_deleted(service: Service) -> None:
    copy = {"source": "played", "destination": "Our-Model:8b"}
    assert "Authorization" in refused(service.post("/api/copy", copy), 401)
    answer = service.post("/api/copy", copy, headers=AUTHORIZED)
    assert (answer.status_code, answer.content) == (200, b"")
    assert ask(service, "/api/chat", model="our-model:8b", messages=COUNT)["model"] == "our-model:8b"
    listed = requests.get(service.url + "/api/tags", timeout=60).json()["models"]
    assert "Our-Model:8b" in {each["name"] for each in listed}
    assert "destination" in refused(service.post("/api/copy", copy, headers=AUTHORIZED), 400)
    for wrong in ("", "a b", "../x"):
        refused(service.post("/api/copy", {**copy, "destination": wrong}, headers=AUTHORIZED), 400)
    gone = requests.delete(service.url + "/api/delete", json={"name": "Our-Model:8b"}, headers=AUTHORIZED, timeout=60)
    assert (gone.status_code, gone.content) == (200, b"")
    assert refused(service.post("/api/chat", {"model": "Our-Model:8b"}), 404) == "model 'Our-Model:8b' not found"
    for name, status in (("played", 409), ("llama3", 409), ("nobody", 404)):
        refused(requests.delete(service.url + "/api/delete", json={"model": name}, headers=AUTHORIZED, timeout=60),
                status)


def test_what_is_here_is_pulled_at_once_and_what_is_nowhere_is_not(service: Service) -> None:
    assert "Authorization" in refused(service.post("/api/pull", {"model": "all-minilm"}), 401)
    for body in ({"model": "all-minilm"}, {"name": "played:latest", "model": ""}):
        answer = service.post("/api/pull", body, headers=AUTHORIZED)
        assert json.loads(answer.text.splitlines()[-1]) == {"status": "success"}
    answer = service.post("/api/pull", {"model": "llama3", "stream": False}, headers=AUTHORIZED)
    assert answer.json() == {"status": "success"}
    assert "list of models can't be read" in refused(
        service.post("/api/pull", {"model": "nobody"}, headers=AUTHORIZED), 502)


# -- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body", "status", "message"), [
    ("/api/chat", {"model": "nobody", "messages": COUNT}, 404, "model 'nobody' not found"),
    ("/api/generate", {"model": "no\nbody"}, 404, "model 'no\\nbody' not found"),
    ("/api/show", {"name": "nobody:latest"}, 404, "model 'nobody:latest' not found"),
    ("/api/embed", {"model": "nobody", "input": "x"}, 404, 'model "nobody" not found'),
    ("/api/embeddings", {"model": "SmolLM2-135M-Instruct.Q4_1", "prompt": "x"}, 404,
     'model "SmolLM2-135M-Instruct.Q4_1" not found, try pulling it first'),
    ("/api/chat", {"messages": COUNT}, 400, "model is required"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/chat", {"model": "all-minilm", "messages": COUNT}, 400, "all-minilm does not support chat"),
    ("/api/embed", {"model": "played", "input": "x"}, 400, "played does not support embedding"),
    ("/api/embed", {"model": "all-minilm", "input": 5}, 400, "invalid input type"),
    ("/api/chat", {"model": "played", "messages": COUNT, "tools": [{"type": "function"}]}, 400,
     "The field 'tools.0.function' is missing"),
    ("/api/chat", {"model": "played", "messages": [{**COUNT[0], "images": ["aGk="]}]}, 400,
     "played does not support vision"),
    ("/api/chat", {"model": "played", "messages": COUNT, "think": "high"}, 400, '"played" does not support thinking'),
    ("/api/generate", {"model": "played", "prompt": "x", "suffix": "y"}, 400,
     "'suffix' has to be left out: scripted can't fill gaps, llamacpp can with models that have tokens for it."),
    ("/api/generate", {"model": "played", "prompt": "x", "raw": True, "system": "y"}, 400,
     "raw mode does not support template, system, or context"),
    ("/api/generate", {"model": "played", "prompt": "x", "template": "{{ .Prompt }}"}, 400, "'template' has to be"),
    ("/api/chat", {"model": "played", "messages": COUNT, "format": "json"}, 400, "'format' has to be"),
    ("/api/chat", {"model": "played", "messages": COUNT, "format": {"type": "object"}}, 400, "'format' has to be"),
    ("/api/chat", {"model": "played", "messages": COUNT, "options": {"temperature": "hot"}}, 400,
     "'options.temperature' has to be a number from 0 to 2"),
    ("/api/chat", {"model": "played", "messages": COUNT, "options": {"temperature": 9}}, 400,
     "'options.temperature' has to be a number from 0 to 2"),
    ("/api/chat", {"model": "played", "messages": COUNT, "options": {"seed": 5}}, 400, "'options.seed' has to be left"),
    ("/api/chat", {"model": "played", "messages": COUNT, "keep_alive": "-1"}, 400, "'keep_alive' has to be"),
    ("/api/chat", {"model": "damaged", "messages": COUNT}, 400, "The model 'damaged' can't be used"),
    ("/api/embed", {"model": "damaged", "input": "x"}, 400, "The model 'damaged' can't be used"),
    ("/api/create", {"model": "x", "from": "y"}, 501, "neither made nor sent"),
    ("/api/push", {}, 501, "neither made nor sent"), ("/api/blobs/sha256:0", {}, 501, "neither made nor sent"),
    ("/api/nothing", {}, 404, "nothing at this path"), ("/api/embedd", {}, 404, "Is POST /api/embed meant?"),
])
def test_an_error_is_a_string_that_clients_know(service: Service, path: str, body: dict[str, Any], status: int,
                                               message: str) -> None:
    assert message in refused(service.post(path, body), status)


def test_what_is_refused_before_the_application_sees_it_is_a_string_too(service: Service) -> None:
    tunnel = {"X-Forwarded-For": "203.0.113.9"}
    for path in ("/api/chat", "/api/nothing"):
        assert "key" in refused(service.post(path, {}, headers=tunnel), 401)
    assert "Host" in refused(service.post("/api/chat", {}, headers={"Host": "rebound.example"}), 403)
    assert "MAX_BODY" in refused(service.post("/api/embed", {"input": "x" * 9_000_000}), 413)
    assert "error" in service.post("/api/v1/token_check", {"prompts": 5}).json()["error"]["type"]


def test_a_crash_in_mid_stream_is_the_last_line(service: Service) -> None:
    # The crash is asked for twice: the first try isn't shown, if nothing of it was.
    told = lines(service, "/api/chat", model="played", messages=[{"role": "user", "content": "crash"}])
    assert "".join(line["message"]["content"] for line in told[:-1]) == "ab"
    assert list(told[-1]) == ["error"] and "process died" in told[-1]["error"]
    assert "process died twice" in refused(service.post("/api/chat", {
        "model": "played", "messages": [{"role": "user", "content": "crash"}], "stream": False}), 500)


# -- windows ------------------------------------------------------------------------------------------------------


def conversation(words: int, turns: int = 20) -> list[dict[str, str]]:
    """A persona, many turns of so many words, and a last question."""
    said = [{"role": role, "content": " ".join([f"{number}"] * words)}
            for number in range(turns // 2) for role in ("user", "assistant")]
    return [{"role": "system", "content": "persona"}, *said, {"role": "user", "content": "count"}]


def test_the_oldest_messages_that_do_not_fit_are_left_out_and_told(service: Service) -> None:
    made = ask(service, "/api/chat", model="played", messages=conversation(10))
    # 64 words hold the persona, the question and what the template writes, and 4 turns of 12 words.
    assert made["message"]["content"] == COUNTED and 15 <= made["dropped_messages"] <= 17
    one_more = conversation(10)
    del one_more[1:1 + made["dropped_messages"]]
    assert "dropped_messages" not in ask(service, "/api/chat", model="played", messages=one_more)
    streamed = lines(service, "/api/chat", model="played", messages=conversation(10))
    assert streamed[-1]["dropped_messages"] == made["dropped_messages"]
    until(lambda: f"{made['dropped_messages']} oldest messages were left out"
          in (service.log_folder / "watchdog.log").read_text())
    message = refused(service.post("/api/chat", {
        "model": "played", "messages": conversation(10), "truncate": False}), 400)
    assert "too long" in message and str(ollama_rig.WINDOW) in message
    refused(service.post("/api/chat", {"model": "played", "messages": [
        *COUNT, {"role": "user", "content": "x " * 100}]}), 400)


def test_a_real_window_is_filled_with_as_many_messages_as_it_holds(service: Service) -> None:
    messages = conversation(40)
    made = ask(service, "/api/chat", model="tiny-llama", messages=messages, options={"num_predict": 1})
    dropped = made["dropped_messages"]
    assert 0 < dropped < 20
    for fewer, status in ((dropped, 200), (dropped - 1, 400)):
        kept = [messages[0], *messages[1 + fewer:]]
        assert service.post("/api/chat", {"model": "tiny-llama", "messages": kept, "truncate": False, "stream": False,
                                          "options": {"num_predict": 1}}).status_code == status


# -- vectors ------------------------------------------------------------------------------------------------------


def test_a_text_has_the_same_vector_on_all_routes(service: Service) -> None:
    expected = service.embed(TEXT)[0]
    openai = service.post("/v1/embeddings", {"model": "all-minilm:latest", "input": TEXT}).json()["data"][0]
    embed = ask(service, "/api/embed", model="all-minilm", input=[TEXT, "", "Another text."])
    old = ask(service, "/api/embeddings", model="mxbai-embed-large", prompt=TEXT, options={"a": None})
    assert expected == openai["embedding"] == embed["embeddings"][0] == old["embedding"] and len(expected) == 384
    assert len(embed["embeddings"]) == 3 and embed["prompt_eval_count"] > 8
    assert embed["model"] == "all-minilm" and embed["total_duration"] > 0


def test_no_text_has_no_vector(service: Service) -> None:
    for nothing in ({}, {"input": ""}, {"input": []}, {"input": None}):
        assert ask(service, "/api/embed", model="all-minilm", **nothing)["embeddings"] == []
    assert ask(service, "/api/embeddings", model="all-minilm", prompt="") == {"embedding": []}


def test_vectors_are_cut_and_normalised_again(service: Service) -> None:
    whole = np.array(ask(service, "/api/embed", model="all-minilm", input=TEXT)["embeddings"][0])
    short = np.array(ask(service, "/api/embed", model="all-minilm", input=TEXT, dimensions=64)["embeddings"][0])
    assert short.shape == (64,) and np.linalg.norm(short) == pytest.approx(1)
    assert short == pytest.approx(whole[:64] / np.linalg.norm(whole[:64]), abs=1e-6)
    same = ask(service, "/api/embed", model="all-minilm", input=TEXT, dimensions=5000)["embeddings"][0]
    assert same == pytest.approx(whole)


def test_a_long_text_is_cut_unless_that_is_forbidden(service: Service) -> None:
    long = "word " * 2000
    cut = ask(service, "/api/embed", model="all-minilm", input=long)["embeddings"][0]
    wanted = service.post("/embed", {"input": long, "long_text": "truncate"}).json()["data"][0]["embedding"]
    assert cut == pytest.approx(wanted)
    assert ask(service, "/api/embed", model="all-minilm", input=TEXT, truncate=False)["embeddings"]
    assert refused(service.post("/api/embed", {"model": "all-minilm", "input": [TEXT, long], "truncate": False}),
                   400).startswith("the input length exceeds the context length")


# -- loading and leaving ------------------------------------------------------------------------------------------


def loaded(service: Service) -> dict[str, float]:
    """Return which models are loaded, and for how many seconds more."""
    models = requests.get(service.url + "/api/ps", timeout=60).json()["models"]
    assert all(model["size_vram"] == 0 for model in models)
    leave = {model["name"]: datetime.datetime.fromisoformat(model["expires_at"].replace("Z", "+00:00"))
             for model in models}
    now = datetime.datetime.now(datetime.timezone.utc)
    left = {name: (at - now).total_seconds() for name, at in leave.items()}
    assert left["played:latest"] > DECADES and left["all-MiniLM-L6-v2:latest"] > DECADES
    return left


def test_a_model_is_loaded_and_leaves_without_a_word_being_said(service: Service) -> None:
    assert ask(service, "/api/generate", model="tiny-llama")["done_reason"] == "load"
    assert {"played:latest", "all-MiniLM-L6-v2:latest", "tiny-llama:latest"} == set(loaded(service))
    until(lambda: loaded(service)["tiny-llama:latest"] <= 301, what="the five minutes that it has")
    gone = ask(service, "/api/generate", model="tiny-llama", prompt="", keep_alive=0)
    assert (gone["done_reason"], gone["response"], gone["done"]) == ("unload", "", True)
    until(lambda: "tiny-llama:latest" not in loaded(service))
    assert ask(service, "/api/chat", model="tiny-llama", messages=[])["message"]["content"] == ""
    assert "tiny-llama:latest" in loaded(service)
    for streamed in (False, True):
        answer = service.post("/api/chat", {"model": "tiny-llama", "messages": COUNT, "keep_alive": "0s",
                                            "stream": streamed, "options": {"num_predict": 2}})
        assert json.loads(answer.text.splitlines()[-1])["eval_count"] == 2
        until(lambda: "tiny-llama:latest" not in loaded(service))
    # The configured ones stay.
    ask(service, "/api/generate", model="played", keep_alive=0)
    assert ask(service, "/api/chat", model="played", messages=COUNT)["message"]["content"] == COUNTED


@pytest.mark.parametrize(("path", "said"), [
    ("/api/generate", {"prompt": "Hello", "options": {"num_predict": 1}}), ("/api/generate", {}),
    ("/api/chat", {"messages": COUNT, "options": {"num_predict": 1}})])
def test_an_idle_model_leaves_when_its_time_is_over(service: Service, path: str, said: dict[str, Any]) -> None:
    ask(service, path, model="tiny-llama", keep_alive=-1, **said)
    until(lambda: loaded(service)["tiny-llama:latest"] > DECADES)
    ask(service, path, model="tiny-llama", keep_alive="700ms", **said)
    until(lambda: "tiny-llama:latest" not in loaded(service))


def test_a_text_of_an_older_client_waits_where_the_queue_is_full(
        tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("crowded")
    vectors = scripts.write(folder, {"when": "", "seconds": 0.02}, name="vectors", kind="embedding")
    service = Service(folder / "service", {"MODEL_PATH": folder, "EMBED_MODEL": vectors, "QUEUE_LIMIT": 0})

    def status(path: str) -> int:
        field = "prompt" if path == "/api/embeddings" else "input"
        return service.post(path, {"model": "vectors", field: "a text"}).status_code

    def crowded() -> bool:
        """Ask more at once than there is room for; tell whether the queue was full."""
        with ThreadPoolExecutor(80) as pool:
            refused = pool.map(status, ["/api/embed"] * 60)
            waited = list(pool.map(status, ["/api/embeddings"] * 20))
        assert waited == [200] * 20
        return 429 in set(refused)

    try:
        service.wait_ready()
        until(crowded, what="a full queue")
    finally:
        service.stop()
