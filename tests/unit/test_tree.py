"""The tree of tests: a newcomer finds them by its folders, and `--quick` runs two of these."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import QUICK

TESTS = Path(__file__).resolve().parents[1]


def test_every_test_lies_in_a_folder_of_its_kind() -> None:
    files = list(TESTS.rglob("test_*.py"))
    assert {file.parent.relative_to(TESTS).as_posix() for file in files} == {
        "unit", "web", "service", "clients", "start"}
    # pytest knows a file by its name alone.
    assert len({file.name for file in files}) == len(files)


def test_what_is_quick_starts_no_service() -> None:
    starting = re.compile(r"^from service import .*\bService\b|\bserved: ", re.MULTILINE)
    started = [file.name for folder in QUICK for file in (TESTS / folder).glob("test_*.py")
               if starting.search(file.read_text(encoding="utf-8"))]
    assert started == []
