"""Arguments that are written as Python's keywords, `city="Paris", days=[1, 2]`, as JSON."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from mayfly.prompts.call_patterns import Nesting

_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*")
_NEXT = re.compile(r"\s*(?:,|$)")
_JSON = json.JSONDecoder()
# What JSON writes in another way.
_WORDS = {"true": True, "false": False, "null": None}


def as_json(text: str) -> str:
    """Return keyword arguments as a JSON object.

    Args:
        text: what is between the parentheses. Values may be written as in Python or as in JSON.

    Raises:
        ValueError: it is something else.
    """
    arguments: dict[str, Any] = {}
    at = 0
    while at < len(text) and not text[at:].isspace():
        name = _NAME.match(text, at)
        if name is None or name[1] in arguments:
            raise ValueError("no keyword")
        arguments[name[1]], at = _value(text, name.end())
    # Half a character can't be sent but by its escape.
    halves = any("\ud800" <= character <= "\udfff" for character in json.dumps(arguments, ensure_ascii=False))
    return json.dumps(arguments, ensure_ascii=halves, allow_nan=False)


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return the value at a place, and where the next keyword begins."""
    try:
        value, end = _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        end = at
    following = _NEXT.match(text, end)
    if end > at and following is not None:
        return value, following.end()
    end = _end(text, at)
    try:
        return _plain(ast.parse(text[at:end].strip(), mode="eval").body), end + 1
    except (SyntaxError, RecursionError, MemoryError) as exc:
        raise ValueError("no value") from exc


def _end(text: str, at: int) -> int:
    """Return where a value of Python's ends: at the first comma outside of brackets and quotes."""
    nesting = Nesting("\"'")
    for end in range(at, len(text)):
        if text[end] == "," and nesting.level == 1:
            return end
        if nesting.end(text[end]) is not None:
            raise ValueError("no value")
    return len(text)


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, int, float))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(each) for each in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {str(_plain(key)): _plain(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        if isinstance(value, (int, float)):
            return -value
    raise ValueError("no value")
