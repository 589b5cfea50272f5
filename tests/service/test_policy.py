"""The watchdog's judgement, row by row of the sentinel table."""

from __future__ import annotations

import pytest

from mayfly.supervision.policy import Backoff, Heartbeat, judge_alive, judge_exit
from mayfly.wire.exits import killed_from_outside


@pytest.mark.parametrize(
    ("ready", "sentinel", "served", "changed", "killed", "condemned", "verdict"),
    [
        (True, False, True, False, False, None, "spent"),
        (True, True, False, False, False, None, "crashed"),
        (True, True, False, False, True, None, "crashed"),
        (True, True, True, False, False, None, "crashed"),
        (True, False, False, False, False, None, "ended"),
        (False, False, False, False, False, None, "failed_start"),
        (False, False, False, False, True, None, "crashed"),
        (False, True, False, False, False, None, "failed_start"),
        (True, True, False, False, False, "hung", "hung"),
        (False, False, False, False, False, "failed_start", "failed_start"),
        (False, False, False, False, True, "failed_start", "failed_start"),
        (True, False, True, True, False, None, "changed"),
    ],
)
def test_an_exit_is_judged_by_the_sentinel(
    ready: bool, sentinel: bool, served: bool, changed: bool, killed: bool, condemned: str | None, verdict: str
) -> None:
    assert judge_exit(ready=ready, sentinel=sentinel, served=served, changed=changed, killed=killed,
                      condemned=condemned) == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "outside"), [
    (-9, True), (-15, True), (-1, True), (-2, True), (-6, False), (-11, False), (-7, False), (-4, False), (0, False),
    (1, False), (10, False), (None, False)])
def test_only_a_signal_that_no_model_sends_comes_from_outside(code: int | None, outside: bool) -> None:
    assert killed_from_outside(code) == outside


@pytest.mark.parametrize(
    ("ready", "age", "since_start", "verdict"),
    [(True, 59.0, 1000.0, "well"), (True, 61.0, 1000.0, "hung"), (False, 299.0, 299.0, "well"),
     (False, 0.0, 301.0, "failed_start")],
)
def test_a_living_process_is_judged_by_its_heartbeat(
    ready: bool, age: float, since_start: float, verdict: str
) -> None:
    assert judge_alive(ready=ready, age=age, since_start=since_start, hang_seconds=60, start_seconds=300) == verdict


def test_a_heartbeat_ages_by_the_watchdogs_clock_whatever_time_the_file_says() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.observe(1_000, now=5.0) == 0
    assert heartbeat.observe(1_000, now=8.0) == 3
    # The time of day was set back: the mark changed, so the process beats.
    assert heartbeat.observe(10, now=9.0) == 0


def test_a_sentinel_that_is_gone_at_the_first_look_is_a_fresh_heartbeat() -> None:
    # The watchdog heard of a fast generation after it had done its work; the age was that of the machine's start.
    assert Heartbeat().observe(None, now=7_141.0) == 0


def test_back_off_doubles_to_its_ceiling() -> None:
    backoff = Backoff()
    delays = [backoff.delay(0.0, answered=False) for _ in range(11)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    # Fewer than twelve starts in the first minute, even if each dies at once.
    starts = [sum(delays[:number]) for number in range(len(delays))]
    assert sum(1 for start in starts if start < 60) < 12


def test_back_off_resets_after_a_minute_of_health_or_an_answered_call() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.delay(0.0, answered=False)
    assert backoff.delay(61.0, answered=False) == 0.1
    assert backoff.delay(59.0, answered=False) == 0.2
    assert backoff.delay(1.0, answered=True) == 0.1


def test_a_death_in_the_middle_of_a_call_never_holds_others_up_for_long() -> None:
    backoff = Backoff()
    delays = [backoff.delay(0.0, answered=False, serving=True) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]
    # Deaths that no call explains still back off as far as ever.
    assert backoff.delay(0.0, answered=False) == 30.0
