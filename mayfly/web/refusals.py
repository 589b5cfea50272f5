"""What a client is told of a body that pydantic refuses: its first mistake, in a sentence that says what is allowed."""

from __future__ import annotations

import re
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel

from mayfly.errors import InvalidRequest
from mayfly.web.bodies import kind
from mayfly.web.sieve import harmless, object_in

#: What a text has to be.
TEXT = "a string without NUL characters"

# What an entry of a list has to be, by what is wrong with it.
_ENTRIES = {"string_type": "a string", "model_type": "an object", "string_pattern_mismatch": TEXT}


def refusal(model: type[BaseModel], problem: str, location: tuple[int | str, ...], value: object, n_ctx: int,
            sent_as: dict[str, str]) -> InvalidRequest:
    """Return the error for a mistake.

    Args:
        model: the body's.
        problem, location, value: as pydantic names the kind of the mistake, where it is, and what is there.
        n_ctx: the window in tokens, for messages that name it.
        sent_as: other names by which fields were sent.
    """
    name = str(location[0])
    location = _without_branches(model, location)
    owner, field, below = _field_at(model, location)
    if name == "logit_bias" and len(location) > 1:
        return _of_bias(harmless(str(location[1])), len(location) > 2, value)
    param = ".".join([sent_as.get(name, name), *(harmless(str(part)) for part in location[1:])])
    allowed = _ENTRIES.get(problem, "") if below else ""
    if not allowed:
        allowed = allowed_in(owner, field, n_ctx)
    if problem == "missing":
        return missing(param, allowed)
    if problem.endswith("_type"):
        # What follows in a description tells of values of the right kind.
        allowed = f"{re.split(', wh(?:ere|ich) |; ', allowed)[0]}, not {kind(value)}"
    return InvalidRequest(f"'{param}' has to be {allowed}.", param=param)


def _of_bias(token: str, itself: bool, value: object) -> InvalidRequest:
    """Return the error for a token's bias; `itself` says that what names the token is wrong."""
    said = f"without '{token}': it names tokens by their ids, such as \"50256\"" if itself else (
        f"a number from -100 to 100 for the token {token}, not "
        f"{kind(value) if isinstance(value, bool) or not isinstance(value, int | float) else value}")
    return InvalidRequest(f"'logit_bias' has to be {said}.", param="logit_bias")


def missing(param: str, allowed: str | None) -> InvalidRequest:
    """Return the error for a field that isn't there; `allowed` is what it has to be."""
    return InvalidRequest(f"The field '{param}' is missing: add it, with {allowed}.", param=param, code="missing_field")


def _without_branches(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return a location without what follows a field that may be of several kinds: the name of one of these."""
    inner = model
    for place, part in enumerate(location):
        field = inner.model_fields.get(str(part))
        if field is not None:
            inner = object_in(field.annotation) or inner
            if sum(kind is not type(None) for kind in get_args(field.annotation)) > 1 and (
                    get_origin(field.annotation) in (Union, UnionType)):
                return location[:place + 1]
    return location


def _field_at(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str, bool]:
    """Return the innermost field of a location: the model that it is of, its name, and whether the location goes on
    below it, to an entry of its list or a key of the client's."""
    owner, inner, name, below = model, model, str(location[0]), False
    for part in location:
        below = part not in inner.model_fields
        if not below:
            owner, name = inner, str(part)
            inner = object_in(inner.model_fields[name].annotation) or inner
    return owner, name, below


def allowed_in(model: type[BaseModel], name: str, n_ctx: int) -> str:
    """Return what a field has to be, for a window of so many tokens."""
    return (model.model_fields[name].description or "").replace("{n_ctx}", str(n_ctx))
