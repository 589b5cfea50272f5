"""Frames of a lane: whole ones arrive as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from mayfly.wire import framing

_HEAD = struct.Struct("<4sII")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    theirs.settimeout(30)
    with ours, theirs:
        yield ours, theirs


def _frame(message: object, raw: bytes = b"") -> bytes:
    encoded = orjson.dumps(message)
    return _HEAD.pack(b"mfl1", len(encoded), len(raw)) + encoded + raw


def _received(pair: tuple[socket.socket, socket.socket], data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Send bytes and hang up; return what they are taken for."""
    ours, theirs = pair
    ours.sendall(data)
    ours.close()
    return framing.receive(theirs)


@pytest.mark.parametrize("raw", [b"", b"\0\xff", b"mfl1" * 1000, bytes(3 << 20)], ids=["none", "two", "some", "much"])
def test_a_frame_arrives_as_it_was_sent(pair: tuple[socket.socket, socket.socket], raw: bytes) -> None:
    ours, theirs = pair
    message = {"event": "piece", "text": "中 \u2028 \\ \" 😀", "number": 5, "nothing": None}
    sender = threading.Thread(target=framing.send, args=(ours, message, raw))
    sender.start()
    assert framing.receive(theirs) == (message, raw)
    sender.join()


def test_frames_in_a_row_are_told_apart_and_a_hang_up_between_two_is_their_end(
        pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    framing.send(ours, {"n": 1}, b"one")
    framing.send(ours, {"n": 2})
    ours.close()
    assert framing.receive(theirs) == ({"n": 1}, b"one")
    assert framing.receive(theirs) == ({"n": 2}, b"")
    assert framing.receive(theirs) is None


def test_a_frame_that_arrives_byte_by_byte_is_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair

    def drip() -> None:
        for byte in _frame({"event": "done"}, b"raw"):
            ours.sendall(bytes([byte]))

    sender = threading.Thread(target=drip)
    sender.start()
    assert framing.receive(theirs) == ({"event": "done"}, b"raw")
    sender.join()


def test_a_frame_cut_at_any_byte_is_an_error_and_never_half_an_answer() -> None:
    whole = _frame({"event": "done"}, b"raw")
    for length in range(1, len(whole)):
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(framing.FrameError, match="middle"):
            _received((ours, theirs), whole[:length])


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(64), b"\xff" * 64,
    b"mfl2" + _frame({})[4:], b"\x80\x04\x95pickle........",
], ids=["http", "tls", "zeros", "ones", "another version", "pickle"])
def test_what_does_not_begin_like_a_frame_is_refused(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    with pytest.raises(framing.FrameError):
        _received(pair, data)


def test_an_oversized_length_is_refused_at_once_and_costs_no_memory(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The sender keeps the connection open: waiting for the announced bytes would end in a timeout instead.
    ours.sendall(_HEAD.pack(b"mfl1", framing.LARGEST_JSON + 1, 0))
    with pytest.raises(framing.FrameError, match="not a frame"):
        framing.receive(theirs)
    ours.sendall(_HEAD.pack(b"mfl1", framing.LARGEST_JSON, framing.LARGEST_RAW) + b"{")
    ours.close()
    with pytest.raises(framing.FrameError, match="middle"):
        framing.receive(theirs)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # KiB


@pytest.mark.parametrize("encoded", [
    b"", b"{", b"[1]", b"5", b'"text"', b"null", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}',
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
], ids=["nothing", "open", "list", "number", "text", "null", "nan", "no utf-8", "half a character", "deep"])
def test_json_that_is_no_object_is_refused(pair: tuple[socket.socket, socket.socket], encoded: bytes) -> None:
    with pytest.raises(framing.FrameError):
        _received(pair, _HEAD.pack(b"mfl1", len(encoded), 0) + encoded)


def test_garbage_is_refused_or_ends_but_raises_nothing_else() -> None:
    chance = random.Random(11)
    whole = _frame({"event": "piece", "text": "abc"}, b"raw")
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                received = _received((ours, theirs), bytes(broken))
            except framing.FrameError:
                continue
            assert received is not None and isinstance(received[0], dict)


def test_a_sender_whose_reader_is_gone_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(OSError):
            framing.send(ours, {"event": "piece"})


@pytest.mark.parametrize("step", [1, 5, 11, 13, 1000])
def test_frames_are_taken_out_of_what_has_come_as_soon_as_they_are_whole(step: int) -> None:
    sent = [({"event": "began", "generation": 1}, b""), ({"event": "done"}, b"mfl1" * 100), ({}, b"")]
    data = b"".join(_frame(message, raw) for message, raw in sent)
    received, found = bytearray(), []
    for at in range(0, len(data), step):
        received += data[at:at + step]
        while (frame := framing.pop(received)) is not None:
            found.append(frame)
    assert found == sent
    assert not received


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n", _HEAD.pack(b"mfl1", 2, 0) + b"[]",
                                  _HEAD.pack(b"mfl1", framing.LARGEST_JSON + 1, 0)], ids=["other", "list", "large"])
def test_nothing_else_is_taken_out_as_a_frame(data: bytes) -> None:
    with pytest.raises(framing.FrameError):
        framing.pop(bytearray(data))
