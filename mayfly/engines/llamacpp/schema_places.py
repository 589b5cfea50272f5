"""Where in a JSON schema something can't be compiled: llguidance says what is wrong, but not where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher

# Keywords whose values are a schema, a list of them, or an object with one for each of its names.
_SCHEMA = ("items", "additionalProperties")
_SCHEMAS = ("prefixItems", "allOf", "anyOf", "oneOf")
_NAMED = ("properties", "patternProperties")
# Parts of a schema that are tried by themselves.
_MOST_TRIED = 300
_WHOLE = "whole"


def place_of(schema: str, options: Any) -> str | None:
    """Return the JSON pointer of the innermost part of a schema that can't be compiled by itself; None if that is the
    whole.

    Args:
        options: llguidance's, for the compilation.
    """
    root = json.loads(schema)
    # Each part is tried where it stands in the whole, whose references then lead below a name of their own.
    whole = _moved(root)
    tried = {""}
    place = ""

    def fails(pointer: str) -> bool:
        tried.add(pointer)
        part = {"$defs": {_WHOLE: whole}, "$ref": f"#/$defs/{_WHOLE}{pointer}"}
        try:
            return bool(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(part, overrides=options)))
        except ValueError:  # only for standing deeper than it does
            return False

    while len(tried) < _MOST_TRIED:
        inner = (pointer for pointer in _inside(root, place) if pointer not in tried and len(tried) < _MOST_TRIED)
        found = next(filter(fails, inner), None)
        if found is None:
            break
        place = found
    return place or None


def _inside(root: Any, place: str) -> Iterator[str]:
    """Yield the pointers of the schemas that one consists of."""
    schema = _at(root, place)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        at = f"{place}/{_escaped(name)}"
        if name == "$ref" and isinstance(value, str) and value.startswith("#/") and _at(root, value[1:]) is not None:
            yield value[1:]
        if name in _SCHEMA:
            yield at
        elif name in _SCHEMAS and isinstance(value, list):
            yield from (f"{at}/{number}" for number in range(len(value)))
        elif name in _NAMED and isinstance(value, dict):
            yield from (f"{at}/{_escaped(key)}" for key in value)


def _at(root: Any, pointer: str) -> Any:
    found = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _moved(value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    moved = {name: _moved(entry) for name, entry in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"#/$defs/{_WHOLE}{reference[1:]}"
    return moved


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
