"""From the bytes of a request to a JSON object.

orjson refuses what Python's own parser lets through: NaN and infinities, numbers beyond a double, lone surrogates,
invalid UTF-8, and nesting so deep that it would exhaust the stack.
"""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request

from mayfly.errors import InvalidRequest


def json_object(request: Request) -> dict[str, Any]:
    """Return the request's body, which has to be a JSON object.

    Raises:
        InvalidRequest: 415 unless it is said to be application/json, 400 unless it is a JSON object.
    """
    # The mimetype is the type without its parameters, in lower case.
    if request.mimetype != "application/json":
        raise InvalidRequest("The body has to be JSON: send the header 'Content-Type: application/json'.",
                             status=415, code="unsupported_media_type")
    codings = {coding.strip().lower() for coding in request.headers.get("Content-Encoding", "").split(",")}
    if not codings <= {"", "identity"}:
        raise InvalidRequest("The body has to be sent as it is: leave out the header Content-Encoding.",
                             status=415, code="unsupported_media_type")
    return parsed(request.get_data(cache=False))


def parsed(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        InvalidRequest: 400, it is none.
    """
    if not raw:
        raise InvalidRequest("The body is empty: send a JSON object.", code="empty_body")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        # The parser's reason holds no text of the client's, only what was wrong and where.
        raise InvalidRequest(f"The body isn't valid JSON ({exc.msg}, at character {exc.pos}): send a JSON object.",
                             code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"The body has to be a JSON object, not {kind(body)}.", code="invalid_json")
    return body


def kind(value: object) -> str:
    """Return what JSON calls the kind of a value."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a whole number", float: "a number with a fraction or exponent",
             str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")
