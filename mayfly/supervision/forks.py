"""What the supervisor knows of processes that it didn't start: the generations that templates fork.

They tell of themselves over their template's pipe, and the template of their end; whether they beat, the supervisor
sees by their sentinels, as of any process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mayfly.supervision.child import Handle
from mayfly.supervision.lane import Lane
from mayfly.supervision.process import Process
from mayfly.supervision.records import Records
from mayfly.wire.events import Exited, Forked


class Forks:
    """The books on forked processes.

    Args:
        run_folder: where sentinels are.
        adopt: makes the handle of a forked process from its pid.
    """

    def __init__(self, run_folder: Path, records: Records, adopt: Callable[[int], Handle]) -> None:
        self._run_folder = run_folder
        self._records = records
        self._adopt = adopt

    def forked(self, lane: Lane, template: Process, event: Forked, now: float) -> None:
        """Take note of a generation that is ready."""
        process = self._process(lane, template, event, now)
        process.ready_at = now
        process.silent_for(now)
        lane.generations[event.generation] = process
        lane.generation = event.generation
        lane.starts.came_up()
        lane.last_fork_seconds = event.seconds

    def exited(self, lane: Lane, template: Process, event: Exited, now: float) -> None:
        """Take note of a generation's end."""
        process = lane.generations.pop(event.generation, None)
        if process is None:  # it died before it was ready
            process = self._process(lane, template, event, now)
        verdict, said = process.judge_exit(event.code)
        if verdict == "spent":
            self._records.spent(process)
        elif verdict != "ended":
            self._records.failed(process, verdict, event.code, said, now, tail=template.handle.tail())
        process.bury()

    def lose_all(self, lane: Lane) -> list[int]:
        """A template's forks end with it; return the numbers of those that had begun to live."""
        lost = sorted(lane.generations)
        for process in lane.generations.values():
            process.bury()
        lane.generations.clear()
        if lost:
            # One more may have been forked and never heard of.
            lane.next_generation += 1
        return lost

    def _process(self, lane: Lane, template: Process, event: Forked | Exited, now: float) -> Process:
        name = f"{lane.stem}-{event.generation}"
        process = Process(name, lane, event.generation, self._run_folder / f"{name}.watchdog", now,
                          model=template.model)
        process.handle = self._adopt(event.pid)
        lane.next_generation = max(lane.next_generation, event.generation + 1)
        return process
