"""Frames: how both sides of a lane's socket talk.

A frame is a fixed 12-byte head (magic, length of the JSON, length of the raw part; little-endian u32), JSON in
UTF-8, and raw bytes (vectors as little-endian float32, ids of tokens, or nothing). Lengths are capped before anything
is allocated. Never pickle: a frame can't run code.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import orjson

_HEAD = struct.Struct("<4sII")
_MAGIC = b"mfl1"
_CHUNK = 1 << 20

#: Bytes before a frame's JSON.
HEAD_SIZE = _HEAD.size
#: Largest JSON part and largest raw part of one frame, in bytes. MAX_BODY ends at 1 GiB, and JSON grows little.
LARGEST_JSON = (1 << 30) + (1 << 28)
LARGEST_RAW = (1 << 32) - 1


class FrameError(Exception):
    """The other side sent something that isn't a frame, or hung up in the middle of one."""


def encode(message: dict[str, Any], raw_size: int = 0) -> bytes:
    """Return a frame up to its raw part, which has so many bytes."""
    encoded = orjson.dumps(message)
    return _HEAD.pack(_MAGIC, len(encoded), raw_size) + encoded


def send(sock: socket.socket, message: dict[str, Any], raw: bytes = b"") -> None:
    """Send one frame.

    Raises:
        OSError: the other side is gone (or the socket's timeout has passed).
    """
    head = encode(message, len(raw))
    # One write for small frames: the peer wakes once.
    if len(raw) <= _CHUNK:
        sock.sendall(head + raw)
    else:
        sock.sendall(head)
        sock.sendall(raw)


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Receive one frame; None if the other side closed the connection between two frames.

    Raises:
        FrameError: not a frame, one over the caps, or one cut off.
        OSError: the connection broke (or the socket's timeout has passed).
    """
    head = _read(sock, HEAD_SIZE, at_start=True)
    if head is None:
        return None
    json_size, raw_size = _sizes(head)
    encoded = _read(sock, json_size)
    raw = _read(sock, raw_size) if raw_size else b""
    assert encoded is not None and raw is not None
    return _message(encoded), raw


def is_whole(head: bytes, size: int) -> bool:
    """Tell whether `size` bytes that begin with `head` (HEAD_SIZE bytes, or all that there are) hold a whole frame.

    Raises:
        FrameError: not a frame, or one over the caps.
    """
    return len(head) == HEAD_SIZE and size >= HEAD_SIZE + sum(_sizes(head))


def _sizes(head: bytes | bytearray) -> tuple[int, int]:
    magic, json_size, raw_size = _HEAD.unpack_from(head)
    if magic != _MAGIC or json_size > LARGEST_JSON:
        raise FrameError("not a frame of this program")
    return json_size, raw_size


def _message(encoded: bytes | bytearray) -> dict[str, Any]:
    try:
        message = orjson.loads(encoded)
    except orjson.JSONDecodeError as exc:
        raise FrameError("a frame's JSON is broken") from exc
    if not isinstance(message, dict):
        raise FrameError("a frame's JSON isn't an object")
    return message


def pop(received: bytearray) -> tuple[dict[str, Any], bytes] | None:
    """Take the first frame out of the bytes that have come until now; None while it isn't whole.

    Raises:
        FrameError: not a frame, or one over the caps.
    """
    if len(received) < HEAD_SIZE:
        return None
    json_size, raw_size = _sizes(received)
    ends = HEAD_SIZE + json_size
    if len(received) < ends + raw_size:
        return None
    message = _message(received[_HEAD.size:ends])
    raw = bytes(received[ends:ends + raw_size])
    del received[:ends + raw_size]
    return message, raw


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive what comes before the first frame.

    Raises:
        FrameError: the other side closed the connection.
        OSError: the connection broke (or the socket's timeout has passed).
    """
    content = _read(sock, size)
    assert content is not None
    return content


def _read(sock: socket.socket, size: int, *, at_start: bool = False) -> bytes | None:
    parts = []
    missing = size
    while missing:
        part = sock.recv(min(missing, _CHUNK))
        if not part:
            if at_start and missing == size:
                return None
            raise FrameError("the connection ended in the middle of a frame")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
