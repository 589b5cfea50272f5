"""The plain values that a GGUF file is made of, read without believing a length that the file can't have.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from mayfly.models.dialects import PIECES

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
# Value type -> its form; 8 is a string and 9 an array.
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
STRING = 8
ARRAY = 9

# Tensor type -> its name, weights a block, bytes a block; those whose numbers the format has given up included.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 31: ("Q4_0_4_4", 32, 18),
    32: ("Q4_0_4_8", 32, 18), 33: ("Q4_0_8_8", 32, 18), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    36: ("IQ4_NL_4_4", 32, 18), 37: ("IQ4_NL_4_8", 32, 18), 38: ("IQ4_NL_8_8", 32, 18), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

# A string longer than this is skipped instead of read.
_SHORT = 1 << 12

_WANTED_PIECES = {piece.encode(): piece for piece in PIECES}
_WANTED_LENGTHS = frozenset(map(len, _WANTED_PIECES))


class Malformed(Exception):
    """The file isn't what it should be; the message is the reason."""


class GgufStream:
    """A GGUF file as it is read.

    Attributes:
        at: the position.
        size: where the file ends.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self.size = size
        self.at = 0

    def seek(self, at: int) -> None:
        """Go on from another place."""
        self.at = at
        self._stream.seek(at)

    def beginning(self, length: int) -> bytes:
        """Return the file's first bytes, as many as it has."""
        self.seek(0)
        return self._stream.read(length)

    def skip_strings(self, count: int, found: dict[str, int] | None = None) -> None:
        """Skip strings; note in `found` at which place each of the wanted pieces is."""
        # The hot loop: a vocabulary and its merges are most of a header.
        read, seek, unpack = self._stream.read, self._stream.seek, U64.unpack
        at, size = self.at, self.size
        lengths = _WANTED_LENGTHS if found is not None else frozenset()
        for number in range(count):
            prefix = read(8)
            if len(prefix) < 8:
                raise Malformed("the file ends inside its header")
            (length,) = unpack(prefix)
            at += 8 + length
            if at > size:
                raise Malformed("the file ends inside its header")
            if length in lengths:
                piece = read(length)
                if found is not None and piece in _WANTED_PIECES:
                    found.setdefault(_WANTED_PIECES[piece], number)
            elif length < _SHORT:
                read(length)
            else:
                seek(at)
        self.at = at

    def take(self, length: int) -> bytes:
        """Read so many bytes."""
        self.at += length
        if self.at > self.size:
            raise Malformed("the file ends inside its header")
        content = self._stream.read(length)
        if len(content) < length:  # it has become shorter meanwhile
            raise Malformed("the file ends inside its header")
        return content

    def skip(self, length: int) -> None:
        """Pass over so many bytes."""
        if self.at + length > self.size:
            raise Malformed("the file ends inside its header")
        if length < _SHORT:
            self.take(length)
        else:
            self.at += length
            self._stream.seek(self.at)

    def number(self, form: struct.Struct) -> Any:
        """Read a number."""
        return form.unpack(self.take(form.size))[0]

    def count(self, most: int, of: str) -> int:
        """Read how many of something there are; more than `most` are refused."""
        count: int = self.number(U64)
        if count > most:
            raise Malformed(f"its header claims {count} {of}")
        return count

    def string(self, longest: int) -> str:
        """Read a text of at most so many bytes."""
        length: int = self.number(U64)
        if length > longest:
            raise Malformed(f"its header holds a string of {length} bytes")
        return self.take(length).decode("utf-8", errors="replace")

    def form(self, kind: int) -> struct.Struct:
        """Return the form of a value by its type."""
        if kind not in _NUMBERS:
            raise Malformed(f"its header holds a value of the unknown type {kind}")
        return _NUMBERS[kind]
