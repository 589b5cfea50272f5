"""The context window holds prompt and answer together. Nothing is ever shifted out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import tiny_llama
from service import Service

from mayfly.engines.base import Generated
from mayfly.engines.gpt4all.completions import Gpt4AllCompletions
from mayfly.wire.calls import CompletionCall, Message, Sampling

WINDOW = 128
SMALLER = 100
PERSONA = "You are Ada of the winter light. "


@pytest.fixture(scope="module", params=["gpt4all", "llamacpp"])
def service(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Service]:
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")
    folder = tmp_path_factory.mktemp("window")
    tiny_llama.make(folder / "tiny.gguf")
    running = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": "tiny.gguf", "EMBED_MODEL": "",
                                           "N_CTX": WINDOW, "CHAT_ENGINE": request.param})
    yield running.wait_ready()
    running.stop()


def native(service: Service, words: int, fields: dict[str, Any]) -> requests.Response:
    return service.post("/gpt4all_api", {"persona": PERSONA, "prompt": "the " * words, **fields})


def assist(service: Service, words: int, fields: dict[str, Any]) -> requests.Response:
    return service.post("/gpt4all_api", {"persona": PERSONA, "assist": "the " * words, "prompt": "Why?", **fields})


def chat(service: Service, words: int, fields: dict[str, Any]) -> requests.Response:
    messages = [{"role": "system", "content": PERSONA}, {"role": "user", "content": "the " * words}]
    return service.post("/v1/chat/completions", {"messages": messages, **fields})


def completion(service: Service, words: int, fields: dict[str, Any]) -> requests.Response:
    return service.post("/v1/completions", {"prompt": PERSONA + "the " * words, **fields})


ROUTES = [native, assist, chat, completion]
Ask = Callable[[Service, int, dict[str, Any]], requests.Response]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("ask", ROUTES)
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(service: Service, ask: Ask, stream: bool) -> None:
    for words in (WINDOW, 20 * WINDOW):
        answer = ask(service, words, {"stream": stream, "max_tokens": 1})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"holds {WINDOW} " in error["message"]
        tokens = int(error["message"].partition("the prompt has ")[2].split()[0])
        assert words < tokens < words + 200


@pytest.mark.parametrize("ask", ROUTES)
def test_an_answer_that_fills_the_window_ends_there_with_the_reason_length(service: Service, ask: Ask) -> None:
    for fields in ({"max_tokens": WINDOW}, {}) if ask is chat else ({"max_tokens": WINDOW},):
        answer = ask(service, 10, fields).json()
        assert (answer.get("finish_reason") or answer["choices"][0]["finish_reason"]) == "length"
        assert answer["usage"]["total_tokens"] == WINDOW
        assert answer["usage"]["completion_tokens"] > 10


@pytest.mark.parametrize("ask", ROUTES)
def test_a_stream_that_fills_the_window_ends_there_with_the_reason_length(service: Service, ask: Ask) -> None:
    lines = ask(service, 10, {"max_tokens": WINDOW, "stream": True}).text.splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert (last.get("finish_reason") or last["choices"][0]["finish_reason"]) == "length"
    pieces = [json.loads(event) for event in events[:-1]]
    choices = [each.get("choices", [{"text": each.get("response")}])[0] for each in pieces]
    texts = [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
    # One word is one token of this model.
    assert len([text for text in texts if text]) > 1 and len("".join(texts).split()) > 10


@pytest.mark.parametrize("ask", ROUTES)
def test_the_last_answer_that_fits_is_one_token_and_the_next_prompt_is_refused(service: Service, ask: Ask) -> None:
    used = ask(service, 1, {"max_tokens": 1}).json()["usage"]["prompt_tokens"]
    # One prompt token a word. gpt4all wants 4 tokens of room after a text that is a whole prompt.
    room = WINDOW - used - (3 if ask is completion and service.lane("completion")["engine"] == "gpt4all" else 0)
    fits = ask(service, room, {"max_tokens": WINDOW})
    assert fits.status_code == 200, fits.text
    assert fits.json()["usage"]["prompt_tokens"] == used - 1 + room
    assert fits.json()["usage"]["total_tokens"] == WINDOW
    error = ask(service, room + 1, {"max_tokens": 1}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"the prompt has {used + room} tokens" in error["message"]


@pytest.mark.parametrize("ask", ROUTES)
def test_a_request_may_ask_for_a_smaller_window(service: Service, ask: Ask) -> None:
    if service.lane("completion")["engine"] == "gpt4all":
        error = ask(service, 10, {"n_ctx": SMALLER}).json()["error"]
        assert (error["param"], "gpt4all" in error["message"]) == ("n_ctx", True)
        return
    answer = ask(service, 10, {"max_tokens": WINDOW, "n_ctx": SMALLER}).json()
    assert answer["usage"]["total_tokens"] == SMALLER
    assert (answer.get("finish_reason") or answer["choices"][0]["finish_reason"]) == "length"
    assert ask(service, 10, {"max_tokens": WINDOW, "n_ctx": WINDOW}).json()["usage"]["total_tokens"] == WINDOW
    for stream in (False, True):
        error = ask(service, SMALLER, {"n_ctx": SMALLER, "stream": stream}).json()["error"]
        assert error["code"] == "context_length_exceeded" and f"holds {SMALLER}" in error["message"]
        assert error["message"].endswith("; shorten it or raise 'n_ctx'.")
    for window, allowed in ((WINDOW + 1, f"a whole number from 1 to {WINDOW}: that is the window of 'tiny'."),
                            (0, "a whole number from 1 to the model's window")):
        error = ask(service, 10, {"n_ctx": window}).json()["error"]
        assert error["param"] == "n_ctx" and error["message"].startswith(f"'n_ctx' has to be {allowed}")


def test_an_answer_that_fills_the_window_is_that_of_a_larger_one_to_its_last_word(tiny_model: Path) -> None:
    """If the persona were shifted out of the window, the last words would be others."""

    def answer(window: int, most: int | None) -> tuple[Generated, bytes]:
        engine = Gpt4AllCompletions(tiny_model, 1, window, "cpu", "m")
        taken: list[bytes] = []
        segments = engine.prompt(CompletionCall("test", (Message("system", PERSONA), Message("user", "Hello"))))
        generated = engine.generate(segments, Sampling(max_tokens=most, temperature=0.0), lambda: True,
                                    lambda piece: taken.append(piece) is None)
        return generated, b"".join(taken)

    full, text = answer(WINDOW, None)
    assert full.reason == "limit" and full.prompt_tokens + full.completion_tokens == WINDOW
    assert answer(4 * WINDOW, full.completion_tokens)[1] == text
