"""From the bytes of a request to a JSON object.

orjson refuses what Python's own parser lets through: NaN and infinities, numbers beyond a double, lone surrogates,
invalid UTF-8, and nesting so deep that it would exhaust the stack.

While it parses nothing else of this process runs, and millions of lists in a body of some megabytes take it seconds. So
the values are counted first, in the bytes as they are, and too many of them are refused unparsed.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import orjson
from flask import Request

from mayfly.errors import InvalidRequest

# A request of this many values is parsed, beside those that belong to its texts.
_MOST_VALUES = 50_000
# The values of a text where a list holds most of them: an object of three fields, their names counted too.
_VALUES_OF_A_TEXT = 8
# Before each value but the first, and after each name, is one of these.
_MARKS = (b",", b":", b"[", b"{")
_BEGINNING = 1 << 20
_PLAIN = ("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8")


def most_values(max_texts: int) -> int:
    """Return how many values a body may hold in a service that takes so many texts at once."""
    return _MOST_VALUES + _VALUES_OF_A_TEXT * max_texts


def json_object(request: Request, most: int, *, any_type: bool = False) -> dict[str, Any]:
    """Return the request's body, which has to be a JSON object.

    Args:
        most: values that it may hold, names of fields included.
        any_type: whatever its Content-Type says.

    Raises:
        InvalidRequest: 415 unless it is said to be application/json, 400 unless it is a JSON object.
    """
    # The mimetype is the type without its parameters, in lower case.
    if request.mimetype != "application/json" and not any_type:
        raise InvalidRequest("The body has to be JSON: send the header 'Content-Type: application/json'.",
                             status=415, code="unsupported_media_type")
    codings = {coding.strip().lower() for coding in request.headers.get("Content-Encoding", "").split(",")}
    if not codings <= {"", "identity"}:
        raise InvalidRequest("The body has to be sent as it is: leave out the header Content-Encoding.",
                             status=415, code="unsupported_media_type")
    return parsed(request.get_data(cache=False), most)


def is_plain_json(environ: Mapping[str, Any]) -> bool:
    """Tell whether a request's headers say plainly what `json_object` demands."""
    return environ.get("HTTP_CONTENT_TYPE", "").lower() in _PLAIN and "HTTP_CONTENT_ENCODING" not in environ


def parsed(raw: bytes, most: int) -> dict[str, Any]:
    """Return the JSON object that a body is, and that may hold so many values.

    Raises:
        InvalidRequest: 400, it is none, or holds more.
    """
    if not raw:
        raise InvalidRequest("The body is empty: send a JSON object.", code="empty_body")
    if len(raw) > most and holds_more(raw, most):
        raise InvalidRequest(f"The body holds more than {most} values (texts, numbers, lists, objects, names of "
                             "fields): send fewer at once; and text instead of token ids, which LangChain sends unless "
                             "it is told check_embedding_ctx_length=False.", code="too_many_values")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(_fault(raw, exc), code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"The body has to be a JSON object, not {kind(body)}.", code="invalid_json")
    return body


def _fault(raw: bytes, exc: orjson.JSONDecodeError) -> str:
    if "depth limit" in exc.msg:
        return "The body is nested too deeply, in more than 1024 lists and objects: send a flatter JSON object."
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        # The parser says this of the whole body.
        return f"The body isn't valid JSON (it isn't UTF-8, at byte {wrong.start}): send a JSON object in UTF-8."
    if raw.startswith(codecs.BOM_UTF8):
        return "The body begins with a byte order mark, which JSON mustn't: send the JSON object without it."
    # The parser's reason holds no text of the client's, only what was wrong and where.
    return f"The body isn't valid JSON ({exc.msg}, at character {exc.pos}): send a JSON object."


def holds_more(raw: bytes, most: int) -> bool:
    """Tell whether JSON holds more values than so many, names of fields included, without parsing it.

    Right for what is JSON, and for its beginning where something follows that isn't: as far as a parser gets.
    """
    # What is full of values shows that at its beginning; what isn't has to be counted to its end.
    return (len(raw) > _BEGINNING and _counts_more(raw[:_BEGINNING], most)) or _counts_more(raw, most)


def _counts_more(raw: bytes, most: int) -> bool:
    if sum(map(raw.count, _MARKS)) < most:
        return False
    # Strings hold marks too. Without what a backslash escapes, each quotation mark begins a string or ends one.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * most:
        return True
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, _MARKS)) >= most


def kind(value: object) -> str:
    """Return what JSON calls the kind of a value."""
    if value is None:
        return "null"
    if type(value) is float and abs(value) >= 1 << 63:
        return "a number beyond 64 bits"  # the parser makes whole numbers of that size floats, too
    names = {bool: "a boolean", int: "a whole number", float: "a number with a fraction or exponent",
             str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")
