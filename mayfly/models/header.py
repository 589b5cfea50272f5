"""Read what a GGUF file says of itself, without its weights.

gpt4all aborts the whole process on a malformed header, so a file is looked at here first. gguf.GGUFReader reads
the same things, but it builds an object for each piece of the vocabulary: 1.6 s for a vocabulary of 30,000
pieces, against 10 ms here, and it trusts every length it meets.

Nothing in the file is believed before it has been checked against the file's size, so that no file, however
it came about, costs more memory than the few strings that are kept.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import collections
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mayfly.errors import FileUnusable, ModelUnavailable
from mayfly.models import foreign, parts
from mayfly.models.gguf_stream import ARRAY, STRING, TENSOR_TYPES, U32, U64, GgufStream, Malformed

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

# A file may hold several chat templates (for tools, for documents); the one for conversations is the plain or "default"
# one.
_TEMPLATES = ("tokenizer.chat_template", "tokenizer.chat_template.default")
_TEXTS = ("general.architecture", "general.name", "general.type", *_TEMPLATES)
_VOCABULARY = "tokenizer.ggml.tokens"

# Far above what real models hold; they bound the time and the memory that a hostile file can cost.
_MOST_ENTRIES = 1 << 12
_MOST_TENSORS = 1 << 16
_MOST_STRINGS = 1 << 22
_LONGEST_NAME = 1 << 10
_LONGEST_TEXT = 1 << 20
_MOST_DIMENSIONS = 4


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
        quantization: the type most of the weights have, such as "F16" or "Q4_0".
        parameter_count: number of weights.
        vocabulary_size: number of tokens.
        chat_template: Jinja source, or None.
        bos_id, eos_id, eot_id, eom_id: ids of the tokens that begin a text, end it, end a turn, end a message (a turn
            that calls a tool); None if not named.
        bos_token, eos_token: the texts of the first two.
        pieces: those of `dialects.PIECES` that are in its vocabulary, with their ids.
        pooling: how an embedding model makes one vector of many: "mean", "cls", ...; None if not named.
        tensor_types: those of the weights: "F32", "Q4_0", ...
    """

    architecture: str
    name: str | None
    context_length: int
    embedding_length: int
    block_count: int
    quantization: str
    parameter_count: int
    vocabulary_size: int
    chat_template: str | None
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    bos_token: str | None
    eos_token: str | None
    pooling: str | None
    tensor_types: frozenset[str] = frozenset()
    head_count: int | None = None
    head_count_kv: int | None = None
    eom_id: int | None = None
    pieces: Mapping[str, int] = field(default_factory=dict)

    @property
    def embedding_window(self) -> int:
        """How many tokens an embedding model takes at once; of a longer text parts are made, or it is cut."""
        # sentence-transformers cuts a text at 256 tokens for the models that this architecture is used for here.
        # Of the windows of newer ones no more is taken than what the keys and values of a text may cost.
        return min(256 if self.architecture == "bert" else 2048, self.context_length)


