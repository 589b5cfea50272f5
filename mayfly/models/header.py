"""Read what a GGUF file says of itself, without its weights.

gpt4all aborts the whole process on a malformed header, so a file is looked at here first. gguf.GGUFReader reads
the same things, but it builds an object for each piece of the vocabulary: 1.6 s for a vocabulary of 30,000
pieces, against 10 ms here, and it trusts every length it meets.

Nothing in the file is believed before it has been checked against the file's size, so that no file, however
it came about, costs more memory than the few strings that are kept.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mayfly.errors import ModelUnavailable
from mayfly.models.dialects import PIECES

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# Value type -> its form; 8 is a string and 9 an array.
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING = 8
_ARRAY = 9

# Tensor type -> its name, weights a block, bytes a block: those that gpt4all 2.8.2 knows (its ggml.h).
_TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 31: ("Q4_0_4_4", 32, 18),
    32: ("Q4_0_4_8", 32, 18), 33: ("Q4_0_8_8", 32, 18),
}  # fmt: skip

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

# A file may hold several chat templates (for tools, for documents); the one for conversations is the plain or "default"
# one.
_TEMPLATES = ("tokenizer.chat_template", "tokenizer.chat_template.default")
_TEXTS = ("general.architecture", "general.name", *_TEMPLATES)
_VOCABULARY = "tokenizer.ggml.tokens"

# Far above what real models hold; they bound the time and the memory that a hostile file can cost.
_MOST_ENTRIES = 1 << 12
_MOST_TENSORS = 1 << 16
_MOST_STRINGS = 1 << 22
_LONGEST_NAME = 1 << 10
_LONGEST_TEXT = 1 << 20
_MOST_DIMENSIONS = 4
# A string longer than this is skipped instead of read.
_SHORT = 1 << 12

_WANTED_PIECES = {piece.encode(): piece for piece in PIECES}
_WANTED_LENGTHS = frozenset(map(len, _WANTED_PIECES))


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
        architecture: the network's kind: "llama", "bert", ...
        name: the model's own name, not the file's; None if it has none.
        context_length: tokens it was made for.
        embedding_length: width of its hidden state, which is the length of an embedding model's vectors.
        block_count: number of layers.
        head_count, head_count_kv: attention heads, and those that have keys and values of their own; None if not named,
            or not the same number in every layer.
        file_type: llama.cpp's number for the kind of file, or None.
        quantization: the type most of the weights have, such as "F16" or "Q4_0".
        parameter_count: number of weights.
        vocabulary_size: number of tokens.
        chat_template: Jinja source, or None.
        bos_id, eos_id, eot_id, eom_id: ids of the tokens that begin a text, end it, end a turn, end a message (a turn
            that calls a tool); None if not named.
        bos_token, eos_token, eot_token: the texts of the first three.
        pieces: those of `dialects.PIECES` that are in its vocabulary, with their ids.
        pooling: how an embedding model makes one vector of many: "mean", "cls", ...; None if not named.
        size: of the file, in bytes.
    """

    architecture: str
    name: str | None
    context_length: int
    embedding_length: int
    block_count: int
    file_type: int | None
    quantization: str
    parameter_count: int
    vocabulary_size: int
    chat_template: str | None
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    bos_token: str | None
    eos_token: str | None
    eot_token: str | None
    pooling: str | None
    size: int
    head_count: int | None = None
    head_count_kv: int | None = None
    eom_id: int | None = None
    pieces: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """Where the weights of one tensor are.

    Attributes:
        kind: the type of its numbers: "F32", "F16", "Q4_0", ...
        shape: slowest dimension first, as numpy has it; the file has it the other way round.
        offset: of its first byte in the file.
    """

    kind: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Contents:
    """What a GGUF file holds.

    Attributes:
        header: what it says of itself.
        numbers: its other entries that are numbers or truth values, by their keys.
        tensors: its tensors by name.
    """

    header: Header
    numbers: Mapping[str, float]
    tensors: Mapping[str, Tensor]


def read_header(path: Path) -> Header:
    """Read the header of the GGUF file at `path` and check that all its weights are there.

    Raises:
        ModelUnavailable: it can't be read, or isn't a complete GGUF file of a kind that gpt4all knows; the
            message begins with the file's name and gives the reason.
    """
    return read_contents(path).header


