"""Frames of a lane: whole ones arrive as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from mayfly.errors import CallError, ContextLengthExceeded, InvalidRequest
from mayfly.wire import framing
from mayfly.wire.calls import (
    Answer,
    Began,
    CompletionCall,
    Failed,
    Message,
    Piece,
    Request,
    Tokens,
    Tool,
    ToolCall,
    ToolDelta,
)

_HEAD = struct.Struct("<4sII")


@dataclass(frozen=True)
class Part:
    """A message with everything that one may hold."""

    text: str
    raw: bytes = b""
    number: float = 5
    nothing: int | None = None
    path: Path = Path("/nowhere")
    within: tuple[Piece, ...] = (Piece("a"), Piece("b"))
    by_name: dict[str, Piece] = field(default_factory=lambda: {"c": Piece("c")})
    either: Piece | Began | str = Began(3)


def _frame(message: object, raw: bytes = b"") -> bytes:
    encoded = orjson.dumps(message)
    return _HEAD.pack(b"mfl1", len(encoded), len(raw)) + encoded + raw


def _popped(data: bytes) -> Any:
    return framing.pop(bytearray(data), Part)


@pytest.mark.parametrize("raw", [b"", b"\0\xff", b"mfl1" * 1000, bytes(3 << 20)], ids=["none", "two", "some", "much"])
def test_a_message_arrives_as_it_was_sent(raw: bytes) -> None:
    sent = Part("中 \u2028 \\ \" 😀", raw, path=Path("/a/中"), either="a word")
    assert _popped(framing.encode(sent)) == sent
    assert raw == b"" or raw in framing.encode(sent)  # as it is


def test_messages_in_a_row_are_told_apart_and_wait_until_they_are_whole() -> None:
    sent: list[object] = [Began(1), Tokens((2,), b"vectors"), Piece("ß")]
    data = b"".join(map(framing.encode, sent))
    received, found = bytearray(), []
    for byte in data:
        received.append(byte)
        while (message := framing.pop(received, Answer)) is not None:
            found.append(message)
    assert (found, received) == (sent, b"")


def test_a_call_with_tools_and_their_turns_arrives_as_it_was_sent() -> None:
    called = ToolCall("call_1", "weather", '{"city": "<|im_end|>"}')
    sent = Request(CompletionCall("req_1", (
        Message("user", "Is it warm?"), Message("assistant", "", (called,), reasoning="I have to look."),
        Message("tool", "12 degrees", tool_call_id="call_1")),
        tools=(Tool("weather", "The weather somewhere.", '{"type": "object"}', strict=True),),
        tool_choice="function:weather", parallel_tool_calls=False,
        template_kwargs={"reasoning_effort": "low", "enable_thinking": False, "deep": {"a": [None, 1.5]}}), 7.5)
    assert framing.pop(bytearray(framing.encode(sent)), Request) == sent
    piece = Piece("", (), "Hm", (ToolDelta(0, "call_1", "weather", "{"),))
    assert framing.pop(bytearray(framing.encode(piece)), Answer) == piece
    assert sent.call.sizes()["characters"] == len("Is it warm?" + called.arguments + "I have to look." + "12 degrees")


def test_a_frame_cut_at_any_byte_is_never_half_an_answer() -> None:
    whole = framing.encode(Part("some", b"raw"))
    for length in range(len(whole)):
        assert _popped(whole[:length]) is None
        assert not framing.is_whole(whole[:min(length, framing.HEAD_SIZE)], length)
    assert framing.is_whole(whole[:framing.HEAD_SIZE], len(whole))


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", bytes(64), b"\xff" * 64,
    b"mfl2" + _frame({})[4:], b"\x80\x04\x95pickle........",
], ids=["http", "tls", "zeros", "ones", "another version", "pickle"])
def test_what_does_not_begin_like_a_frame_is_refused(data: bytes) -> None:
    with pytest.raises(framing.FrameError):
        _popped(data)


def test_an_oversized_length_is_refused_at_once() -> None:
    with pytest.raises(framing.FrameError, match="not a frame"):
        _popped(_HEAD.pack(b"mfl1", framing.LARGEST_JSON + 1, 0))
    assert _popped(_HEAD.pack(b"mfl1", framing.LARGEST_JSON, framing.LARGEST_RAW) + b"{") is None


@pytest.mark.parametrize("encoded", [
    b"", b"{", b"[1]", b"5", b'"text"', b"null", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}',
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
], ids=["nothing", "open", "list", "number", "text", "null", "nan", "no utf-8", "half a character", "deep"])
def test_json_that_is_no_message_is_refused(encoded: bytes) -> None:
    with pytest.raises(framing.FrameError):
        _popped(_HEAD.pack(b"mfl1", len(encoded), 0) + encoded)


@pytest.mark.parametrize("message", [
    {}, {"text": "a"}, {"is": "Piece", "text": "a"}, {"is": "Part"}, {"is": "Part", "text": 5},
    {"is": "Part", "text": "a", "number": "5"}, {"is": "Part", "text": "a", "number": True},
    {"is": "Part", "text": "a", "nothing": "a"}, {"is": "Part", "text": "a", "more": 1},
    {"is": "Part", "text": "a", "within": "ab"}, {"is": "Part", "text": "a", "within": [{"is": "Began"}]},
    {"is": "Part", "text": "a", "within": [{"is": "Began", "generation": 1}]},
    {"is": "Part", "text": "a", "by_name": []}, {"is": "Part", "text": "a", "either": {"is": "Part", "text": "b"}},
    {"is": ["Part"], "text": "a"}, {"is": {}, "text": "a"},
])
def test_a_message_of_another_kind_or_with_a_field_of_another_type_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(framing.FrameError):
        _popped(_frame(message))


def test_garbage_is_refused_or_waited_for_and_raises_nothing_else() -> None:
    chance = random.Random(11)
    whole = framing.encode(Part("abc", b"raw"))
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with contextlib.suppress(framing.FrameError):
            assert isinstance(framing.pop(broken, Part), Part | None)


class _Seventh(InvalidRequest):
    """An error that no list names, with an attribute of its own."""

    status = 422

    def __init__(self, message: str, wanted: int) -> None:
        super().__init__(message, param="seed")
        self.wanted = wanted


def _kinds(kind: type[CallError]) -> list[type[CallError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


@pytest.mark.parametrize("kind", [kind for kind in _kinds(CallError) if kind is not _Seventh])
def test_every_error_of_the_tree_arrives_as_what_it_is(kind: type[CallError]) -> None:
    sent = kind("it is so", param="model", retry_after=2)
    failed: Failed = framing.pop(bytearray(framing.encode(Failed.of(sent))), Answer)
    error = failed.error()
    assert type(error) is kind
    assert (str(error), error.message, error.param, error.retry_after) == ("it is so", "it is so", "model", 2)
    assert (error.status, error.code, error.type) == (sent.status, sent.code, sent.type)
    assert bool(error.stack) == (sent.status == 500)


def test_an_error_keeps_what_is_its_own() -> None:
    error = Failed.of(_Seventh("no such seed", 7)).error()
    assert isinstance(error, _Seventh)
    assert (error.wanted, error.status, error.param) == (7, 422, "seed")
    longer = Failed.of(ContextLengthExceeded("too long", tokens=5)).error()
    assert isinstance(longer, ContextLengthExceeded)
    assert longer.tokens == 5


def test_an_error_that_only_a_worker_knows_arrives_as_the_one_above_it() -> None:
    sent = Failed.of(_Seventh("no such seed", 7))
    error = dataclasses.replace(sent, kinds=("Unheard", *sent.kinds[1:])).error()
    assert type(error) is InvalidRequest
    assert (str(error), error.status, error.type) == ("no such seed", 422, "invalid_request_error")
