"""Streamed completions of the running service: the form of the events, stop strings, split characters, pings."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from service import Service, until

ASK = "/gpt4all_api"


TEXT = "Grüße, 你好 😀!"
BYTES = ["base64:" + base64.b64encode(bytes([byte])).decode() for byte in TEXT.encode()]
HALF = "base64:" + base64.b64encode("😀".encode()[:2]).decode()
RULES: list[dict[str, Any]] = [
    scripts.slowly("soon", 2, pieces=8),
    {"when": "split", "pieces": ["one", " S", "T", "OP", " two"]},
    {"when": "almost", "pieces": ["one", " S", "T", "EM", " S", "T"], "seconds": scripts.APART},
    {"when": "inside", "pieces": ["one STOP two"]},
    {"when": "bytes", "pieces": BYTES, "seconds": scripts.APART}, {"when": "half", "pieces": ["a", HALF]},
    {"when": "silent", "pieces": ["late", " text"], "seconds": 11}, scripts.slowly("steady", 11, pieces=44),
    *({"when": f"{what} amid", "do": what, "pieces": ["a", "b", "c"], "after": 2, "seconds": scripts.APART}
      for what in ("crash", "error")),
    {"when": "at a breath", "pieces": list("abcd" * 10)},
    {"when": "error of a sudden", "do": "error", "pieces": list("abcd"), "after": 4},
    *({"when": f"{what} at once", "do": what} for what in ("crash", "error")),
    {"when": "made up for", "do": "crash", "times": 1}, {"when": "made up for", "pieces": ["a", "b"]},
    scripts.slowly("endless", 60, pieces=600),
    scripts.slowly("Hello", 1.5),
]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose models are scripts, for all tests that need no real ones: each has prompts of its own."""
    folder = tmp_path_factory.mktemp("scripted")
    vectors = scripts.write(folder, {"when": "Hello", "seconds": 0.5}, name="vectors", kind="embedding")
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "MODEL_NAME": scripts.write(folder, *RULES), "EMBED_MODEL": vectors,
        "CHAT_PROCESSES": 2})
    yield service.wait_ready()
    service.stop()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Service]:
    """A service with a real completion model."""
    folder = tmp_path_factory.mktemp("real")
    service = Service(folder, {"MODEL_PATH": tiny_model.parent, "MODEL_NAME": tiny_model.name, "EMBED_MODEL": "none"})
    yield service.wait_ready()
    service.stop()


def _wait_for(service: Service, said: int, pattern: str) -> re.Match[str]:
    """Wait until one of the lines after so many matches; return the match."""
    return until(lambda: next((match for line in service.lines[said:] if (match := re.search(pattern, line))), None),
                 what=lambda: f"a line with {pattern!r} in:\n{service.output()}")


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
        real: Service) -> None:
    whole = real.complete("Hello", max_tokens=12, temperature=0)
    lines = [line for line, _ in _lines(real, "Hello", max_tokens=12, temperature=0)]
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


def test_the_first_piece_comes_before_the_last_one_is_made(scripted: Service) -> None:
    came = [when for line, when in _lines(scripted, "soon") if line.startswith(b"data: ")]
    assert came[0] < came[-1] - 1
    assert len(came) == 8 + 2


def test_tokens_that_come_at_once_are_sent_together_and_none_is_held_back_for_an_error(scripted: Service) -> None:
    *pieces, _ = _events(scripted, "at a breath")
    assert pieces[0] == {"response": "a"} and len(pieces) < 40
    assert "".join(piece["response"] for piece in pieces) == "abcd" * 10
    *pieces, last = list(scripted.stream("error of a sudden"))
    assert "".join(piece["response"] for piece in pieces) == "abcd"
    assert last["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_split_over_tokens_is_never_shown_not_even_its_beginning(
        scripted: Service, stream: bool) -> None:
    def text(prompt: str) -> tuple[str, str]:
        if stream:
            *pieces, last = _events(scripted, prompt, stop=["STOP", "never"])
            return "".join(piece["response"] for piece in pieces), last["finish_reason"]
        answer = scripted.complete(prompt, stop=["STOP", "never"])
        return answer["response"], answer["finish_reason"]

    assert text("split") == ("one ", "stop")
    assert text("almost") == ("one STEM ST", "stop")
    assert text("inside") == ("one ", "stop")
    if stream:
        shown = [event["response"] for event in _events(scripted, "almost", stop="STOP")]
        assert shown == ["one", " ", "STEM", " ", "ST", ""]