@dataclass(frozen=True)
class Tensor:
    """Where the weights of one tensor are.

    Attributes:
        file: which of the model's files.
        kind: the type of its numbers: "F32", "F16", "Q4_0", ...
        shape: slowest dimension first, as numpy has it; the file has it the other way round.
        offset: of its first byte in the file.
        size: in bytes.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Contents:
    """What a GGUF file holds, or all parts of a split one.

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

    Args:
        path: the file, or the first part of a model that is split.

    Raises:
        ModelUnavailable: it can't be read, or isn't a complete GGUF file; the message begins with the
            file's name and gives the reason.
    """
    return read_contents(path).header


def read_contents(path: Path) -> Contents:
    """Read the header of the GGUF file at `path`, and where its tensors are.

    Args:
        path: as in `read_header`.

    Raises:
        ModelUnavailable: as `read_header`.
    """
    try:
        of = parts.part(path.name)
        if of is not None and of.number > 1:
            raise Malformed(f"it is part {of.number} of {of.count} of a model that is split, which is known by the "
                            f"name of its first part, {of.name(1)}")
        first = _read(path, _Reading.first)
        return _believed(first if of is None else _with_parts(path, of, first))
    except Malformed as exc:
        raise FileUnusable(f"{path.name} can't be used as a model: {exc}") from exc
    except OSError as exc:
        raise ModelUnavailable(f"{path.name} can't be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL in the path
        raise ModelUnavailable(f"{path.name!r} is no file name: {exc}") from exc


_Read = TypeVar("_Read")


def _read(path: Path, read: Callable[[_Reading], _Read]) -> _Read:
    # Before it is opened: opening a named pipe would wait for a writer.
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise Malformed("it is a folder")
    if not stat.S_ISREG(kind):
        raise Malformed("it isn't a regular file")
    with path.open("rb", buffering=1 << 18) as stream:
        return read(_Reading(stream, path, os.fstat(stream.fileno()).st_size))


def _with_parts(path: Path, of: parts.Part, first: Contents) -> Contents:
    """Return what all parts of a model hold, of which `first` is the first one."""
    tensors = dict(first.tensors)
    for number, file in enumerate(parts.files(path), 1):
        numbers = first.numbers
        try:
            if number > 1:
                numbers, more = _read(file, _Reading.later)
                if more.keys() & tensors.keys():
                    raise Malformed(f"it holds {min(more.keys() & tensors.keys())!r}, as another part does")
                tensors.update(more)
            if (numbers.get("split.no"), numbers.get("split.count")) != (number - 1, of.count):
                raise Malformed("what it says of itself is another part, or none")
        except FileNotFoundError:
            raise Malformed(f"its part {number} of {of.count}, {file.name}, is missing") from None
        except Malformed as exc:
            raise Malformed(f"its part {number} of {of.count}, {file.name}: {exc}") from None
    if len(tensors) != first.numbers.get("split.tensors.count", len(tensors)):
        raise Malformed(f"its parts are of different models: they hold {len(tensors)} tensors instead of "
                         f"{first.numbers['split.tensors.count']}")
    return Contents(replace(first.header, **_totals(tensors)), first.numbers, tensors)


def _believed(contents: Contents) -> Contents:
    """Return what a file holds, once the numbers of which memory is reckoned fit its weights."""
    header, tensors = contents.header, contents.tensors.values()
    widest = max(max(tensor.shape, default=1) for tensor in tensors)
    for name, claimed, most in (
            ("block_count", header.block_count, len(tensors)), ("embedding_length", header.embedding_length, widest),
            ("attention.head_count_kv", header.head_count_kv or 0, header.head_count or math.inf)):
        if claimed > most:
            raise Malformed(f"its header says {header.architecture}.{name} is {claimed}, which the rest of the file "
                            f"allows to be {most} at most")
    return contents


def _totals(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a header says of all weights."""
    by_type: collections.Counter[str] = collections.Counter()
    for tensor in tensors.values():
        by_type[tensor.kind] += math.prod(tensor.shape)
    return {"parameter_count": by_type.total(), "quantization": by_type.most_common(1)[0][0],
            "tensor_types": frozenset(by_type)}


