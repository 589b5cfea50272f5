"""The forms that an answer can be held to, as they come in requests. What they mean the engine finds out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from mayfly.errors import InvalidRequest
from mayfly.wire.calls import ANY_OBJECT, Form

# How a rule begins in llama.cpp's grammars.
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


def form_of_schema(schema: Mapping[str, Any], param: str) -> Form:
    """Return the form of JSON that fits a schema; `param` is the field that it was sent in.

    Raises:
        InvalidRequest: it is nested deeper than anything is written.
    """
    try:
        return Form("json_schema", orjson.dumps(schema).decode(), param)
    except orjson.JSONEncodeError as exc:
        raise InvalidRequest(f"'{param}' has to be a JSON schema that is nested less deep.", param=param) from exc


def form_of_object(param: str) -> Form:
    """Return the form of any JSON object."""
    return Form("json_schema", ANY_OBJECT, param)


def form_of_grammar(text: str) -> Form | None:
    """Return the form that a grammar describes; None if it is empty."""
    return Form("gbnf" if _GBNF.search(text) else "lark", text, "grammar") if text else None


def form_of_regex(text: str) -> Form | None:
    """Return the form of what a regular expression matches; None if it is empty."""
    return Form("regex", text, "regex") if text else None