def test_the_tokens_after_a_stop_string_are_not_made(real: Service) -> None:
    whole = real.complete("Hello", max_tokens=40, temperature=0)
    stop = whole["response"].split()[5]
    expected = whole["response"].partition(stop)[0]
    *pieces, last = _events(real, "Hello", temperature=0, stop=stop)
    assert "".join(piece["response"] for piece in pieces) == expected
    assert last["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] < 40


def test_characters_whose_bytes_are_spread_over_tokens_arrive_whole(scripted: Service) -> None:
    assert [event["response"] for event in _events(scripted, "bytes")] == [*TEXT, ""]
    assert scripted.complete("bytes", max_tokens=100)["response"] == TEXT
    # A character that is never finished is shown as what it is: broken.
    assert "".join(event["response"] for event in _events(scripted, "half")) == "a\ufffd"


def test_a_ping_keeps_a_silent_stream_alive_but_not_before_ten_seconds(scripted: Service) -> None:
    with ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        silent = pool.submit(lambda: list(_lines(scripted, "silent", max_tokens=1)))
        steady = pool.submit(lambda: list(_lines(scripted, "steady")))
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
        scripted: Service, what: str, code: str) -> None:
    *pieces, last = list(scripted.stream(f"{what} amid"))
    assert pieces == [{"response": "a"}, {"response": "b"}]
    assert isinstance(last, dict) and last["error"]["code"] == code
    scripted.wait_ready()


@pytest.mark.parametrize(("what", "status", "code"), [("crash", 500, "model_crashed"), ("error", 500, "engine_failed")])
def test_a_failure_before_the_first_piece_is_a_status(
        scripted: Service, what: str, status: int, code: str) -> None:
    answer = scripted.post(ASK, {"prompt": f"{what} at once", "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if what == "crash":
        assert "twice" in answer.json()["error"]["message"]
        assert [report.name in answer.json()["error"]["message"] for report in scripted.reports()].count(True) == 1


def test_a_crash_before_the_first_piece_is_made_up_for(scripted: Service) -> None:
    before = scripted.lane("completion")["restarts"]["crashed"]
    events = _events(scripted, "made up for")
    assert [event["response"] for event in events] == ["a", "b", ""]
    assert until(lambda: scripted.lane("completion")["restarts"]["crashed"] - before) == 1


def test_a_reader_that_leaves_ends_its_completion(scripted: Service) -> None:
    said = len(scripted.lines)
    stream = scripted.stream("endless", max_tokens=600)
    assert next(stream) == {"response": "0 "}
    left = time.monotonic()
    stream.close()
    spent = _wait_for(scripted, said, r"spent after [\d.]+ s, (\d+) tokens \(cancelled\)")
    print(f"cancelled {time.monotonic() - left:.2f} s after its reader left, at token {spent[1]}")
    assert int(spent[1]) < 300
    with pytest.raises(requests.ReadTimeout):
        scripted.post(ASK, {"prompt": "endless"}, timeout=0.5)
    _wait_for(scripted, said, r'"POST /gpt4all_api HTTP/1\.1" 499')


@pytest.mark.parametrize(("path", "asked"), [
    (ASK, {"prompt": "Hello"}), (ASK, {"prompt": "Hello", "stream": True}),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 40}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "stream": True}),
    ("/embed", {"input": "Hello"}), ("/v1/embeddings", {"input": ["Hello"] * 20})])
def test_a_client_that_shuts_its_side_and_waits_gets_its_answer(
        scripted: Service, path: str, asked: dict[str, Any]) -> None:
    said = len(scripted.lines)
    body = json.dumps(asked).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    with socket.create_connection(("127.0.0.1", int(scripted.url.rpartition(":")[2])), timeout=60) as sock:
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
    _wait_for(scripted, said, f'"POST {path} HTTP/1.1" 200')