class _Reading:
    """One pass over a header."""

    def __init__(self, stream: BinaryIO, path: Path, size: int) -> None:
        self._file = GgufStream(stream, size)
        self._path = path
        self._values: dict[str, Any] = {}
        self._keys: set[str] = set()
        self._vocabulary_at: int | None = None
        self._vocabulary_size = 0
        self._pieces_found: dict[str, int] = {}
        self._strings_left = _MOST_STRINGS

    def first(self) -> Contents:
        """Read a whole file, or the first part of a model."""
        numbers, tensors = self.later()
        count = self._integer("split.count", 1)
        if count > 1 and parts.part(self._path.name) is None:
            raise Malformed(f"it is one of the {count} parts of a model that is split, but isn't named like one: the "
                            f"names of its parts end with -00001-of-{count:05d}.gguf and so on")
        return Contents(self._describe(tensors), numbers, tensors)

    def later(self) -> tuple[Mapping[str, float], dict[str, Tensor]]:
        """Read another part; return its entries that are numbers, and its tensors."""
        count = self._preamble()
        for _ in range(self._file.count(_MOST_ENTRIES, "entries")):
            self._entry()
        kind = foreign.of_entries(self._values, self._keys)
        if kind:
            raise Malformed(f"it is {kind}")
        tensors = self._tensors(count)
        numbers = {key: value for key, value in self._values.items() if isinstance(value, (int, float))}
        return numbers, tensors

    # The file's parts, in their order.

    def _preamble(self) -> int:
        """Check magic and version; return the number of tensors."""
        if self._file.size == 0:
            raise Malformed("the file is empty")
        if self._file.size < 24 or self._file.take(4) != b"GGUF":
            kind = foreign.of_bytes(self._file.beginning(foreign.LOOKED_AT))
            raise Malformed("it isn't a GGUF file" + (f" but {kind}" if kind else ""))
        version: int = self._file.number(U32)
        if version & 0xFFFF == 0:
            raise Malformed("it is a big-endian GGUF file")
        if version not in (2, 3):
            raise Malformed(f"GGUF version {version} isn't supported, only 2 and 3")
        return self._file.count(_MOST_TENSORS, "tensors")

    def _entry(self) -> None:
        key = self._file.string(_LONGEST_NAME)
        if key in self._keys:  # programs differ in which of the two they take
            raise Malformed(f"its header has the key {key[:100]!r} twice")
        self._keys.add(key)
        kind: int = self._file.number(U32)
        if kind == ARRAY:
            self._array(key)
        elif kind != STRING:
            self._values[key] = self._file.number(self._file.form(kind))
        elif key in _TEXTS:
            self._values[key] = self._file.string(_LONGEST_TEXT)
        else:
            self._file.skip(self._file.number(U64))

    def _array(self, key: str) -> None:
        of: int = self._file.number(U32)
        if of == STRING:
            count = self._file.count(self._strings_left, "strings")
            self._strings_left -= count
            if key == _VOCABULARY:
                self._vocabulary_at, self._vocabulary_size = self._file.at, count
            self._file.skip_strings(count, self._pieces_found if key == _VOCABULARY else None)
        else:
            width = self._file.form(of).size
            self._file.skip(width * self._file.count(self._file.size // width, "array elements"))

    def _tensors(self, count: int) -> dict[str, Tensor]:
        """Check the table of tensors and that the file holds them; return it."""
        if count == 0:
            raise Malformed("it holds no weights" + (", only a vocabulary" if self._vocabulary_size else ""))
        alignment = self._integer("general.alignment", 32)
        if alignment < 1 or alignment & (alignment - 1):
            raise Malformed(f"its alignment is {alignment}, not a power of two")
        data_length = 0
        found: dict[str, Tensor] = {}
        for _ in range(count):
            name = self._file.string(_LONGEST_NAME)
            dimensions: int = self._file.number(U32)
            if dimensions > _MOST_DIMENSIONS:
                raise Malformed(f"its tensor {name!r} has {dimensions} dimensions")
            shape = [self._file.number(U64) for _ in range(dimensions)]
            weights = math.prod(shape)
            if not 0 < weights < 1 << 63:
                raise Malformed(f"its tensor {name!r} has the impossible shape {shape}")
            kind: int = self._file.number(U32)
            if kind not in TENSOR_TYPES:
                raise Malformed(f"its tensor {name!r} has a type (number {kind}) that isn't known")
            type_name, block_weights, block_bytes = TENSOR_TYPES[kind]
            if shape and shape[0] % block_weights:
                raise Malformed(f"its tensor {name!r} has rows of {shape[0]} weights, no whole {type_name} blocks")
            offset: int = self._file.number(U64)
            if name in found:
                raise Malformed(f"its header has the tensor {name[:100]!r} twice")
            size = weights // block_weights * block_bytes
            data_length = max(data_length, offset + size)
            found[name] = Tensor(self._path, type_name, tuple(reversed(shape)), offset, size)
        data_at = -(-self._file.at // alignment) * alignment
        if data_at + data_length > self._file.size:
            missing = data_at + data_length - self._file.size
            raise Malformed(f"the file is cut short: {missing} of {data_at + data_length} bytes are missing")
        return {name: replace(tensor, offset=data_at + tensor.offset) for name, tensor in found.items()}

    def _describe(self, tensors: Mapping[str, Tensor]) -> Header:
        architecture = self._text("general.architecture")
        if architecture is None:
            raise Malformed("it doesn't say its architecture")
        sizes: dict[str, Any] = {}
        for size in ("context_length", "embedding_length", "block_count"):
            sizes[size] = self._integer(f"{architecture}.{size}", 0)
            if sizes[size] < 1:
                raise Malformed(f"it says no {architecture}.{size}")
        ids: dict[str, Any] = {which: self._integer_or_none(f"tokenizer.ggml.{which}_token_id")
               for which in ("bos", "eos", "eot", "eom")}
        bos_token, eos_token = self._pieces(ids["bos"], ids["eos"])
        pooling = self._integer_or_none(f"{architecture}.pooling_type")
        return Header(
            architecture=architecture,
            name=self._text("general.name"),
            vocabulary_size=self._vocabulary_size,
            chat_template=next((text for text in map(self._text, _TEMPLATES) if text), None),
            bos_token=bos_token,
            eos_token=eos_token,
            pooling=None if pooling is None else _POOLING.get(pooling, str(pooling)),
            head_count=self._integer_or_none(f"{architecture}.attention.head_count"),
            head_count_kv=self._integer_or_none(f"{architecture}.attention.head_count_kv"),
            pieces=self._pieces_found,
            **sizes,
            **{f"{which}_id": number for which, number in ids.items()},
            **_totals(tensors),
        )

    def _pieces(self, *ids: int | None) -> list[str | None]:
        """Return the texts of some tokens, from a second walk over the vocabulary; None for an unknown id."""
        wanted = sorted({number for number in ids if number is not None and 0 <= number < self._vocabulary_size})
        pieces: dict[int | None, str] = {}
        if self._vocabulary_at is not None and wanted:
            self._file.seek(self._vocabulary_at)
            passed = 0
            for number in wanted:
                self._file.skip_strings(number - passed)
                pieces[number] = self._file.string(_LONGEST_TEXT)
                passed = number + 1
        return [pieces.get(number) for number in ids]

    # Values that were read, with the type they must have.

    def _text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise Malformed(f"{key} isn't a text")
        return value

    def _integer(self, key: str, default: int) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int):
            raise Malformed(f"{key} isn't a whole number")
        return value

    def _integer_or_none(self, key: str) -> int | None:
        return self._integer(key, 0) if key in self._values else None
