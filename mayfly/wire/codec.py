"""How a message becomes JSON and is made of it again. A message is a dataclass, and its fields say all about its form.

In JSON it is an object with its class's name under "is", beside its fields; those within it likewise. A tuple is a
list, a path is a string. One field may be bytes: they travel raw, beside the JSON (`mayfly.wire.framing`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_TAG = "is"
_Read = Callable[[Any], Any]


class NoMessage(ValueError):
    """What has come is none of the messages that can come there."""


def plain(value: object) -> Any:
    """Return what JSON has got for what it hasn't: the `default` of `json` and of `orjson`."""
    if dataclasses.is_dataclass(value):
        return {_TAG: type(value).__name__, **value.__dict__}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return None
    raise TypeError(f"no message holds a {type(value).__name__}")


def raw_of(message: Any) -> bytes:
    """Return what travels of a message beside its JSON."""
    name = _raw_field(message.__class__)
    return bytes(getattr(message, name)) if name else b""


def from_wire(wire: Any, kind: Any, raw: bytes = b"") -> Any:
    """Return the message that `plain` made this of.

    Args:
        wire: what JSON held.
        kind: the class that it has to be of, or a union of classes.
        raw: what came beside the JSON.

    Raises:
        NoMessage: it is none of these.
    """
    try:
        message: Any = _reader(kind)(wire)
    except (LookupError, TypeError, ValueError) as exc:
        raise NoMessage(f"no {kind}") from exc
    if raw and (name := _raw_field(message.__class__)):
        message.__dict__[name] = raw  # it may be frozen, but nobody has seen it yet
    return message


def prepare(kind: Any) -> None:
    """Make what reads and writes messages of a class, or a union of classes, before the first of them comes."""
    _reader(kind)
    for each in get_args(kind) or (kind,):
        _raw_field(each)


@functools.cache
def _raw_field(kind: Any) -> str | None:
    hints = get_type_hints(kind) if _is_message(kind) else {}
    return next((name for name, hint in hints.items() if hint is bytes), None)


@functools.cache
def _reader(hint: Any) -> _Read:
    """Return what makes a value of a type out of its JSON."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) or _is_message(hint):
        return _one_of(arguments or (hint,))
    if origin is tuple:
        item = _reader(arguments[0])
        return lambda wire: tuple(map(item, _checked(wire, list)))
    if origin in (dict, Mapping):
        value = _reader(arguments[1])
        return lambda wire: {name: value(entry) for name, entry in _checked(wire, dict).items()}
    if origin is Literal:
        return lambda wire: arguments[arguments.index(wire)]
    if hint is Path:
        return lambda wire: Path(_checked(wire, str))
    if hint in (Any, bytes):
        return lambda wire: b"" if hint is bytes else wire
    return lambda wire: _checked(wire, hint if hint is not float else (float, int))


def _is_message(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _one_of(kinds: Iterable[Any]) -> _Read:
    """Return the reader of a union: of messages, which are told apart by their names, and of other types."""
    messages: dict[str, tuple[Any, dict[str, _Read]]] = {}
    others = []
    for kind in kinds:
        if _is_message(kind):
            fields = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
            messages[kind.__name__] = kind, fields
        else:
            others.append(_reader(kind))

    def read(wire: Any) -> Any:
        if isinstance(wire, dict) and wire.get(_TAG) in messages:
            kind, fields = messages[wire[_TAG]]
            return kind(**{name: fields[name](value) for name, value in wire.items() if name != _TAG})
        for other in others:
            with contextlib.suppress(LookupError, TypeError, ValueError):
                return other(wire)
        raise TypeError("none of these types")

    return read


def _checked(wire: Any, expected: Any) -> Any:
    if isinstance(wire, expected) and (wire.__class__ is not bool or expected is bool):
        return wire
    raise TypeError(f"no {expected}")
