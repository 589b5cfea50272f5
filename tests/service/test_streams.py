"""Streamed completions of the running service: the form of the events, stop strings, split characters, pings."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL="none")

ASK = "/gpt4all_api"


def _scripted(start: Callable[..., Service], model_path: Path, *rules: dict[str, Any], **settings: object) -> Service:
    """Start a service whose models are scripts; nothing here needs real ones."""
    vectors = scripts.write(model_path, name="vectors", kind="embedding")
    return start(MODEL_NAME=scripts.write(model_path, *rules), EMBED_MODEL=vectors, **settings)


def _lines(service: Service, prompt: str, **fields: Any) -> Iterator[tuple[bytes, float]]:
    """Yield a stream's lines as they are on the wire, without their line feeds, and when each one came."""
    body = {"prompt": prompt, "max_tokens": 100, **fields, "stream": True}
    with service.post(ASK, body, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
        rest = b""
        for chunk in answer.iter_content(None):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line, time.monotonic()
        assert rest == b""


def _events(service: Service, prompt: str, **fields: Any) -> list[dict[str, Any]]:
    """Return a stream's events without its [DONE], which has to come last."""
    *events, done = service.stream(prompt, max_tokens=100, **fields)
    assert done == "[DONE]"
    assert all(isinstance(event, dict) for event in events)
    return [event for event in events if isinstance(event, dict)]


def test_a_stream_of_a_real_model_has_the_contracts_form_and_the_same_text_as_the_whole_answer(
        start: Callable[..., Service]) -> None:
    service = start()
    whole = service.complete("Hello", max_tokens=12, temperature=0)
    lines = [line for line, _ in _lines(service, "Hello", max_tokens=12, temperature=0)]
    # An event is one line of ASCII and an empty line; there is nothing else, and no CR.
    assert all(line == b"" for line in lines[1::2]) and len(lines) % 2 == 0
    assert all(line.startswith(b"data: ") and line.isascii() and b"\r" not in line for line in lines[::2])
    assert lines[-2] == b"data: [DONE]"
    *pieces, last = [json.loads(line[6:]) for line in lines[:-2:2]]
    assert len(pieces) > 1
    assert all(set(piece) == {"response"} and piece["response"] for piece in pieces)
    assert "".join(piece["response"] for piece in pieces) == whole["response"]
    assert set(last) == set(whole)
    assert last["response"] == "" and last["finish_reason"] == "length"
    assert last["usage"] == whole["usage"] and last["usage"]["completion_tokens"] == 12
    assert last["generation"] == whole["generation"] + 1


def test_the_first_piece_comes_before_the_last_one_is_made(start: Callable[..., Service], model_path: Path) -> None:
    service = _scripted(start, model_path, scripts.slowly("", 2, pieces=8))
    came = [when for line, when in _lines(service, "a") if line.startswith(b"data: ")]
    assert came[0] < came[-1] - 1
    assert len(came) == 8 + 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_split_over_tokens_is_never_shown_not_even_its_beginning(
        start: Callable[..., Service], model_path: Path, stream: bool) -> None:
    service = _scripted(
        start, model_path, {"when": "split", "pieces": ["one", " S", "T", "OP", " two"]},
        {"when": "almost", "pieces": ["one", " S", "T", "EM", " S", "T"]},
        {"when": "inside", "pieces": ["one STOP two"]})

    def text(prompt: str) -> tuple[str, str]:
        if stream:
            *pieces, last = _events(service, prompt, stop=["STOP", "never"])
            return "".join(piece["response"] for piece in pieces), last["finish_reason"]
        answer = service.complete(prompt, stop=["STOP", "never"])
        return answer["response"], answer["finish_reason"]

    assert text("split") == ("one ", "stop")
    assert text("almost") == ("one STEM ST", "stop")
    assert text("inside") == ("one ", "stop")
    if stream:
        shown = [event["response"] for event in _events(service, "almost", stop="STOP")]
        assert shown == ["one", " ", "STEM", " ", "ST", ""]


def test_the_tokens_after_a_stop_string_are_not_made(start: Callable[..., Service]) -> None:
    service = start()
    whole = service.complete("Hello", max_tokens=40, temperature=0)
    stop = whole["response"].split()[5]
    expected = whole["response"].partition(stop)[0]
    *pieces, last = _events(service, "Hello", temperature=0, stop=stop)
    assert "".join(piece["response"] for piece in pieces) == expected
    assert last["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] < 40


def test_characters_whose_bytes_are_spread_over_tokens_arrive_whole(
        start: Callable[..., Service], model_path: Path) -> None:
    text = "Grüße, 你好 😀!"
    encoded = text.encode()
    pieces = ["base64:" + base64.b64encode(encoded[at:at + 1]).decode() for at in range(len(encoded))]
    half = "base64:" + base64.b64encode("😀".encode()[:2]).decode()
    service = _scripted(start, model_path, {"when": "bytes", "pieces": pieces}, {"when": "half", "pieces": ["a", half]})
    events = _events(service, "bytes")
    assert [event["response"] for event in events] == [*text, ""]
    assert service.complete("bytes", max_tokens=100)["response"] == text
    # A character that is never finished is shown as what it is: broken.
    assert "".join(event["response"] for event in _events(service, "half")) == "a\ufffd"


def test_a_ping_keeps_a_silent_stream_alive_but_not_before_ten_seconds(
        start: Callable[..., Service], model_path: Path) -> None:
    slow = {"when": "slow", "pieces": ["late", " text"], "seconds": 11}
    service = _scripted(start, model_path, slow, scripts.slowly("steady", 11, pieces=44), CHAT_PROCESSES=2)
    with ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        silent = pool.submit(lambda: list(_lines(service, "slow", max_tokens=1)))
        steady = pool.submit(lambda: list(_lines(service, "steady")))
        lines = silent.result()
        # Where something comes all the time, nothing is added.
        assert [line for line, _ in steady.result() if line and not line.startswith(b"data: ")] == []
    pings = [when - began for line, when in lines if line == b": ping"]
    print(f"pings after {', '.join(f'{when:.2f} s' for when in pings)}; the text after {lines[-1][1] - began:.2f} s")
    assert lines[0][0] == b": ping" and lines[1][0] == b""
    assert len(pings) == 1 and pings[0] >= 10
    assert json.loads(lines[2][0][6:]) == {"response": "late"}


@pytest.mark.parametrize(("what", "code"), [("crash", "model_crashed"), ("error", "engine_failed")])
def test_a_failure_after_the_first_piece_is_the_streams_last_event(
        start: Callable[..., Service], model_path: Path, what: str, code: str) -> None:
    service = _scripted(start, model_path, {"when": "", "do": what, "pieces": ["a", "b", "c"], "after": 2})
    *pieces, last = list(service.stream("Hello"))
    assert pieces == [{"response": "a"}, {"response": "b"}]
    assert isinstance(last, dict) and last["error"]["code"] == code
    service.wait_ready()


@pytest.mark.parametrize(("what", "status", "code"), [("crash", 500, "model_crashed"), ("error", 500, "engine_failed")])
def test_a_failure_before_the_first_piece_is_a_status(
        start: Callable[..., Service], model_path: Path, what: str, status: int, code: str) -> None:
    service = _scripted(start, model_path, {"when": "", "do": what})
    answer = service.post(ASK, {"prompt": "Hello", "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if what == "crash":
        assert "twice" in answer.json()["error"]["message"]
        assert [report.name in answer.json()["error"]["message"] for report in service.reports()].count(True) == 1


def test_a_crash_before_the_first_piece_is_made_up_for(start: Callable[..., Service], model_path: Path) -> None:
    service = _scripted(start, model_path, {"when": "", "do": "crash", "times": 1}, {"when": "", "pieces": ["a", "b"]})
    events = _events(service, "Hello")
    assert [event["response"] for event in events] == ["a", "b", ""]
    assert until(lambda: service.lane("completion")["restarts"]["crashed"]) == 1


def test_a_reader_that_leaves_ends_its_completion(start: Callable[..., Service], model_path: Path) -> None:
    service = _scripted(start, model_path, scripts.slowly("", 60, pieces=600))
    stream = service.stream("Hello", max_tokens=600)
    assert next(stream) == {"response": "0 "}
    left = time.monotonic()
    stream.close()
    spent = service.printed(r"spent after [\d.]+ s, (\d+) tokens \(cancelled\)")
    print(f"cancelled {time.monotonic() - left:.2f} s after its reader left, at token {spent[1]}")
    assert int(spent[1]) < 300
    with pytest.raises(requests.ReadTimeout):
        service.post(ASK, {"prompt": "Hello"}, timeout=0.5)
    service.printed(r'"POST /gpt4all_api HTTP/1\.1" 499')


@pytest.mark.parametrize(("path", "asked"), [
    (ASK, {"prompt": "Hello"}), (ASK, {"prompt": "Hello", "stream": True}),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 40}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "stream": True}),
    ("/embed", {"input": "Hello"}), ("/v1/embeddings", {"input": ["Hello"] * 20})])
def test_a_client_that_shuts_its_side_and_waits_gets_its_answer(
        start: Callable[..., Service], model_path: Path, path: str, asked: dict[str, Any]) -> None:
    vectors = scripts.write(model_path, {"when": "Hello", "seconds": 0.5}, name="slow-vectors", kind="embedding")
    service = start(MODEL_NAME=scripts.write(model_path, scripts.slowly("", 1.5)), EMBED_MODEL=vectors)
    body = json.dumps(asked).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=60) as sock:
        sock.sendall(head.encode() + body)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    if asked.get("stream"):
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b"39 " in answer
    elif "input" in asked:
        vectors_made = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
        assert len(vectors_made) == (20 if isinstance(asked["input"], list) else 1)
    else:
        assert scripts.counted().encode() in answer
    service.printed(f'"POST {path} HTTP/1.1" 200')
