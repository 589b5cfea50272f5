"""Failure reports: what they hold, what they never hold, and how many stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.supervision.reports import Failure, Reports


def failure(**changes: object) -> Failure:
    facts: dict[str, object] = {
        "name": "chat-17", "cause": "crashed", "pid": 4, "generation": 17, "exit_code": -11, "age": 3.2, "calls": 0,
        "heartbeat_age": 0.3, "model": "tiny", "tail": ["Segmentation fault"],
        "sentinel": {"request": {"id": "req_abc", "characters": 12, "messages": 1}}}
    return Failure(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_report_says_what_died_how_and_what_it_was_serving(tmp_path: Path) -> None:
    name = Reports(tmp_path, 50).write(failure())
    assert name.endswith("_chat-17_watchdog_error.log")
    text = (tmp_path / name).read_text()
    for part in ("killed by SIGSEGV", "generation:      17", "0.3 s before", "req_abc characters=12 messages=1",
                 "Segmentation fault"):
        assert part in text


def test_a_garbage_sentinel_smuggles_no_text_into_a_report() -> None:
    text = failure(sentinel={"request": {"id": "x\nforged: line", "prompt": "secret", "texts": "many"}}).text()
    assert "secret" not in text
    assert "many" not in text
    assert "\nforged" not in text


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    reports = Reports(tmp_path, 3)
    names = [reports.write(failure(name=f"chat-{number}")) for number in range(6)]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    assert names[-1] in left


def test_two_reports_in_one_second_have_two_names(tmp_path: Path) -> None:
    reports = Reports(tmp_path, 50)
    assert len({reports.write(failure()) for _ in range(4)}) == 4


def test_a_report_that_cannot_be_written_is_an_error_and_no_empty_file(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Reports(tmp_path / "absent", 3).write(failure())
