"""Bad input to the running service with real models: the right status, JSON, and the service unharmed after it.

The one service of this file also runs beside another one whose completion model aborts gpt4all, for its whole first
minute.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from service import Service, until

TEXT = "The cat sat on the mat."
CONTEXT = 128
MEGABYTE = 1 << 20


class Unharmed:
    """A service, and what it was before anything bad was sent to it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        (self._vector,) = service.embed(TEXT)
        self._answer = service.complete(TEXT, temperature=0)["response"]
        self._pids = (service.pid("app"), service.pid("embedding"), service.pid("completion"))

    def check(self) -> None:
        """Fail unless it answers as before, with the same processes, and nothing was reported."""
        service = self.service
        (vector,) = service.embed(TEXT)
        assert math.fsum(a * b for a, b in zip(vector, self._vector, strict=True)) > 0.99999
        assert service.complete(TEXT, temperature=0)["response"] == self._answer
        assert (service.pid("app"), service.pid("embedding"), service.pid("completion")) == self._pids
        health = service.health()
        assert health["status"] == "ok"
        for lane in health["lanes"].values():
            assert {cause for cause, count in lane["restarts"].items() if count} <= {"spent"}
        assert service.reports() == []


@pytest.fixture(scope="module")
def aborting(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Iterator[Service]:
    """A service whose completion model makes gpt4all abort its process. Started first: its minute has to pass."""
    folder = tmp_path_factory.mktemp("aborting")
    (folder / "models").mkdir()
    _place(embedding_model, folder / "models")
    tiny_llama.malformed(folder / "models" / "broken.gguf", "impossible_header")
    service = Service(folder, {"MODEL_PATH": folder / "models", "MODEL_NAME": "broken.gguf"})
    service.wait_listening()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def running(aborting: Service, tmp_path_factory: pytest.TempPathFactory, embedding_model: Path, tiny_model: Path
            ) -> Iterator[Unharmed]:
    """A service with both real models and a small context window."""
    folder = tmp_path_factory.mktemp("running")
    (folder / "models").mkdir()
    for model in (embedding_model, tiny_model):
        _place(model, folder / "models")
    service = Service(folder, {"MODEL_PATH": folder / "models", "MODEL_NAME": tiny_model.name, "N_CTX": CONTEXT})
    yield Unharmed(service.wait_ready())
    service.stop()


def _place(model: Path, folder: Path) -> None:
    try:
        os.link(model, folder / model.name)
    except OSError:  # another file system
        (folder / model.name).write_bytes(model.read_bytes())


def _error(answer: requests.Response, status: int) -> dict[str, Any]:
    """Return the error of an answer; fails unless it has the status and is an error in the contract's form."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    parsed = answer.json()
    assert set(parsed) == {"error"}
    assert set(parsed["error"]) == {"message", "type", "param", "code"}
    return dict(parsed["error"])


# -- bodies ---------------------------------------------------------------------------------------------------

EMBED, ASK = "/embed", "/gpt4all_api"


def _ask(**fields: Any) -> bytes:
    return json.dumps({"prompt": "Hello", "max_tokens": 4, **fields}).encode()


REFUSED: dict[str, tuple[str, bytes, int, str | None]] = {
    # name: path, body, status, param
    "no texts": (EMBED, b'{"input": []}', 400, "input"),
    "number among texts": (EMBED, b'{"input": [1]}', 400, "input.0"),
    "number": (EMBED, b'{"input": 5}', 400, "input"),
    "null": (EMBED, b'{"input": null}', 400, "input"),
    "object": (EMBED, b'{"input": {"a": "b"}}', 400, "input"),
    "lists of numbers": (EMBED, b'{"input": [[1, 2, 3]]}', 400, "input.0"),
    "nothing": (EMBED, b"{}", 400, "input"),
    "unknown field": (EMBED, b'{"input": "a", "colour": "red"}', 400, "colour"),
    "3,000 texts": (EMBED, json.dumps({"input": ["a"] * 3000}).encode(), 400, "input"),
    "half a character": (EMBED, b'{"input": "a\\ud800b"}', 400, None),
    "10 MB": (EMBED, b'{"input": "' + b"a " * (5 * MEGABYTE) + b'"}', 413, None),
    "10,000 levels": (EMBED, b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, None),
    "10,000 open levels": (EMBED, b'{"a":' * 10_000, 400, None),
    "invalid UTF-8": (EMBED, b'{"input": "\xff\xfe"}', 400, None),
    "UTF-16": (EMBED, '{"input": "a"}'.encode("utf-16"), 400, None),
    "a cut body": (EMBED, b'{"input": "a', 400, None),
    "an empty body": (EMBED, b"", 400, None),
    "a list": (EMBED, b"[]", 400, None),
    "5,000 digits": (EMBED, b'{"input": ' + b"9" * 5000 + b"}", 400, None),
    "no prompt": (ASK, b"{}", 400, "prompt"),
    "empty prompt": (ASK, _ask(prompt=""), 400, "prompt"),
    "blank prompt": (ASK, _ask(prompt=" \n"), 400, "prompt"),
    "null prompt": (ASK, _ask(prompt=None), 400, "prompt"),
    "list of prompts": (ASK, _ask(prompt=["a"]), 400, "prompt"),
    "NUL in a prompt": (ASK, _ask(prompt="a\0b"), 400, "prompt"),
    "NUL in a persona": (ASK, _ask(persona="\0"), 400, "persona"),
    "half a character in a prompt": (ASK, b'{"prompt": "\\udc00"}', 400, None),
    "half a character in a stream": (ASK, b'{"prompt": "\\udc00", "stream": true}', 400, None),
    "prompt beyond the window": (ASK, _ask(prompt="word " * 2 * CONTEXT), 400, "prompt"),
    "persona beyond the window": (ASK, _ask(persona="word " * 2 * CONTEXT), 400, "prompt"),
    "stream beyond the window": (ASK, _ask(prompt="word " * 2 * CONTEXT, stream=True), 400, "prompt"),
    "100,000 words of prompt": (ASK, _ask(prompt="word " * 100_000), 400, "prompt"),
    "max_tokens 0": (ASK, _ask(max_tokens=0), 400, "max_tokens"),
    "max_tokens -1": (ASK, _ask(max_tokens=-1), 400, "max_tokens"),
    "max_tokens 10^30": (ASK, _ask(max_tokens=10**30), 400, "max_tokens"),
    "max_tokens in words": (ASK, _ask(max_tokens="4"), 400, "max_tokens"),
    "temperature -1": (ASK, _ask(temperature=-1), 400, "temperature"),
    "temperature NaN": (ASK, _ask(temperature=math.nan), 400, None),
    "temperature infinite": (ASK, b'{"prompt": "a", "temp": 1e400}', 400, None),
    "temperature in words": (ASK, _ask(temp="hot"), 400, "temp"),
    "top_k -1": (ASK, _ask(top_k=-1), 400, "top_k"),
    "top_p 7": (ASK, _ask(top_p=7), 400, "top_p"),
    "min_p NaN": (ASK, b'{"prompt": "a", "min_p": NaN}', 400, None),
    "repeat_penalty 0": (ASK, _ask(repeat_penality=0), 400, "repeat_penality"),
    "repeat_last_n -5": (ASK, _ask(repeat_last_n=-5), 400, "repeat_last_n"),
    "a stop of numbers": (ASK, _ask(stop=[1]), 400, "stop.0"),
    "a model that isn't there": (ASK, _ask(model="absent"), 404, "model"),
    "a server's setting": (ASK, _ask(n_batch=0), 400, "n_batch"),
    "a prompt template": (ASK, _ask(prompt_template="%1"), 400, "prompt_template"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_body_is_refused_in_json_and_harms_nothing(running: Unharmed, name: str) -> None:
    path, body, status, param = REFUSED[name]
    answer = requests.post(running.service.url + path, data=body, timeout=60,
                           headers={"Content-Type": "application/json"})
    error = _error(answer, status)
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert param is None or error["param"] == param
    if "window" in name or "100,000" in name:
        assert error["code"] == "context_length_exceeded"
        tokens, window = map(int, re.findall(r"\d+", error["message"])[:2])
        assert tokens >= window == CONTEXT
    running.check()


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded",
                                          "multipart/form-data; boundary=x", "application/xml", "json"])
def test_a_body_that_is_not_said_to_be_json_is_415(running: Unharmed, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = requests.post(running.service.url + EMBED, data=b'{"input": "a"}', headers=headers, timeout=60)
    assert _error(answer, 415)["code"] == "unsupported_media_type"
    running.check()


@pytest.mark.parametrize(("method", "path", "status", "allow"), [
    ("GET", "/nowhere", 404, None), ("POST", "/embeddings", 404, None), ("GET", "/%2e%2e/etc/passwd", 404, None),
    ("POST", "/embed/\0", 404, None), ("GET", EMBED, 405, "POST"), ("DELETE", ASK, 405, "POST"),
    ("OPTIONS", EMBED, 405, "POST"), ("POST", "/health", 405, "GET, HEAD"), ("BREW", "/ready", 405, "GET, HEAD"),
])
def test_an_unknown_path_and_a_wrong_method_are_answered_in_json(
        running: Unharmed, method: str, path: str, status: int, allow: str | None) -> None:
    answer = requests.request(method, running.service.url + path, timeout=60)
    _error(answer, status)
    assert answer.headers.get("Allow") == allow
    running.check()


@pytest.mark.parametrize(("sent", "status"), [
    (b"GARBAGE\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
    (b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", 400),
    (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"\r\n" * 50_000, None),
], ids=["garbage", "tls", "header", "negative length", "two lengths", "chunk", "coding", "blank lines"])
def test_what_is_no_http_is_answered_in_json_or_not_at_all(running: Unharmed, sent: bytes, status: int | None) -> None:
    with socket.create_connection(("127.0.0.1", int(running.service.url.rpartition(":")[2])), timeout=60) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    if status is not None:
        head, _, body = received.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        assert b"content-type: application/json" in head.lower()
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    running.check()


@pytest.mark.parametrize("text", ["", " ", "\n", "a\0b", "\0", "\u200b", "😀", "x" * 3000, "\u202eabc", "[CLS] [SEP]"],
                         ids=["empty", "blank", "line", "nul inside", "nul", "zero width", "emoji", "one word",
                              "right to left", "special tokens"])
def test_an_odd_text_gets_a_vector(running: Unharmed, text: str) -> None:
    (vector,) = running.service.embed(text)
    assert len(vector) == 384
    assert math.fsum(number * number for number in vector) == pytest.approx(1, abs=1e-3)
    running.check()


def test_nul_in_a_text_is_removed_and_not_a_cut(running: Unharmed) -> None:
    with_nul, without, cut = running.service.embed(["The cat\0 sat on the mat.", TEXT, "The cat"])
    assert with_nul == without != cut


def test_the_end_token_in_a_prompt_is_text(running: Unharmed) -> None:
    def tokens(prompt: str) -> int:
        return int(running.service.complete(prompt, max_tokens=1)["usage"]["prompt_tokens"])

    # Four characters and a blank; the token would be one beside two blanks.
    assert tokens("word </s> word") >= tokens("word word") + 4


def test_100_000_words_end_at_the_deadline_and_the_next_one_is_served(start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME="none", REQUEST_TIMEOUT=3, HANG_SECONDS=15)
    unharmed, pid = service.embed(TEXT), service.pid("embedding")
    answer = service.post(EMBED, {"input": "word " * 100_000})
    assert _error(answer, 504)["code"] == "timeout"
    # Its worker notices within one part of the text; until then the next ones wait.
    until(lambda: service.post(EMBED, {"input": TEXT}).status_code == 200, what="an answer")
    assert service.embed(TEXT) == unharmed
    assert service.pid("embedding") == pid
    assert service.reports() == []


# -- malformed models -----------------------------------------------------------------------------------------

REASONS = {"empty": "the file is empty", "text": "isn't a GGUF file", "truncated_header": "ends inside its header",
           "corrupted_header": "has a type", "truncated_data": "cut short"}


@pytest.mark.parametrize("how", REASONS)
def test_a_malformed_completion_model_is_a_503_with_the_reason_and_embeddings_go_on(
        start: Callable[..., Service], model_path: Path, how: str) -> None:
    tiny_llama.malformed(model_path / "broken.gguf", how)
    vectors = scripts.write(model_path, name="vectors", kind="embedding")
    service = start(MODEL_NAME="broken.gguf", EMBED_MODEL=vectors, wait=False)
    service.wait_listening()
    error = _refused_completion(service)
    assert REASONS[how] in error["message"] and "broken.gguf" in error["message"]
    assert len(service.embed(TEXT)[0]) == 384
    report = until(service.reports)[0]
    assert REASONS[how] in report.read_text()
    assert "cause:           failed_start" in report.read_text()
    _check_health_of_failing(service)


def test_whoever_asks_a_broken_configured_model_is_told_the_same_and_a_good_file_in_its_place_is_served(
        start: Callable[..., Service], model_path: Path) -> None:
    (model_path / "tiny-llama.gguf").rename(model_path / "good.gguf")
    (model_path / "tiny-llama.gguf").write_text("no model")
    service = start(EMBED_MODEL="none", wait=False)
    service.wait_listening()
    told = set()
    for path, field in ((ASK, "prompt"), ("/v1/completions", "prompt"), ("/v1/tokenize", "input")):
        for model in ({}, {"model": "tiny-llama"}):
            answer = service.post(path, {field: "Hello", **model})
            error = _error(answer, 503)
            assert error["code"] == "model_unavailable" and int(answer.headers["Retry-After"]) >= 1
            told.add(error["message"].partition(" (report: ")[0])
    assert len({message.partition(". Put ")[0] for message in told}) == 1, told
    assert "isn't a GGUF file" in told.pop()
    assert "Put a good file in its place" in error["message"] and "MODEL_NAME" in error["message"]
    shutil.copyfile(model_path / "good.gguf", model_path / "tiny-llama.gguf")
    until(lambda: service.post(ASK, {"prompt": "Hello"}).status_code == 200, what="the mended file")
    assert service.post("/v1/tokenize", {"input": "Hello"}).status_code == 200


def test_the_minute_begins_with_a_503_that_names_the_report(aborting: Service) -> None:
    error = _refused_completion(aborting)
    assert "broken" in error["message"] and "SIGABRT" in error["message"]
    report = aborting.log_folder / re.findall(r"\S+_watchdog_error\.log", error["message"])[0]
    text = report.read_text()
    assert "GGML_ASSERT" in text
    assert "how:             killed by SIGABRT" in text
    # Where gdb is installed gpt4all would start it, which takes seconds and writes the stack's contents.
    assert "libthread_db" not in text and "[Inferior" not in text
    assert len(aborting.embed(TEXT)[0]) == 384
    _check_health_of_failing(aborting)


def _refused_completion(service: Service) -> dict[str, Any]:
    """Ask for a completion that can't be had; return the error."""
    answer = service.post(ASK, {"prompt": "Hello"})
    error = _error(answer, 503)
    assert (error["type"], error["code"]) == ("server_error", "model_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    return error


def _check_health_of_failing(service: Service) -> None:
    health = service.health()
    assert health["status"] == "degraded"
    lane = health["lanes"]["completion"]
    assert lane["state"] == "failing" and lane["reason"]
    assert lane["restarts"]["failed_start"] >= 1 and lane["restarts"]["crashed"] == 0
    assert lane["last_failure"]["cause"] == "failed_start"
    assert service.session.get(service.url + "/ready", timeout=120).status_code == 503
    assert health["lanes"]["embedding"]["state"] == "ready"


def test_a_malformed_model_that_is_replaced_by_a_good_one_is_loaded_without_a_restart(
        start: Callable[..., Service], model_path: Path, tiny_model: Path) -> None:
    tiny_llama.malformed(model_path / "mended.gguf", "text")
    service = start(MODEL_NAME="mended.gguf", EMBED_MODEL="none", wait=False)
    service.wait_listening()
    _refused_completion(service)
    (model_path / "new").write_bytes(tiny_model.read_bytes())
    (model_path / "new").replace(model_path / "mended.gguf")
    service.wait_ready()
    assert service.complete("Hello")["response"]


@pytest.mark.parametrize(("kind", "path", "body"), [("completion", ASK, {"prompt": "Hello"}),
                                                     ("embedding", EMBED, {"input": TEXT})])
def test_a_configured_model_is_loaded_when_its_file_comes_and_again_when_it_comes_back(
        start: Callable[..., Service], model_path: Path, tmp_path: Path, kind: str, path: str,
        body: dict[str, str]) -> None:
    setting, other = ("MODEL_NAME", "EMBED_MODEL") if kind == "completion" else ("EMBED_MODEL", "MODEL_NAME")
    name, named = scripts.write(tmp_path, name="late", kind=kind), {setting: "late.script.json"}
    other_kind = "embedding" if kind == "completion" else "completion"
    service = start(wait=False, **named, **{other: scripts.write(model_path, name="there", kind=other_kind)})
    service.wait_listening()
    until(lambda: service.lane(other_kind)["state"] == "ready", what="the other model")

    def refused() -> str:
        for named in ({}, {"model": "late"}, {"model": "late.script.json"}):
            error = _error(service.post(path, {**body, **named}), 503)
            assert error["code"] == "model_unavailable" and setting in error["message"]
        return str(service.lane(kind)["state"])

    ready = service.url + "/ready"
    assert refused() == "off"
    assert service.session.get(ready).status_code == 200  # it does what it can
    for _ in range(2):
        (tmp_path / name).rename(model_path / name)
        until(lambda: service.lane(kind)["state"] == "ready", what="the model loaded")
        assert service.post(path, body).status_code == service.session.get(ready).status_code == 200
        assert service.post(path, {**body, "model": "late"}).status_code == 200
        assert "model:late" not in service.health()["lanes"]
        (model_path / name).rename(tmp_path / name)
        until(lambda: service.lane(kind)["state"] == "failing", what="the model gone")
        until(lambda: setting in service.lane(kind)["reason"], what="the reason")
        assert refused() == "failing"
        assert service.session.get(ready).status_code == 503
    assert service.reports() == []


def test_a_malformed_embedding_model_is_a_503_with_the_reason_and_completions_go_on(
        start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.malformed(model_path / "broken.gguf", "truncated_data")
    service = start(EMBED_MODEL="broken.gguf", wait=False)
    service.wait_listening()
    until(lambda: service.lane("completion")["state"] == "ready", what="completions")
    error = _error(service.post(EMBED, {"input": TEXT}), 503)
    assert "cut short" in error["message"]
    assert service.complete("Hello")["response"]


@pytest.mark.parametrize(("setting", "said"), [("MODEL_NAME", "is an embedding model"),
                                               ("EMBED_MODEL", "is no embedding model")])
def test_a_model_of_the_other_kind_is_refused_by_name(
        start: Callable[..., Service], embedding_model: Path, tiny_model: Path, setting: str, said: str) -> None:
    wrong, path = (embedding_model, ASK) if setting == "MODEL_NAME" else (tiny_model, EMBED)
    service = start(wait=False, **{"MODEL_NAME": "none", "EMBED_MODEL": "none", setting: wrong.name})
    service.wait_listening()
    answer = service.post(path, {"prompt": "Hello"} if path == ASK else {"input": TEXT})
    assert said in _error(answer, 503)["message"]


def test_back_off_holds_the_starts_of_an_aborting_model_below_twelve_in_the_first_minute(aborting: Service) -> None:
    # This test is the last one: the minute has passed for the most part, and perhaps more.
    until(lambda: aborting.health()["uptime_s"] >= 60, within=90, what="the minute")
    failures = aborting.lane("completion")["restarts"]["failed_start"]
    waits = [float(match[1]) for line in aborting.lines
             if (match := re.search(r"completion failed start.*starting it again in ([\d.]+) s", line))]
    starts = sum(sum(waits[:number]) < 60 for number in range(len(waits)))
    print(f"starts in the first minute: {starts} at most; pauses between them: {waits}")
    assert 6 <= starts < 12
    assert waits[:9] == [min(0.1 * 2**number, 30) for number in range(len(waits[:9]))]
    # All of them are the same death.
    (report,) = aborting.reports()
    counted = int(re.findall(r"times: +(\d+), since", report.read_text())[0])
    assert counted in (failures, failures + 1)  # one more may just have come
    assert len(aborting.embed(TEXT)[0]) == 384
    restarts = aborting.health()["lanes"]["embedding"]["restarts"]
    assert restarts == {"spent": 0, "crashed": 0, "hung": 0, "failed_start": 0}
