"""docs/errors.md and the code say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mayfly import errors
from mayfly.supervision import refusals

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| `([a-z_]+)` \|", PAGE, re.MULTILINE)


def constants(node: ast.expr) -> Iterator[object]:
    """Yield what an expression can be, as far as it is written there: `"a"`, `"a" if x else "b"`."""
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def raised(tree: ast.Module) -> Iterator[tuple[object, object]]:
    """Yield each error that a module makes as its code and its status; None is a status that isn't written there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if node.func.id == "Problem":
            named |= dict(zip(("status", "message", "type", "code"), node.args, strict=False))
            statuses = list(constants(named["status"])) or [None]
        else:
            own = getattr(getattr(errors, node.func.id, None), "status", None)
            statuses = list(constants(named["status"])) if "status" in named else [own]
        for code in constants(named["code"]) if "code" in named else ():
            for status in statuses:
                yield code, status


def classes(cls: type[errors.CallError]) -> Iterator[type[errors.CallError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from classes(below)


def test_the_page_has_every_code_with_its_status_and_no_other() -> None:
    found = [pair for path in (PROJECT / "mayfly").rglob("*.py") for pair in raised(ast.parse(path.read_text()))]
    found += [(cls.code, cls.status) for cls in classes(errors.CallError) if cls.code]
    page = {code: int(status) for status, code in ROWS}
    assert len(page) == len(ROWS)
    assert set(page) == {code for code, _ in found if code is not None}
    assert [pair for pair in found if pair[0] is not None and pair[1] not in (None, page[str(pair[0])])] == []


def test_the_page_has_the_exit_codes() -> None:
    written = {int(code) for code in re.findall(r"^\| (\d) \| ", PAGE, re.MULTILINE)}
    # 1 is that of the command line, before there is a watchdog.
    assert written == {0, 1, *(value for name, value in vars(refusals).items() if name.isupper())}
