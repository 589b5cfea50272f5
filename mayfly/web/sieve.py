"""What a body holds, looked at before pydantic builds anything of it.

A field that is null is one that isn't there. Fields that a body doesn't know are refused, or where the body takes them,
left out and named, in the answer's header and once in the log: clients get new ones every month. The work is bounded by
what the parser lets through (`bodies.py`), and whatever is wrong ends it.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from annotated_types import MaxLen
from pydantic import BaseModel

from mayfly.errors import InvalidRequest

# So many of the fields that are left out are named.
MOST_NAMED = 20
HEADER = "X-Ignored-Fields"
# Names that are remembered as told; a client could send new ones for ever.
_MOST_TOLD = 1000
_LONGEST_NAME = 40


def sift(model: type[BaseModel], body: dict[str, Any], ignored: dict[str, None], at: str = "") -> dict[str, Any]:
    """Return what of an object is for its model.

    Args:
        ignored: the names of the fields that are left out are added, in a form that does no harm in an answer or a
            log; without numbers of list entries, so that a long conversation names each once.
        at: the name of the field that the object is, and a point.

    Raises:
        InvalidRequest: there is an unknown field where none is taken, or a list of objects is too long.
    """
    kept: dict[str, Any] = {}
    inside = _objects_inside(model)
    present = 0
    for name, inner in inside.items():
        value = body.get(name)
        if value is None:
            present += name in body
            continue
        present += 1
        kept[name] = value if inner is None else _sift_inside(inner, value, ignored, at + name)
    if present < len(body):
        unknown = (name for name in body if name not in inside)
        if model.model_config.get("extra") == "forbid":
            raise _unknown_field(harmless(next(unknown)), model)
        for name in itertools.islice(unknown, max(0, MOST_NAMED + 1 - len(ignored))):
            ignored[at + harmless(name)] = None
    return kept


def _sift_inside(inner: _Inside, value: Any, ignored: dict[str, None], at: str) -> Any:
    if isinstance(value, dict):
        return sift(inner.model, value, ignored, f"{at}.")
    if isinstance(value, list):
        if inner.most is not None and len(value) > inner.most:
            raise InvalidRequest(f"'{at}' has {len(value)} entries, but at most {inner.most} are allowed.", param=at,
                                 code="too_many_entries")
        return [sift(inner.model, entry, ignored, f"{at}.") if isinstance(entry, dict) else entry for entry in value]
    return value


@dataclass(frozen=True)
class _Inside:
    """The objects that a field may hold: their model, and how many its list may have."""

    model: type[BaseModel]
    most: int | None


@functools.cache
def _objects_inside(model: type[BaseModel]) -> dict[str, _Inside | None]:
    """Return the names of a model's fields, with what is inside of those that hold objects."""
    table: dict[str, _Inside | None] = {}
    for name, field in model.model_fields.items():
        inner = object_in(field.annotation)
        most = next((bound.max_length for bound in field.metadata if isinstance(bound, MaxLen)), None)
        table[name] = _Inside(inner, most) if inner is not None else None
    return table


def object_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `list[Model] | None`; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := object_in(part)) is not None), None)


def _unknown_field(name: str, model: type[BaseModel]) -> InvalidRequest:
    known = ", ".join(model.model_fields)
    return InvalidRequest(f"There is no field '{name}' here: remove it. The fields are {known}.", param=name,
                          code="unknown_field")


def harmless(name: str) -> str:
    """Return a name that a client has chosen in a form that does no harm in an answer, a header or a log."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", name[:_LONGEST_NAME])


class IgnoredFields:
    """Which of them the log has told of. May be used by several threads: at worst a name is told twice."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def headers(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return what the answer has to say of them, and tell the log of those that it hasn't seen yet.

        Args:
            names: as `sift` gives them.
        """
        for name in names:
            if name not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(name)
                sys.stderr.write(f"a field of requests that means nothing here is ignored: {name}\n")
        more = [] if len(names) <= MOST_NAMED else ["..."]
        return [(HEADER, ", ".join([*names[:MOST_NAMED], *more]))] if names else []
