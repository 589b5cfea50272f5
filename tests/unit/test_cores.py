"""How many cores are free: with a /proc of the test's own, and with the real one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from service import until

from mayfly.compat.cores import core_limit
from mayfly.supervision.cores import FreeCores

TICKS = os.sysconf("SC_CLK_TCK")
OWN = (0, 1)


class PlayedProc:
    """A /proc in which the test says who has used how many seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.say(0.0)

    def say(self, busy: float, **workers: float) -> None:
        ticks = int(busy * TICKS)
        (self.folder / "stat").write_text(
            f"cpu  {ticks + 7} 0 0 999 0 0 0 0 0 0\ncpu0 {ticks} 0 0 999 0 0 0 0 0 0\n"
            + "".join(f"cpu{number} 0 0 0 999 0 0 0 0 0 0\n" for number in range(1, 8)) + "intr 63017340 0\n")
        for pid, seconds in workers.items():
            (self.folder / pid[1:]).mkdir(exist_ok=True)
            (self.folder / pid[1:] / "stat").write_text(
                f"{pid[1:]} (python) odd) S 1 1 1 0 -1 0 0 0 0 0 {int(seconds * TICKS)} 0 0 0 20 0 1 0\n")


@pytest.mark.parametrize(
    ("others", "free"),
    [(0.0, (2, 2)), (0.3, (2, 2)), (0.6, (1, 2)), (0.8, (1, 1)), (1.0, (1, 1)), (1.3, (1, 1)), (2.0, (1, 1))])
def test_cores_that_others_use_are_not_free(tmp_path: Path, others: float, free: tuple[int, int]) -> None:
    proc = PlayedProc(tmp_path)
    proc.say(0.0, p7=0.0)
    cores = FreeCores(2, tmp_path, OWN)
    assert cores.measure([7], 0.0) == (2, 2)
    ours = 2.0 - others
    proc.say(10 * (ours + others), p7=10 * ours)
    assert cores.measure([7], 10.0) == free


@pytest.mark.parametrize(("others", "free"), [(5.0, 2), (6.0, 2), (7.0, 1)])
def test_a_part_of_many_cores_is_free_as_long_as_others_leave_so_many(tmp_path: Path, others: float, free: int) -> None:
    proc = PlayedProc(tmp_path)
    counts = [FreeCores(2, tmp_path, range(8)), FreeCores(2, tmp_path, (6, 7))]
    for cores in counts:
        cores.measure([], 0.0)
    proc.say(10 * others)
    # Whoever is bound to two of them is left alone by what others do on the rest.
    assert [cores.measure([], 10.0) for cores in counts] == [(free, free), (2, 2)]


@pytest.mark.parametrize(("files", "limit"), [
    ({}, math.inf), ({"cpu.max": "max 100000\n"}, math.inf), ({"cpu.max": "150000 100000\n"}, 1.5),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
    ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0)])
def test_a_container_has_so_many_cores(tmp_path: Path, files: dict[str, str], limit: float) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert core_limit(tmp_path) == limit


def test_a_worker_that_ended_is_not_taken_for_somebody_else(tmp_path: Path) -> None:
    proc = PlayedProc(tmp_path)
    proc.say(10.0, p7=8.0)
    cores = FreeCores(2, tmp_path, OWN)
    cores.measure([7], 0.0)
    proc.say(12.0)
    assert cores.measure([], 1.0) == (2, 2)  # what it had used went with it


def test_a_system_that_does_not_tell_counts_all_cores_as_free(tmp_path: Path) -> None:
    assert FreeCores(8, tmp_path / "absent").measure([1], 0.0) == (8, 8)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system has no /proc")
def test_a_busy_program_takes_a_core_away_from_the_real_count() -> None:
    count = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        cores = FreeCores(count)
        until(lambda: cores.measure([], time.monotonic()) == (1, 1), within=30,
              what="every core taken but the one for us")
        # The same programs as our own workers take nothing away from themselves.
        ours = FreeCores(count)
        ours.measure([process.pid for process in busy], time.monotonic())
        assert min(ours.measure([], time.monotonic())) >= 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
