"""What the supervisor knows of processes that it didn't start: the generations that templates fork.

They tell of themselves over their template's pipe, and the template of their end; whether they beat, the supervisor
sees by their sentinels, as of any process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mayfly.supervision import policy
from mayfly.supervision.child import Process
from mayfly.supervision.journal import Journal
from mayfly.supervision.reports import Failure
from mayfly.supervision.watched import LaneState, Watched
from mayfly.wire import exits, sentinel

#: The events of this file.
FORKS_EVENTS = frozenset({"forked", "exited"})


class Forks:
    """The books on forked processes.

    Args:
        run_folder: where sentinels are.
        fork_handle: makes the handle of a forked process from its pid.
        spent: takes note of a generation that has completed its call.
        failed: reports a failure; its last arguments say what happens now, and when it is.
    """

    def __init__(self, run_folder: Path, journal: Journal, fork_handle: Callable[[int], Process],
                 spent: Callable[[Watched], None], failed: Callable[[Watched, Failure, str, float], None]) -> None:
        self._run_folder = run_folder
        self._journal = journal
        self._fork_handle = fork_handle
        self._spent = spent
        self._failed = failed

    def handle(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        """Take an event that a template or one of its forks sent."""
        if event["event"] == "forked":
            self._forked(lane, template, event, now)
        else:
            self._exited(lane, template, event, now)

    def served(self, lane: LaneState, event: dict[str, Any]) -> None:
        """Take note that a generation has served its call."""
        generation = lane.generations.get(int(event.get("generation", -1)))
        if generation is not None:
            generation.calls += 1
            generation.served = event

    def lose_all(self, lane: LaneState) -> list[int]:
        """A template's forks end with it; return the numbers of those that had begun to live."""
        lost = sorted(lane.generations)
        for watched in lane.generations.values():
            sentinel.Sentinel(watched.sentinel).remove()
            if watched.process is not None:
                watched.process.close()
        lane.generations.clear()
        if lost:
            # One more may have been forked and never heard of.
            lane.next_generation += 1
        return lost

    def _forked(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        number = int(event["generation"])
        path = self._run_folder / f"{lane.stem}-{number}.watchdog"
        watched = Watched(f"{lane.stem}-{number}", template.lane, number, path, now, model=template.model,
                          pid=int(event["pid"]), process=self._fork_handle(int(event["pid"])), ready_at=now)
        watched.heartbeat.observe(sentinel.touched(path), now)
        lane.generations[number] = watched
        lane.next_generation = max(lane.next_generation, number + 1)
        lane.generation = number
        lane.came_up()
        lane.last_fork_seconds = float(event["seconds"])

    def _exited(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        number = int(event["generation"])
        code = int(event["code"])
        lane.next_generation = max(lane.next_generation, number + 1)
        path = self._run_folder / f"{lane.stem}-{number}.watchdog"
        watched = lane.generations.pop(number, None)
        there = sentinel.read(path)
        if watched is None:  # it died before it was ready
            watched = Watched(f"{lane.stem}-{number}", template.lane, number, path, now, model=template.model,
                              pid=int(event.get("pid", 0)))
        verdict = policy.judge_exit(
            ready=watched.ready, sentinel=there is not None, served=watched.served is not None, changed=False,
            killed=exits.killed_from_outside(code), condemned=watched.condemned)
        if verdict == "spent":
            self._spent(watched)
        elif verdict != "ended":
            self._failed(watched, Failure(
                watched.name, verdict, watched.pid, number, code, now - watched.started, watched.calls,
                now - watched.heartbeat.seen if watched.ready else None, watched.reason, watched.model,
                there or {}, template.process.tail() if template.process else [], lane=watched.lane), "", now)
        sentinel.Sentinel(path).remove()
        if watched.process is not None:
            watched.process.close()
