"""Failure reports: what they hold, what they never hold, and how many stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mayfly.supervision.reports import Failure, Reports
from mayfly.wire.sentinel import AHEAD


def failure(**changes: object) -> Failure:
    facts: dict[str, object] = {
        "name": "completion-17", "cause": "crashed", "pid": 4, "generation": 17, "exit_code": -11, "age": 3.2,
        "calls": 0, "heartbeat_age": 0.3, "model": "tiny", "tail": ["Segmentation fault"],
        "sentinel": {"request": {"id": "req_abc", "characters": 12, "messages": 1}}}
    return Failure(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_report_says_what_died_how_and_what_it_was_serving(tmp_path: Path) -> None:
    name = Reports(tmp_path, 50).write(failure())
    assert name.endswith("_completion-17_watchdog_error.log")
    text = (tmp_path / name).read_text()
    for part in ("killed by SIGSEGV", "generation:      17", "0.3 s before", "req_abc characters=12 messages=1",
                 "Segmentation fault"):
        assert part in text


def test_a_death_without_a_request_is_none_of_a_request_and_what_it_was_doing_is_said(tmp_path: Path) -> None:
    assert failure().text().startswith("completion-17 died without completing its request\n")
    for sentinel, doing in (({}, False), ({"doing": AHEAD}, True), ({"doing": "x\nforged"}, False)):
        text = failure(sentinel=sentinel).text()
        assert text.startswith("completion-17 died\n") and "request:         none" in text
        assert ("doing:           its answer was out" in text) == doing and "forged" not in text


def test_a_garbage_sentinel_smuggles_no_text_into_a_report() -> None:
    text = failure(sentinel={"request": {"id": "x\nforged: line", "prompt": "secret", "texts": "many"}}).text()
    assert "secret" not in text
    assert "many" not in text
    assert "\nforged" not in text


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    reports = Reports(tmp_path, 3)
    names = [reports.write(failure(name=f"completion-{number}")) for number in range(6)]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    assert names[-1] in left


def test_two_reports_in_one_second_have_two_names(tmp_path: Path) -> None:
    reports = Reports(tmp_path, 50)
    assert len({reports.write(failure()) for _ in range(4)}) == 4


def test_a_report_that_cannot_be_written_is_an_error_and_no_empty_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Reports(tmp_path / "file", 3).write(failure())


def test_a_folder_of_reports_that_was_removed_is_made_again(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "logs", 3)
    reports.write(failure())
    shutil.rmtree(tmp_path / "logs")
    assert (tmp_path / "logs" / reports.write(failure())).stat().st_size


def start_failure(**changes: object) -> Failure:
    facts = {"name": "model1", "lane": "model:a", "cause": "failed_start", "sentinel": {}, "pid": 5}
    return failure(**{**facts, **changes})


def test_the_same_death_is_counted_in_the_report_of_the_last_one(tmp_path: Path) -> None:
    reports = Reports(tmp_path, 3)
    useful = reports.write(failure())
    names = [reports.write(start_failure(name=f"model{number}", pid=number, reason=f"no memory at 0x{number}"))
             for number in range(1, 8)]
    assert len(set(names)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({useful, *names})
    text = (tmp_path / names[0]).read_text()
    assert "times:           7, since" in text
    assert "pid:             7" in text  # what is told is the last one


@pytest.mark.parametrize("change", [{"exit_code": -6}, {"cause": "crashed"}, {"reason": "no file"}, {"calls": 1},
                                    {"lane": "model:b"}, {"sentinel": {"request": {"id": "req_abc"}}}],
                         ids=lambda change: next(iter(change)))
def test_another_death_has_a_report_of_its_own(tmp_path: Path, change: dict[str, object]) -> None:
    reports = Reports(tmp_path, 9)
    first, second = reports.write(start_failure()), reports.write(start_failure(**change))
    assert first != second
    # And whose report was removed has a new one.
    (tmp_path / second).unlink()
    third = reports.write(start_failure(**change))
    assert (tmp_path / third).exists()