def read_contents(path: Path) -> Contents:
    """Read the header of the GGUF file at `path`, and where its tensors are.

    Raises:
        ModelUnavailable: as `read_header`.
    """
    try:
        # Before it is opened: opening a named pipe would wait for a writer.
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise _Malformed("it is a folder")
        if not stat.S_ISREG(kind):
            raise _Malformed("it isn't a regular file")
        with path.open("rb", buffering=1 << 18) as stream:
            return _Reading(stream, os.fstat(stream.fileno()).st_size).contents()
    except _Malformed as exc:
        raise ModelUnavailable(f"{path.name} can't be used as a model: {exc}") from exc
    except OSError as exc:
        raise ModelUnavailable(f"{path.name} can't be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL in the path
        raise ModelUnavailable(f"{path.name!r} is no file name: {exc}") from exc


class _Malformed(Exception):
    """The file isn't what it should be; the message is the reason."""


class _Reading:
    """One pass over a header. `at` is the position in the stream, `size` where the file ends."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._at = 0
        self._values: dict[str, Any] = {}
        self._vocabulary_at: int | None = None
        self._vocabulary_size = 0
        self._pieces_found: dict[str, int] = {}
        self._strings_left = _MOST_STRINGS

    def contents(self) -> Contents:
        count = self._preamble()
        entries = self._count(_MOST_ENTRIES, "entries")
        for _ in range(entries):
            self._entry()
        tensors, parameters, quantization = self._tensors(count)
        numbers = {key: value for key, value in self._values.items() if isinstance(value, (int, float))}
        return Contents(self._describe(parameters, quantization), numbers, tensors)

    # The file's parts, in their order.

    def _preamble(self) -> int:
        """Check magic and version; return the number of tensors."""
        if self._size == 0:
            raise _Malformed("the file is empty")
        if self._size < 24 or self._take(4) != b"GGUF":
            raise _Malformed("it isn't a GGUF file")
        version: int = self._number(_U32)
        if version & 0xFFFF == 0:
            raise _Malformed("it is a big-endian GGUF file")
        if version not in (2, 3):
            raise _Malformed(f"GGUF version {version} isn't supported, only 2 and 3")
        return self._count(_MOST_TENSORS, "tensors")

    def _entry(self) -> None:
        key = self._string(_LONGEST_NAME)
        kind: int = self._number(_U32)
        if kind == _ARRAY:
            self._array(key)
        elif kind != _STRING:
            self._values[key] = self._number(self._form(kind))
        elif key in _TEXTS:
            self._values[key] = self._string(_LONGEST_TEXT)
        else:
            self._skip(self._number(_U64))

    def _array(self, key: str) -> None:
        of: int = self._number(_U32)
        if of == _STRING:
            count = self._count(self._strings_left, "strings")
            self._strings_left -= count
            if key == _VOCABULARY:
                self._vocabulary_at, self._vocabulary_size = self._at, count
            self._skip_strings(count, self._pieces_found if key == _VOCABULARY else None)
        else:
            width = self._form(of).size
            self._skip(width * self._count(self._size // width, "array elements"))

    def _skip_strings(self, count: int, found: dict[str, int] | None = None) -> None:
        """Skip strings; note in `found` at which place each of the wanted pieces is."""
        # The hot loop: a vocabulary and its merges are most of a header.
        read, seek, unpack = self._stream.read, self._stream.seek, _U64.unpack
        at, size = self._at, self._size
        lengths = _WANTED_LENGTHS if found is not None else frozenset()
        for number in range(count):
            prefix = read(8)
            if len(prefix) < 8:
                raise _Malformed("the file ends inside its header")
            (length,) = unpack(prefix)
            at += 8 + length
            if at > size:
                raise _Malformed("the file ends inside its header")
            if length in lengths:
                piece = read(length)
                if found is not None and piece in _WANTED_PIECES:
                    found.setdefault(_WANTED_PIECES[piece], number)
            elif length < _SHORT:
                read(length)
            else:
                seek(at)
        self._at = at

    def _tensors(self, count: int) -> tuple[dict[str, Tensor], int, str]:
        """Check the table of tensors and that the file holds them; return it, weights and the commonest type."""
        if count == 0:
            raise _Malformed("it holds no weights")
        alignment = self._integer("general.alignment", 32)
        if alignment < 1 or alignment & (alignment - 1):
            raise _Malformed(f"its alignment is {alignment}, not a power of two")
        weights_by_type: dict[str, int] = {}
        data_length = 0
        found: list[tuple[str, str, list[int], int]] = []
        for _ in range(count):
            name = self._string(_LONGEST_NAME)
            dimensions: int = self._number(_U32)
            if dimensions > _MOST_DIMENSIONS:
                raise _Malformed(f"its tensor {name!r} has {dimensions} dimensions")
            shape = [self._number(_U64) for _ in range(dimensions)]
            weights = math.prod(shape)
            if not 0 < weights < 1 << 63:
                raise _Malformed(f"its tensor {name!r} has the impossible shape {shape}")
            kind: int = self._number(_U32)
            if kind not in _TENSOR_TYPES:
                raise _Malformed(f"its tensor {name!r} has a type (number {kind}) that gpt4all 2.8.2 doesn't know")
            type_name, block_weights, block_bytes = _TENSOR_TYPES[kind]
            if shape and shape[0] % block_weights:
                raise _Malformed(f"its tensor {name!r} has rows of {shape[0]} weights, no whole {type_name} blocks")
            offset: int = self._number(_U64)
            weights_by_type[type_name] = weights_by_type.get(type_name, 0) + weights
            data_length = max(data_length, offset + weights // block_weights * block_bytes)
            found.append((name, type_name, shape, offset))
        data_at = -(-self._at // alignment) * alignment
        if data_at + data_length > self._size:
            missing = data_at + data_length - self._size
            raise _Malformed(f"the file is cut short: {missing} of {data_at + data_length} bytes are missing")
        tensors = {name: Tensor(kind, tuple(reversed(shape)), data_at + offset) for name, kind, shape, offset in found}
        return tensors, sum(weights_by_type.values()), max(weights_by_type, key=lambda name: weights_by_type[name])

    def _describe(self, parameters: int, quantization: str) -> Header:
        architecture = self._text("general.architecture")
        if architecture is None:
            raise _Malformed("it doesn't say its architecture")
        sizes = {}
        for size in ("context_length", "embedding_length", "block_count"):
            sizes[size] = self._integer(f"{architecture}.{size}", 0)
            if sizes[size] < 1:
                raise _Malformed(f"it says no {architecture}.{size}")
        ids = [self._integer_or_none(f"tokenizer.ggml.{which}_token_id") for which in ("bos", "eos", "eot")]
        pieces = self._pieces(*ids)
        pooling = self._integer_or_none(f"{architecture}.pooling_type")
        return Header(
            architecture=architecture,
            name=self._text("general.name"),
            context_length=sizes["context_length"],
            embedding_length=sizes["embedding_length"],
            block_count=sizes["block_count"],
            file_type=self._integer_or_none("general.file_type"),
            quantization=quantization,
            parameter_count=parameters,
            vocabulary_size=self._vocabulary_size,
            chat_template=next((text for text in map(self._text, _TEMPLATES) if text), None),
            bos_id=ids[0],
            eos_id=ids[1],
            eot_id=ids[2],
            bos_token=pieces[0],
            eos_token=pieces[1],
            eot_token=pieces[2],
            pooling=None if pooling is None else _POOLING.get(pooling, str(pooling)),
            size=self._size,
            head_count=self._integer_or_none(f"{architecture}.attention.head_count"),
            head_count_kv=self._integer_or_none(f"{architecture}.attention.head_count_kv"),
            eom_id=self._integer_or_none("tokenizer.ggml.eom_token_id"),
            pieces=self._pieces_found,
        )

    def _pieces(self, *ids: int | None) -> list[str | None]:
        """Return the texts of some tokens, from a second walk over the vocabulary; None for an unknown id."""
        wanted = sorted({number for number in ids if number is not None and 0 <= number < self._vocabulary_size})
        pieces: dict[int | None, str] = {}
        if self._vocabulary_at is not None and wanted:
            self._at = self._vocabulary_at
            self._stream.seek(self._at)
            passed = 0
            for number in wanted:
                self._skip_strings(number - passed)
                pieces[number] = self._string(_LONGEST_TEXT)
                passed = number + 1
        return [pieces.get(number) for number in ids]

    # Values that were read, with the type they must have.

    def _text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise _Malformed(f"{key} isn't a text")
        return value

    def _integer(self, key: str, default: int) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int):
            raise _Malformed(f"{key} isn't a whole number")
        return value

    def _integer_or_none(self, key: str) -> int | None:
        return self._integer(key, 0) if key in self._values else None

    # The stream.

    def _take(self, length: int) -> bytes:
        self._at += length
        if self._at > self._size:
            raise _Malformed("the file ends inside its header")
        content = self._stream.read(length)
        if len(content) < length:  # it has become shorter meanwhile
            raise _Malformed("the file ends inside its header")
        return content

    def _skip(self, length: int) -> None:
        if self._at + length > self._size:
            raise _Malformed("the file ends inside its header")
        if length < _SHORT:
            self._take(length)
        else:
            self._at += length
            self._stream.seek(self._at)

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _count(self, most: int, of: str) -> int:
        count: int = self._number(_U64)
        if count > most:
            raise _Malformed(f"its header claims {count} {of}")
        return count

    def _string(self, longest: int) -> str:
        length: int = self._number(_U64)
        if length > longest:
            raise _Malformed(f"its header holds a string of {length} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def _form(self, kind: int) -> struct.Struct:
        if kind not in _NUMBERS:
            raise _Malformed(f"its header holds a value of the unknown type {kind}")
        return _NUMBERS[kind]
