"""What the routes answer: forms, streams, checks of vectors, and how each failure of a lane looks to a client."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from web_rig import (
    FINISHED,
    HOLD,
    KEY,
    ScriptedLane,
    eventually,
    http_post,
    one_answer,
    read_all,
    serving,
    unit_vectors,
)

from mayfly.errors import (
    CallError,
    ContextLengthExceeded,
    DeadlinePassed,
    EngineFailed,
    LaneUnavailable,
    ModelCrashed,
    QueueFull,
)
from mayfly.wire.calls import Embeddings, Piece


def test_embed_answers_as_the_contract_says() -> None:
    with serving() as service:
        status, headers, answer = service.post("/embed", {"input": ["a", "b", "c"], "model": "whatever"})
    expected = np.frombuffer(unit_vectors(3).vectors, "<f4").reshape(3, 384)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (answer["object"], answer["model"]) == ("list", "scripted-embedder")
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert [set(entry) for entry in answer["data"]] == [{"object", "index", "embedding"}] * 3
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    np.testing.assert_array_equal(np.array([entry["embedding"] for entry in answer["data"]], "<f4"), expected)


def test_single_text_answers_a_list_of_one() -> None:
    with serving() as service:
        answer = service.post("/embed", {"input": "a", "long_text": "truncate"})[2]
        assert len(answer["data"]) == 1
        assert service.embed.calls[-1].long_text == "truncate"


def test_base64_is_little_endian_float32() -> None:
    with serving() as service:
        answer = service.post("/embed", {"input": ["a", "b"], "encoding_format": "base64"})[2]
    decoded = b"".join(base64.b64decode(entry["embedding"]) for entry in answer["data"])
    assert decoded == unit_vectors(2).vectors


def test_most_texts_at_once_are_answered_in_order() -> None:
    with serving() as service:
        status, _, answer = service.post("/embed", {"input": [str(n) for n in range(2048)]})
        assert status == 200
        assert service.embed.calls[-1].texts == tuple(str(n) for n in range(2048))
        assert [entry["index"] for entry in answer["data"]] == list(range(2048))
        assert service.post("/embed", {"input": ["x"] * 3000})[0] == 400


def bent(**changes: Any) -> Embeddings:
    return dataclasses.replace(unit_vectors(2), **changes)


def with_number(value: float) -> Embeddings:
    array = np.frombuffer(unit_vectors(2).vectors, "<f4").copy()
    array[500] = value
    return bent(vectors=array.tobytes())


@pytest.mark.parametrize("wrong", [
    with_number(np.nan), with_number(np.inf), with_number(-np.inf), with_number(0.5), with_number(3e38),
    bent(vectors=b""), bent(vectors=unit_vectors(1).vectors), bent(vectors=unit_vectors(3).vectors),
    bent(vectors=unit_vectors(2).vectors[:-1]), bent(dimensions=0), bent(dimensions=-384), bent(dimensions=383),
    bent(vectors=bytes(2 * 384 * 4)),
])
def test_wrong_vector_is_a_500_and_never_sent(wrong: Embeddings) -> None:
    with serving(embed=ScriptedLane("embedding", vectors=lambda _: wrong)) as service:
        for encoding in ("float", "base64"):
            status, _, answer = service.post("/embed", {"input": ["a", "b"], "encoding_format": encoding})
            assert (status, answer["error"]["code"]) == (500, "engine_failed")


def test_completion_answers_as_the_contract_says() -> None:
    with serving() as service:
        status, headers, answer = service.post("/gpt4all_api", {"prompt": "Hi"})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert answer == {"response": "Hello w\u00f6rld", "model": "scripted.gguf", "finish_reason": "stop",
                      "generation": 7, "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}


def test_route_is_a_setting() -> None:
    with serving(ROUTE="/my/route") as service:
        assert service.post("/my/route", {"prompt": "Hi"})[0] == 200
        assert service.post("/gpt4all_api", {"prompt": "Hi"})[0] == 404


def events(body: bytes) -> list[Any]:
    """Return the data of each event; comments as their text."""
    assert body.isascii()
    assert b"\r" not in body
    assert body.endswith(b"\n\n")
    found: list[Any] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        kind, _, data = block.partition(": ")
        assert "\n" not in block
        found.append(block if kind == "" else data if data == "[DONE]" else json.loads(data))
        assert kind in ("", "data")
    return found


def stream(lane: ScriptedLane) -> tuple[int, dict[str, str], bytes]:
    with serving(lane) as service:
        body = b'{"prompt": "Hi", "stream": true}'
        answer = one_answer(service.raw(http_post("/gpt4all_api", body)))
        eventually(lambda: len(service.lines) == 1)
        return answer.status, answer.headers, answer.body


def test_stream_answers_piece_by_piece() -> None:
    lane = ScriptedLane(items=[Piece("H\u00e9"), Piece("\U0001f98b\n\n"), FINISHED])
    status, headers, body = stream(lane)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
    assert headers["x-request-id"]
    assert events(body) == [
        {"response": "H\u00e9"}, {"response": "\U0001f98b\n\n"},
        {"response": "", "model": "scripted.gguf", "finish_reason": "stop", "generation": 7,
         "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}, "[DONE]"]
    assert lane.closed == 1


def test_pieces_are_sent_as_they_come() -> None:
    lane = ScriptedLane(items=[Piece("one"), HOLD, FINISHED])
    with serving(lane) as service, service.connect() as sock:
        sock.sendall(http_post("/gpt4all_api", b'{"prompt": "Hi", "stream": true}'))
        got = b""
        while b'{"response": "one"}\n\n' not in got:
            got += sock.recv(4096)
        eventually(lambda: lane.held == 1)
        lane.release()
        assert (got + read_all(sock)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


FAILURES: list[tuple[CallError, int, str, str]] = [
    (ContextLengthExceeded("600 tokens, 512 fit"), 400, "invalid_request_error", "context_length_exceeded"),
    (QueueFull("full"), 429, "rate_limit_error", "queue_full"),
    (QueueFull("full", retry_after=7.2), 429, "rate_limit_error", "queue_full"),
    (ModelCrashed("it died twice (report: x.log)"), 500, "server_error", "model_crashed"),
    (EngineFailed("it talks nonsense."), 500, "server_error", "engine_failed"),
    (LaneUnavailable("it is loading", retry_after=0.01), 503, "server_error", "model_unavailable"),
    (LaneUnavailable("it is off"), 503, "server_error", "model_unavailable"),
    (DeadlinePassed("it is late"), 504, "server_error", "timeout"),
]


@pytest.mark.parametrize(("failure", "status", "kind", "code"), FAILURES)
def test_failure_of_a_lane_has_its_status(
        tmp_path: Path, failure: CallError, status: int, kind: str, code: str) -> None:
    lanes = ScriptedLane(fails=failure), ScriptedLane("embedding", fails=failure)
    # A model that isn't there has no window of its own that forbids to raise N_CTX.
    with serving(*lanes, MODEL_PATH=str(tmp_path)) as service:
        for path, body in (("/embed", {"input": "x"}), ("/gpt4all_api", {"prompt": "x"}),
                           ("/gpt4all_api", {"prompt": "x", "stream": True})):
            got, headers, answer = service.post(path, body)
            assert got == status
            message, param = failure.message, None
            if status >= 500:  # a sentence, whoever's words it is made of
                message = "I" + message[1:].rstrip(".") + "."
            if code == "context_length_exceeded" and path != "/embed":
                message, param = f"'prompt' is too long: {failure.message}; shorten it or raise N_CTX.", "prompt"
            assert answer == {"error": {"message": message, "type": kind, "param": param, "code": code}}
            if status in (429, 503):
                assert int(headers["Retry-After"]) == (8 if failure.retry_after == 7.2 else
                                                       max(1, int(headers["Retry-After"])))
            else:
                assert "Retry-After" not in headers


@pytest.mark.parametrize(("name", "shown"), [
    ("plain-Name.1", "plain-Name.1"), ("Größe 模型", "'Größe 模型'"), (" ", "' '"), ("it's", '"it\'s"'),
    ('say "a"', "'say \"a\"'"), ("a\nb\0\x1b[31m", r"'a\nb\x00\x1b[31m'"), ("a\u202eb", r"'a\u202eb'"),
    ("$(reboot)", "'$(reboot)'"), ("../etc/passwd", "'../etc/passwd'"), ("a\\b", r"'a\\b'"),
    ("x" * 5000, "'" + "x" * 97 + "...'"), ("\x01" * 5000, "'" + r"\x01" * 97 + "...'")])
def test_a_model_that_is_not_there_is_named_as_it_was_asked_for(tmp_path: Path, name: str, shown: str) -> None:
    with serving(MODEL_PATH=str(tmp_path)) as service:
        for path, body in (("/v1/completions", {"prompt": "x"}), ("/v1/tokenize", {"input": "x"})):
            status, _, answer = service.post(path, {"model": name, **body})
            assert (status, answer["error"]["code"]) == (404, "model_not_found")
            assert answer["error"]["message"].startswith(f"There is no model {shown} here. ")
            # Nothing odd stands in a command, which might be copied.
            assert ("pull" in answer["error"]["message"]) == (shown == name)


@pytest.mark.parametrize(("failure", "code"), [(LaneUnavailable("died"), "model_unavailable"),
                                               (DeadlinePassed("late"), "timeout"),
                                               (RuntimeError("S3CRETTEXT"), "internal_error")])
def test_failure_after_the_start_of_a_stream_is_its_last_event(failure: Exception, code: str,
                                                               capfd: pytest.CaptureFixture[str]) -> None:
    lane = ScriptedLane(items=[Piece("one"), failure])
    status, _, body = stream(lane)
    assert status == 200
    first, last = events(body)
    assert first == {"response": "one"}
    assert set(last) == {"error"}
    assert last["error"]["code"] == code
    assert b"S3CRETTEXT" not in body
    assert "S3CRETTEXT" not in capfd.readouterr().err
    assert lane.closed == 1


def test_a_silent_stream_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mayfly.web.flows._SILENCE", 0.05)
    lane = ScriptedLane(items=[HOLD, Piece("one"), HOLD, FINISHED])
    with serving(lane) as service, service.connect() as sock:
        sock.sendall(http_post("/gpt4all_api", b'{"prompt": "Hi", "stream": true}'))
        data = b""
        for silences in (1, 2):
            while data.count(b": ping\n\n") < silences or data.count(b'"one"') < silences - 1:
                data += sock.recv(1000)
            lane.release()
        shown = events(one_answer(data + read_all(sock)).body)
    assert next(event for event in shown if event != ": ping") == {"response": "one"}
    assert shown[0] == ": ping"
    assert shown[-1] == "[DONE]"


def test_bug_is_a_500_that_tells_nothing_but_the_id(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(embed=ScriptedLane("embedding", fails=KeyError("S3CRETTEXT"))) as service:
        status, _, answer = service.post("/embed", {"input": "S3CRETTEXT"}, X_Request_Id="my-id.1")
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (500, "server_error", "internal_error")
    assert "my-id.1" in answer["error"]["message"]
    printed = capfd.readouterr().err
    assert "my-id.1" in printed
    assert "KeyError" in printed
    assert "web_rig.py" in printed
    assert "S3CRETTEXT" not in printed + json.dumps(answer)


@pytest.mark.parametrize("sent", ["abc", "A-1_b.c", "x" * 64])
def test_sane_request_id_comes_back(sent: str) -> None:
    with serving() as service:
        assert service.post("/embed", {"input": "x"}, X_Request_Id=sent)[1]["X-Request-Id"] == sent
        assert service.embed.calls[-1].id == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 65, "a b", "a;b", "\xff", "<script>", "a, b"])
def test_other_request_ids_are_replaced(sent: str | None) -> None:
    with serving() as service:
        headers = {} if sent is None else {"X_Request_Id": sent}
        got = [service.post("/embed", {"input": "x"}, **headers)[1]["X-Request-Id"] for _ in range(2)]
    assert all(re.fullmatch("req_[0-9a-f]{24}", identity) for identity in got)
    assert got[0] != got[1]


@pytest.mark.parametrize("path", ["/embed/", "//embed", "//embed//", "/embed///", "/%65mbed", "/embed?x=1"])
def test_slashes_never_redirect(path: str) -> None:
    with serving() as service:
        assert service.request("POST", path, b'{"input":"x"}', Content_Type="application/json")[0] == 200


@pytest.mark.parametrize("path", ["/nothing", "/embed/x", "/Embed", "/..", "/embed/..", "/v1/nothing", "/%00",
                                  "/%ff%fe", "/static/x", "/favicon.ico", "*", "/gpt4all_api/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_unknown_path_is_404(path: str, method: str) -> None:
    with serving() as service:
        answer = one_answer(service.raw(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                                        .encode()))
    assert answer.status == 404
    assert answer.error()["type"] == "not_found_error"
    meant = "POST /embed" if "mbed" in path else "POST /gpt4all_api" if "gpt4all" in path else "below /v1"
    assert (meant in answer.error()["message"]) == (path != "/v1/nothing")
    assert "location" not in answer.headers


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("GET", "/embed", "POST"), ("PUT", "/embed", "POST"), ("DELETE", "/gpt4all_api", "POST"),
    ("OPTIONS", "/embed", "POST"), ("OPTIONS", "/health", "GET, HEAD"), ("POST", "/health", "GET, HEAD"),
    ("PATCH", "/ready", "GET, HEAD"), ("TRACE", "/embed", "POST"), ("BREW", "/embed", "POST"),
])
def test_wrong_method_is_405_with_allow(method: str, path: str, allow: str) -> None:
    with serving() as service:
        answer = one_answer(service.raw(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                                        .encode()))
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.error()["code"] == "method_not_allowed"


def test_head_has_no_body() -> None:
    with serving() as service:
        for path, expected in (("/health", 200), ("/ready", 200), ("/nothing", 404), ("/embed", 405)):
            data = service.raw(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert data.startswith(f"HTTP/1.1 {expected} ".encode())
            assert data.endswith(b"\r\n\r\n")
            if expected == 200:
                # It says how long the body would be.
                body = service.request("GET", path)[2]
                length = int(re.search(rb"Content-Length: (\d+)", data)[1])  # type: ignore[index]
                assert abs(length - len(body)) < 4  # the seconds since the start may have another digit


def test_health_and_ready_follow_the_lanes() -> None:
    chat, embed = ScriptedLane(), ScriptedLane("embedding")
    with serving(chat, embed) as service:
        def seen() -> tuple[str, int, Any]:
            health = json.loads(service.request("GET", "/health")[2])
            status, headers, body = service.request("GET", "/ready")
            assert (status == 503) == ("Retry-After" in headers)
            return health["status"], status, json.loads(body)

        assert seen() == ("ok", 200, {"status": "ready"})
        chat.is_ready = False
        word, status, body = seen()
        assert (word, status, body["status"], body["waiting_for"]) == ("degraded", 503, "unready", ["completion"])
        assert body["error"]["message"] == "Try again later: the completion model isn't ready (loading)."
        assert json.loads(service.request("GET", "/ready", Via="x")[2]) == {"status": "unready"}
        chat.is_configured = False
        assert seen() == ("ok", 200, {"status": "ready"})
        embed.is_ready = False
        assert seen()[:2] == ("degraded", 503)
        embed.is_configured = False
        assert seen()[:2] == ("degraded", 503)
        health = json.loads(service.request("GET", "/health", Authorization=f"Bearer {KEY}")[2])
        assert health["lanes"]["completion"] == {"state": "loading", "model": "scripted.gguf"}


def test_deadline_of_a_request_is_the_setting() -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat, REQUEST_TIMEOUT="0.2") as service:
        for streaming in (False, True):
            status, _, answer = service.post("/gpt4all_api", {"prompt": "x", "stream": streaming})
            assert (status, answer["error"]["code"]) == (504, "timeout")


def test_health_answers_while_every_place_is_taken() -> None:
    places = 200
    chat = ScriptedLane(most=places)
    chat.hold()
    with serving(chat) as service:
        threads = threading.active_count()
        request = http_post("/gpt4all_api", b'{"prompt": "x"}', "Connection: close")
        waiting = [service.connect() for _ in range(places)]
        for sock in waiting:
            sock.sendall(request)
        eventually(lambda: chat.held == places)
        # No thread waits with them.
        assert threading.active_count() <= threads + 8
        status, headers, answer = service.post("/gpt4all_api", {"prompt": "x"})
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert int(headers["Retry-After"]) >= 1
        assert service.healthy()
        assert service.post("/embed", {"input": "x"})[0] == 200
        chat.release()
        for sock in waiting:
            with sock:
                assert one_answer(read_all(sock)).status == 200
        assert service.post("/gpt4all_api", {"prompt": "x"})[0] == 200


@pytest.mark.parametrize("body", [b'{"prompt": "x"}', b'{"prompt": "x", "stream": true}'])
def test_client_that_leaves_frees_its_place_and_is_logged_as_499(body: bytes) -> None:
    chat = ScriptedLane()
    chat.hold()
    with serving(chat) as service:
        with service.connect() as sock:
            sock.sendall(http_post("/gpt4all_api", body))
            eventually(lambda: chat.held == 1)
        eventually(lambda: chat.left == 1)
        eventually(lambda: len(service.lines) == 1)
        assert '" 499 ' in service.lines[0]


def test_client_that_leaves_a_stream_cancels_it() -> None:
    chat = ScriptedLane(items=[Piece("one"), HOLD, FINISHED])
    with serving(chat) as service:
        with service.connect() as sock:
            sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x", "stream": true}'))
            assert sock.recv(100)
            eventually(lambda: chat.held == 1)
        eventually(lambda: chat.closed == 1)
        assert chat.left == 1
        eventually(lambda: len(service.lines) == 1)
        assert '" 499 ' in service.lines[0]


def test_stream_whose_reader_left_is_closed_at_the_next_piece() -> None:
    # A lane that doesn't ask whether the client is there: the failing write has to end it.
    chat = ScriptedLane(items=[Piece("x" * 1000)] * 100_000)
    with serving(chat) as service:
        with service.connect() as sock:
            sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x", "stream": true}'))
            assert sock.recv(100)
        eventually(lambda: chat.closed == 1)
        eventually(lambda: len(service.lines) == 1)
