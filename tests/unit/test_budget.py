"""The thread budget: all model processes together use THREADS threads, whoever begins, ends or dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from service import PROJECT, until

from mayfly.wire.thread_table import PLACES, Allotment, Table
from mayfly.workers.budget import Budget, share

# As the supervisor allots them.
EMBED_PLACE, CHAT_PLACE = 0, 1

# A process that computes at a place: it does what its standard input says, and answers with its threads.
_WORKER = """
import json, sys
from mayfly.workers.budget import Budget, Table
handle, place, total = json.loads(sys.argv[1])
used = []
budget = Budget(Table.join(handle), place, total, used.append)
for line in sys.stdin:
    what, times = line.split()
    for _ in range(int(times)):
        for step in what.split("+"):
            getattr(budget, step)()
    print(json.dumps(used), flush=True)
"""


class Worker:
    """A process with one place of the table."""

    def __init__(self, handle: int | str, place: int, total: int) -> None:
        command = [sys.executable, "-c", _WORKER, json.dumps([handle, place, total])]
        inherited = [handle] if isinstance(handle, int) else []
        self.process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        pass_fds=inherited)

    def begin(self, what: str, times: int = 1) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {times}\n")
        self.process.stdin.flush()

    def used(self) -> list[int]:
        """Wait until it has done that; return every number of threads that its engine was set to."""
        assert self.process.stdout is not None
        return list(json.loads(self.process.stdout.readline()))

    def do(self, what: str) -> int:
        """Have it do something; return the threads that its engine uses then."""
        self.begin(what)
        return self.used()[-1]


@pytest.fixture
def table() -> Table:
    """A table, which every worker of the test joins."""
    return Table.make()


@pytest.fixture
def worker(table: Table) -> Iterator[Callable[..., Worker]]:
    with contextlib.ExitStack() as stack:
        def begin(place: int, total: int) -> Worker:
            one = Worker(table.handle, place, total)
            stack.enter_context(one.process)
            stack.callback(one.process.kill)
            return one

        yield begin


def test_the_shares_add_up_to_the_total_and_nobody_gets_nothing() -> None:
    for total, many in itertools.product(range(1, 20), range(1, 10)):
        busy = list(range(0, 3 * many, 3))
        shares = [share(total, busy, place) for place in busy]
        assert sum(shares) == max(total, many), (total, busy)
        assert max(shares) - min(shares) <= 1


def test_a_process_alone_uses_all_threads_and_gives_them_back(table: Table) -> None:
    used: list[int] = []
    budget = Budget(table, CHAT_PLACE, 4, used.append)
    budget.enter()
    assert (table[CHAT_PLACE], table.busy(), used) == (4, [CHAT_PLACE], [4])
    budget.adjust()
    budget.leave()
    budget.enter()
    assert used == [4]  # the engine is told only when the number changes
    budget.leave()
    assert table.in_use() == 0


def test_a_process_that_begins_waits_for_the_other_one_to_give_threads_up(
        table: Table, worker: Callable[..., Worker]) -> None:
    embed, chat = worker(EMBED_PLACE, 4), worker(CHAT_PLACE, 4)
    assert embed.do("enter") == 4
    chat.begin("enter")
    until(lambda: table[CHAT_PLACE], what="the second one's sign")
    assert embed.do("adjust") == 2
    assert chat.used() == [2]
    assert table.in_use() == 4
    chat.begin("leave")
    chat.used()
    assert embed.do("adjust") == 4


def test_three_processes_share_unevenly_divisible_threads_without_a_rest(
        table: Table, worker: Callable[..., Worker]) -> None:
    workers = [worker(place, 4) for place in range(3)]
    for one in workers:
        one.do("enter")
    assert [one.do("adjust") for one in workers] == [2, 1, 1]
    assert table.in_use() == 4
    workers[0].begin("leave")
    workers[0].used()
    assert [one.do("adjust") for one in workers[1:]] == [2, 2]


def test_more_processes_than_threads_use_one_each_and_do_not_wait_for_one_another(
        table: Table, worker: Callable[..., Worker]) -> None:
    workers = [worker(place, 2) for place in range(4)]
    for one in workers:
        one.do("enter")
    assert [one.do("adjust") for one in workers] == [1, 1, 1, 1]


def test_a_process_that_never_looks_cannot_keep_the_others_waiting_for_ever(
        table: Table, worker: Callable[..., Worker]) -> None:
    worker(EMBED_PLACE, 2).do("enter")
    assert worker(CHAT_PLACE, 2).do("enter") == 1


def test_the_place_of_a_killed_process_is_freed_by_whoever_reaps_it_and_the_rest_is_shared_anew(
        table: Table, worker: Callable[..., Worker]) -> None:
    embed, chat = worker(EMBED_PLACE, 2), worker(CHAT_PLACE, 2)
    embed.do("enter")
    chat.do("enter")
    assert embed.do("adjust") == 1
    chat.process.kill()
    chat.process.wait()
    assert table[CHAT_PLACE] == 1  # the dead can't do it
    table[CHAT_PLACE] = 0
    assert embed.do("adjust") == 2


def test_a_process_taken_for_dead_by_mistake_finds_its_place_again(table: Table) -> None:
    used: list[int] = []
    budget = Budget(table, CHAT_PLACE, 3, used.append)
    budget.enter()
    table[CHAT_PLACE] = 0
    budget.adjust()
    budget.adjust()
    assert (table[CHAT_PLACE], used[-1]) == (3, 3)


def test_many_calls_of_many_processes_leave_the_table_empty_and_nobody_over_the_total(
        table: Table, worker: Callable[..., Worker]) -> None:
    workers = [worker(place, 3) for place in range(3)]
    for one in workers:
        one.begin("enter+adjust+adjust+leave", 100)
    for one in workers:
        assert set(one.used()) <= {1, 2, 3}
    assert table.in_use() == 0


def test_a_table_for_which_there_is_no_room_is_an_error_at_once() -> None:
    # Memory that is only promised kills who uses it.
    with pytest.raises(subprocess.CalledProcessError) as failed:
        subprocess.run([sys.executable, "-c", "import resource\n"
                        "from mayfly.workers.budget import Table\n"
                        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))\n"
                        "Table.make()"], cwd=PROJECT, check=True, capture_output=True, text=True, timeout=60)
    assert "OSError" in failed.value.stderr and failed.value.returncode == 1


def test_places_are_allotted_lowest_first_and_used_again() -> None:
    allotment = Allotment()
    first, second, third = (allotment.take(count) for count in (1, 3, 2))
    assert (first, second, third) == ((0,), (1, 2, 3), (4, 5))
    allotment.give_back(second)
    assert allotment.take(2) == (1, 2)
    assert allotment.take(2) == (3, 6)


def test_the_last_place_is_not_the_byte_of_the_free_cores(table: Table) -> None:
    table[PLACES - 1] = 3
    assert table.free_cores == (0, 0)
    table.free_cores = 300, 2
    assert (table.busy(), table.in_use(), table.free_cores) == ([PLACES - 1], 3, (255, 2))


def test_threads_that_sleep_have_free_cores_of_their_own(table: Table) -> None:
    table.free_cores = 1, 3
    used: list[int] = []
    Budget(table, 0, 4, used.append).enter()
    table[0] = 0
    Budget(table, 1, 4, used.append, spinning=False).enter()
    assert used == [1, 3]


@pytest.mark.parametrize(("running", "look", "threads"), [
    ("1/80", True, 4), ("2/80", True, 1), ("1/80", False, 1), ("", True, 1)])
def test_a_program_that_has_stopped_computing_takes_no_threads_from_a_call_that_looks(
        table: Table, tmp_path: Path, running: str, look: bool, threads: int) -> None:
    table.free_cores = 1, 1
    (tmp_path / "loadavg").write_text(f"2.00 1.00 0.50 {running} 4711\n")
    used: list[int] = []
    Budget(table, 0, 4, used.append, proc=tmp_path).enter(look=look)
    assert used == [threads]


@pytest.mark.parametrize(("looks", "threads"), [(10, 4), (1000, 1)])
def test_threads_that_spin_for_a_moment_longer_than_their_work_are_waited_for(
        monkeypatch: pytest.MonkeyPatch, table: Table, tmp_path: Path, looks: int, threads: int) -> None:
    table.free_cores = 1, 1
    running = iter([2] * looks + [1] * 1000)
    monkeypatch.setattr(Path, "read_text", lambda path: f"2.00 1.00 0.50 {next(running)}/80 4711\n")
    used: list[int] = []
    Budget(table, 0, 4, used.append, proc=tmp_path).enter(look=True)
    assert used == [threads]


def test_what_other_places_compute_is_no_other_program(table: Table, tmp_path: Path) -> None:
    table.free_cores = 1, 1
    table[1] = 2
    (tmp_path / "loadavg").write_text("2.00 1.00 0.50 3/80 4711\n")
    used: list[int] = []
    Budget(table, 0, 4, used.append, proc=tmp_path).enter(look=True)
    assert used == [2]


def test_what_a_look_has_found_holds_until_the_measurement_is_about_the_time_since_then(
        table: Table, tmp_path: Path) -> None:
    table.free_cores = 1, 1
    (tmp_path / "loadavg").write_text("2.00 1.00 0.50 1/80 4711\n")
    used: list[int] = []
    budget = Budget(table, 0, 4, used.append, proc=tmp_path)
    budget.enter(look=True)

    def given_up() -> bool:
        budget.adjust()
        return used == [4, 1]

    until(given_up, what="the measurement to count again")
