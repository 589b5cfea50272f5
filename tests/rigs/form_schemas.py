"""Thirty JSON schemas of the kinds that the public JSON-Schema test suite has, and answers that are held to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from service import Service


def _object(required: bool = True, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False,
            **({"required": list(properties)} if required else {})}


def _array(items: Any, **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


_TEXT: dict[str, Any] = {"type": "string", "maxLength": 20}
_WORD: dict[str, Any] = {"type": "string", "pattern": "^[a-z]{2,8}$"}
_TREE: dict[str, Any] = {"$defs": {"node": _object(value={"type": "integer", "minimum": 0, "maximum": 99},
                                                   children=_array({"$ref": "#/$defs/node"}, maxItems=2))},
                         "$ref": "#/$defs/node"}

_ALL: dict[str, dict[str, Any]] = {
    "enum of texts": _object(color={"enum": ["red", "green", "blue"]}),
    "enum of kinds": _object(value={"enum": [1, "two", None, True, [3], {"four": 4}]}),
    "enum with unicode": _object(city={"enum": ["Zürich", "北京", "São Paulo", "a\"b\\c", "\U0001f98b"]}),
    "const": _object(kind={"const": "cat"}, version={"const": 2}, nothing={"const": None}),
    "integer bounds": _object(a={"type": "integer", "minimum": -5, "maximum": 17},
                              b={"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 1000}),
    "number bounds": _object(share={"type": "number", "minimum": 0, "maximum": 1},
                             cold={"type": "number", "exclusiveMaximum": 0, "minimum": -40}),
    "multiples": _object(dozen={"type": "integer", "multipleOf": 12, "minimum": 1, "maximum": 1000}),
    "lengths": _object(short={"type": "string", "minLength": 3, "maxLength": 6},
                       long={"type": "string", "minLength": 20, "maxLength": 30}),
    "lengths in unicode": _object(text={"type": "string", "pattern": "^[é你\U0001f98b]+$", "minLength": 3,
                                        "maxLength": 5}),
    "pattern": _object(code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}),
    "pattern of letters": _object(name={"type": "string", "pattern": "^[A-ZÄÖÜ][a-zäöüß]{2,9}$"}),
    "pattern inside": _object(text={"type": "string", "pattern": "a[bc]+d", "maxLength": 20}),
    "formats": _object(day={"type": "string", "format": "date"}, moment={"type": "string", "format": "date-time"},
                       id={"type": "string", "format": "uuid"}, host={"type": "string", "format": "ipv4"}),
    "nested arrays": _object(grid=_array(_array({"type": "integer", "minimum": 0, "maximum": 9}, minItems=3,
                                                maxItems=3), minItems=3, maxItems=3)),
    "array bounds": _object(words=_array(_WORD, minItems=2, maxItems=4)),
    "tuple": {"type": "array", "prefixItems": [_WORD, {"type": "integer", "minimum": 0, "maximum": 9},
                                               {"type": "boolean"}], "items": False, "minItems": 3},
    "array at the top": _array(_object(name=_WORD), minItems=1, maxItems=3),
    "text at the top": {"type": "string", "minLength": 1, "maxLength": 12},
    "number at the top": {"type": "integer", "minimum": 1, "maximum": 500},
    "nested objects": _object(a=_object(b=_object(c=_object(d={"type": "boolean"})))),
    "optional": _object(False, a=_WORD, b={"type": "integer", "minimum": 0, "maximum": 9}, c={"type": "null"}),
    "map": {"type": "object", "patternProperties": {"^[a-z]{1,5}$": {"type": "integer", "minimum": 0, "maximum": 99}},
            "additionalProperties": False},
    "additional": {"type": "object", "properties": {"name": _WORD}, "required": ["name"],
                   "additionalProperties": {"type": "boolean"}},
    "nullable": _object(a={"type": ["string", "null"], "maxLength": 10}, b={"type": ["integer", "null"], "minimum": 0,
                                                                            "maximum": 50}),
    "union": _object(value={"anyOf": [_WORD, {"type": "integer", "minimum": 0, "maximum": 99},
                                      _array({"type": "boolean"}, maxItems=2)]}),
    "union by a tag": _object(shape={"oneOf": [_object(kind={"const": "circle"}, r={"type": "integer", "minimum": 1,
                                                                                    "maximum": 99}),
                                               _object(kind={"const": "text"}, content=_TEXT)]}),
    "intersection": _object(a={"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]},
                            b={"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 6}]}),
    "references": {"$defs": {"place": _object(city=_TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"})},
                   **_object(home={"$ref": "#/$defs/place"}, work={"$ref": "#/$defs/place"})},
    "recursion": _TREE,
    "names to be escaped": _object(**{"a\"b": _WORD, "c/d~e": {"type": "boolean"}, "ü \U0001f98b": {"type": "null"}}),
}
NAMES = tuple(_ALL)
SCHEMAS = tuple(_ALL.values())


@dataclass
class Tried:
    """What became of some answers.

    Attributes:
        complete: those that fit; `cut`, by max_tokens, as they say.
        wrong: those that don't fit though they say that they are complete, or don't say why they end.
    """

    complete: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)


def answers(service: Service, schema: Mapping[str, Any], draws: int, *, seed: int = 0, max_tokens: int = 160,
            model: str = "") -> Tried:
    """Have a model answer in a form, freely, and look at what comes."""
    tried = Tried()
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    for number in range(draws):
        body = {"messages": [{"role": "user", "content": "Make up an example."}], "temperature": 1.0,
                "seed": seed + number, "max_tokens": max_tokens, "response_format": form, "model": model}
        answer = service.post("/v1/chat/completions", body)
        if answer.status_code != 200:
            tried.wrong.append(answer.text)
            continue
        choice = answer.json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
        try:
            if reason == "length":
                tried.cut += 1
                continue
            jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
            tried.complete += 1
        except (ValueError, jsonschema.ValidationError) as exc:
            tried.wrong.append(f"{reason}: {text!r}: {str(exc).splitlines()[0]}")
    return tried
