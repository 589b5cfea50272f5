"""A file holds one idea, a function one step, a class one thing: none grows beyond what a reader can hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted((PROJECT / "mayfly").rglob("*.py"))
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_METHODS = 20


def too_large(source: str) -> Iterator[str]:
    """Yield what of a file is too large, and how large it is."""
    lines = source.count("\n")
    if lines > MOST_LINES:
        yield f"the file: {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name}: {lines} lines"
        elif isinstance(node, ast.ClassDef):
            methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
            if methods > MOST_METHODS:
                yield f"{node.name}: {methods} methods"


def test_nothing_is_too_large() -> None:
    found = {str(path.relative_to(PROJECT)): list(too_large(path.read_text())) for path in FILES}
    assert {name: each for name, each in found.items() if each} == {}


def test_what_is_too_large_is_found() -> None:
    body = "\n    x = 1" * MOST_LINES_OF_A_FUNCTION
    assert list(too_large(f"def f():{body}\n")) == ["f: 61 lines"]
    assert list(too_large("x = 1\n" * 401)) == ["the file: 401 lines"]
    methods = "\n".join(f"    def m{number}(self): ..." for number in range(MOST_METHODS + 1))
    assert list(too_large(f"class C:\n{methods}\n")) == ["C: 21 methods"]
