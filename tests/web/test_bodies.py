"""Every bad body gets its status, its field's name and one sentence, never its own text; the service is unharmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from web_rig import ScriptedLane, Service, serving

from mayfly.wire.calls import Message, Sampling

# Appears in bodies that are refused, and must not come back or be logged.
SECRET = "S3CRETTEXT"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(MAX_TEXTS="100", N_CTX="512") as running:
        yield running


@pytest.fixture(autouse=True)
def _unharmed(service: Service, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert service.post("/embed", {"input": "x"})[0] == 200
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err + "".join(service.lines)
    assert "Traceback" not in printed.err


def refused(service: Service, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    calls = len(service.embed.calls) + len(service.chat.calls)
    got, _, answer = service.post(path, body)
    assert got == status, answer
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"].endswith(".")
    assert SECRET not in json.dumps(answer)
    assert len(service.embed.calls) + len(service.chat.calls) == calls
    error: dict[str, Any] = answer["error"]
    return error


NOT_JSON = {
    "no json": SECRET.encode(),
    "half an object": b'{"input": "' + SECRET.encode(),
    "trailing text": b'{"input": "x"} ' + SECRET.encode(),
    "single quotes": b"{'input': 'x'}",
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "Infinity": b'{"prompt": "x", "temperature": Infinity}',
    "1e400": b'{"prompt": "x", "temperature": 1e400}',
    "-1e400": b'{"prompt": "x", "temperature": -1e400}',
    "5,000 digits": b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"input": "\\ud800"}',
    "reversed surrogates": b'{"input": "\\udc00\\ud800"}',
    "surrogate in UTF-8": b'{"input": "\xed\xa0\x80"}',
    "invalid UTF-8": b'{"input": "\xff\xfe"}',
    "cut UTF-8": b'{"input": "\xe2\x82"}',
    "UTF-16": '{"input": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"input": "x"}',
    "raw control character": b'{"input": "a\nb"}',
    "10,000 lists deep": b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 objects deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "unclosed depths": b"[" * 100_000,
    "nothing": b"",
    "blanks": b"   ",
    "a list": b'["x"]',
    "a string": b'"x"',
    "null": b"null",
    "a number": b"5",
}


@pytest.mark.parametrize("path", ["/embed", "/gpt4all_api"])
@pytest.mark.parametrize("name", NOT_JSON)
def test_body_that_is_no_json_object_is_400(service: Service, path: str, name: str) -> None:
    assert refused(service, path, NOT_JSON[name])["type"] == "invalid_request_error"


@pytest.mark.parametrize(("name", "said"), [
    ("10,000 lists deep", "nested too deeply"), ("10,000 objects deep", "nested too deeply"),
    ("cut UTF-8", "it isn't UTF-8, at byte 11)"),
    ("byte order mark", "begins with a byte order mark"),
    ("UTF-16", "it isn't UTF-8, at byte 0)"), ("raw control character", "at character 12)")])
def test_what_is_no_json_is_told_why_and_where(service: Service, name: str, said: str) -> None:
    assert said in refused(service, "/embed", NOT_JSON[name])["message"]


@pytest.mark.parametrize(("body", "param"), [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": True}, "input"),
    ({"input": {"a": "b"}}, "input"),
    ({"input": [1]}, "input.0"),
    ({"input": [[1, 2, 3]]}, "input.0"),
    ({"input": ["a", "b", "c", 4]}, "input.3"),
    ({"input": ["a", None]}, "input.1"),
    ({"input": ["a", ["b"]]}, "input.1"),
    ({"input": ["a"] * 101}, "input"),
    ({"input": "x", "model": 5}, "model"),
    ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ({"input": "x", "long_text": "cut"}, "long_text"),
    ({"input": "x", "dimensions": 0}, "dimensions"),
    ({"input": "x", "dimensions": "384"}, "dimensions"),
    ({"input": "x", "user": 5}, "user"),
    ({"input": "x", "inputs": SECRET}, "inputs"),
    ({"input": "x", "prompt": None}, "prompt"),
])
def test_bad_field_of_embed_is_named(service: Service, body: dict[str, Any], param: str) -> None:
    error = refused(service, "/embed", body)
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize(("field", "values"), [
    ("prompt", [None, 5, True, ["x"], {"a": "b"}, "", "  \n", f"{SECRET}\0x"]),
    ("persona", [5, [], f"\0{SECRET}"]),
    ("assist", [5, {}, f"{SECRET}\0"]),
    ("model", [5]),
    ("max_tokens", [0, -1, 10**30, "5", 1.0, True, [1]]),
    ("temperature", [-1, -0.001, 2.001, 1e300, "hot", "0.5", True, [0.5]]),
    ("temp", [-1, 3, "hot", False]),
    ("top_k", [-1, 100_001, 1.0, "40", True]),
    ("top_p", [0, -0.1, 1.001, "1", True]),
    ("min_p", [-0.1, 1.1, "0", False]),
    ("repeat_penalty", [0, -1, 10.5, "1.1", True]),
    ("repeat_penality", [0, "1"]),
    ("repeat_last_n", [-1, 513, 64.0, "64", True]),
    ("stop", [5, ["a"] * 17, [["a"]], {"a": "b"}, [None]]),
    ("stream", [0, 1, "true", "false"]),
    ("n_batch", [8, None]),
    ("n_threads", [0]),
])
def test_bad_value_of_a_completion_field_is_named(service: Service, field: str, values: list[Any]) -> None:
    for value in values:
        error = refused(service, "/gpt4all_api", {"prompt": "x", field: value})
        assert error["param"].split(".")[0] == field
        assert field in error["message"]


def test_field_under_two_names_is_refused(service: Service) -> None:
    for one, other in (("temp", "temperature"), ("repeat_penality", "repeat_penalty")):
        error = refused(service, "/gpt4all_api", {"prompt": "x", one: 1, other: 1})
        assert one in error["message"]
        assert other in error["message"]


def test_message_says_what_is_allowed(service: Service) -> None:
    error = refused(service, "/gpt4all_api", {"prompt": "x", "repeat_last_n": 513})
    assert error["message"] == "'repeat_last_n' has to be a whole number from 0 to 512 (N_CTX)."
    error = refused(service, "/gpt4all_api", {"prompt": "x", "temp": "hot"})
    assert error["message"] == "'temp' has to be a number from 0 to 2, not a string."
    error = refused(service, "/gpt4all_api", {"prompt": "x", "max_tokens": "5"})
    assert error["message"] == "'max_tokens' has to be a whole number from 1 on, not a string."
    error = refused(service, "/gpt4all_api", {"prompt": "x", "max_tokens": 10 ** 24})
    assert error["message"].endswith(", not a number beyond 64 bits.")
    error = refused(service, "/embed", {"input": ["a", 1]})
    assert error["message"] == "'input.1' has to be a string, not a whole number."
    error = refused(service, "/embed", {"input": "a", "model": 5})
    assert error["message"] == "'model' has to be a string, not a whole number."
    error = refused(service, "/gpt4all_api", {"prompt": "x", "seed": "a"})
    assert error["message"] == "'seed' has to be a whole number of 64 bits, not a string."


def test_name_of_an_unknown_field_is_made_harmless(service: Service) -> None:
    error = refused(service, "/embed", {"input": "x", "\x1b[31m\n\u202e\"" + "y" * 500: 1})
    assert error["param"] == "??31m???" + "y" * 32
    assert len(error["message"]) < 300


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                          "application/problem+json", "application/jsonx", "text/json", "json",
                                          "application/json, text/plain", "application/octet-stream", "*/*"])
def test_other_content_type_is_415(service: Service, content_type: str) -> None:
    for headers in ({"Content_Type": content_type}, {} if not content_type else {"Content_Type": content_type}):
        status, _, body = service.request("POST", "/embed", b'{"input": "x"}', **headers)
        assert status == 415
        assert json.loads(body)["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8",
                                          "application/json;charset=UTF-8", "application/json ; x=y"])
def test_json_content_type_with_parameters_is_fine(service: Service, content_type: str) -> None:
    assert service.request("POST", "/embed", b'{"input": "x"}', Content_Type=content_type)[0] == 200


def test_compressed_body_is_415(service: Service) -> None:
    status, _, _ = service.post("/embed", b"\x1f\x8b\x08", Content_Encoding="gzip")
    assert status == 415


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\U0001f98b", "a" * 100_000, "word " * 50_000, "\\ud800", "null"])
def test_unusual_texts_reach_the_lane_unchanged(service: Service, text: str) -> None:
    assert service.post("/embed", {"input": text})[0] == 200
    assert service.embed.calls[-1].texts == (text,)


def test_nul_is_removed_from_texts(service: Service) -> None:
    service.post("/embed", {"input": ["\0a\0b\0", "\0", "c"]})
    assert service.embed.calls[-1].texts == ("ab", "", "c")


def test_duplicate_fields_are_no_failure(service: Service) -> None:
    assert service.post("/embed", b'{"input": "x", "input": "y"}')[0] == 200


def test_defaults_of_a_completion_are_gpt4alls(service: Service) -> None:
    assert service.post("/gpt4all_api", {"prompt": "Hi"})[0] == 200
    call = service.chat.calls[-1]
    assert call.messages == (Message("user", "Hi"),)
    assert call.sampling == Sampling()


def test_every_field_of_a_completion_reaches_the_lane(service: Service) -> None:
    body = {"prompt": "Hi", "persona": "You are terse.", "assist": "Before.", "model": "", "max_tokens": 512,
            "temp": 0, "top_k": 0, "top_p": 1, "min_p": 0.5, "repeat_penality": 1, "repeat_last_n": 0, "stop": "END"}
    assert service.post("/gpt4all_api", body)[0] == 200
    call = service.chat.calls[-1]
    assert call.messages == (Message("system", "You are terse."), Message("assistant", "Before."),
                             Message("user", "Hi"))
    assert call.sampling == Sampling(512, 0.0, 0, 1.0, 0.5, 1.0, 0, ("END",))


def test_null_is_an_absent_field_on_native_routes(service: Service) -> None:
    assert service.post("/embed", {"input": "x", **dict.fromkeys(["model", "encoding_format", "long_text", "dimensions",
                                                                  "user"])})[0] == 200
    optional = ["persona", "assist", "model", "max_tokens", "temperature", "temp", "top_k", "top_p", "min_p",
                "repeat_penalty", "repeat_penality", "repeat_last_n", "stop", "stream"]
    assert service.post("/gpt4all_api", {"prompt": "Hi", **dict.fromkeys(optional)})[0] == 200
    assert service.chat.calls[-1].sampling == Sampling()
    assert service.post("/gpt4all_api", {"prompt": "Hi", "temp": None, "temperature": 0.5})[0] == 200
    assert service.post("/gpt4all_api", {"prompt": "Hi", "temp": 0.5, "temperature": None})[0] == 200
    assert service.chat.calls[-1].sampling.temperature == 0.5
    for path, field in (("/embed", "input"), ("/gpt4all_api", "prompt")):
        assert refused(service, path, {field: None})["code"] == "missing_field"


def test_more_tokens_than_the_window_holds_are_cut_to_it_and_an_empty_stop_is_none(service: Service) -> None:
    for stop, kept in (("", ()), ([""], ()), ([], ()), (["", "END", ""], ("END",)), ([""] * 20, ())):
        assert service.post("/gpt4all_api", {"prompt": "Hi", "max_tokens": 10**9, "stop": stop})[0] == 200
        assert (service.chat.calls[-1].sampling.max_tokens, service.chat.calls[-1].sampling.stop) == (512, kept)


def test_openais_embedding_fields_are_taken_by_embed(service: Service) -> None:
    assert service.post("/embed", {"input": "x", "dimensions": 384, "user": "me"})[0] == 200
    status, _, answer = service.post("/embed", {"input": "x", "dimensions": 96})
    assert (status, answer["error"]["param"]) == (400, "dimensions")


def test_small_window_bounds_the_defaults() -> None:
    with serving(ScriptedLane(), N_CTX="32") as small:
        assert small.post("/gpt4all_api", {"prompt": "Hi"})[0] == 200
        assert (small.chat.calls[-1].sampling.max_tokens, small.chat.calls[-1].sampling.repeat_last_n) == (32, 32)
