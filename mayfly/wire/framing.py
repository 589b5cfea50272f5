"""Frames: how both sides of a lane's socket talk.

A frame is a fixed 12-byte head (magic, length of the JSON, length of the raw part; little-endian u32), JSON in
UTF-8, and raw bytes (vectors as little-endian float32, ids of tokens, or nothing). Lengths are capped before anything
is allocated. Never pickle: a frame can't run code.
"""

from __future__ import annotations

import struct
from typing import Any

import orjson

from mayfly.wire.codec import from_wire, plain, raw_of

_HEAD = struct.Struct("<4sII")
_MAGIC = b"mfl1"

#: Bytes before a frame's JSON.
HEAD_SIZE = _HEAD.size
#: Largest JSON part and largest raw part of one frame, in bytes. MAX_BODY ends at 1 GiB, and JSON grows little.
LARGEST_JSON = (1 << 30) + (1 << 28)
LARGEST_RAW = (1 << 32) - 1


class FrameError(Exception):
    """The other side sent something that isn't a frame, or not one that can come here."""


def encode(message: object) -> bytes:
    """Return the frame of a message."""
    encoded, raw = orjson.dumps(message, default=plain, option=orjson.OPT_PASSTHROUGH_DATACLASS), raw_of(message)
    return b"".join((_HEAD.pack(_MAGIC, len(encoded), len(raw)), encoded, raw))


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


def pop(received: bytearray, kind: Any) -> Any:
    """Take the first frame out of the bytes that have come until now; None while it isn't whole.

    Args:
        kind: what message it may hold: a class, or a union of classes.

    Raises:
        FrameError: not a frame, one over the caps, or one of another message.
    """
    if len(received) < HEAD_SIZE:
        return None
    json_size, raw_size = _sizes(received)
    ends = HEAD_SIZE + json_size
    if len(received) < ends + raw_size:
        return None
    with memoryview(received) as view:  # a slice of it is no copy, and vectors are megabytes
        encoded, raw = bytes(view[HEAD_SIZE:ends]), bytes(view[ends:ends + raw_size])
    del received[:ends + raw_size]
    try:
        return from_wire(orjson.loads(encoded), kind, raw)
    except ValueError as exc:
        raise FrameError("a frame holds none of the messages that can come here") from exc
