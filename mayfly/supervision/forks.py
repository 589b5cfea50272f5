"""What the supervisor knows of processes that it didn't start: the generations and snapshots that templates fork.

They tell of themselves and of one another's end over their template's pipe; whether they beat, the supervisor sees by
their sentinels, as of any process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mayfly.supervision import policy, sentinel
from mayfly.supervision.child import Process
from mayfly.supervision.journal import Journal
from mayfly.supervision.reports import Failure
from mayfly.supervision.watched import LaneState, Watched

#: The events of this file.
FORKS_EVENTS = frozenset({"forked", "exited", "snapshot", "kept", "stuck"})

# Its template has killed it; should that have had no effect, the watchdog does after this long.
_KILL_AGAIN = 1.0


def living_forks(lane: LaneState) -> list[Watched]:
    """Return a lane's forked processes, snapshots before generations."""
    return [*(lane.snapshots.living.values() if lane.snapshots is not None else ()), *lane.generations.values()]


class Forks:
    """The books on forked processes.

    Args:
        run_folder: where sentinels are.
        fork_handle: makes the handle of a forked process from its pid.
        spent: takes note of a generation that has completed its call.
        failed: reports a failure; its last argument says what happens now.
    """

    def __init__(self, run_folder: Path, journal: Journal, fork_handle: Callable[[int], Process],
                 spent: Callable[[Watched], None], failed: Callable[[Watched, Failure, str], None]) -> None:
        self._run_folder = run_folder
        self._journal = journal
        self._fork_handle = fork_handle
        self._spent = spent
        self._failed = failed

    def handle(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        """Take an event that a template or one of its forks sent."""
        kind = event["event"]
        if kind == "forked":
            self._forked(lane, template, event, now)
        elif kind == "exited":
            self._exited(lane, template, event, now)
        elif lane.snapshots is not None:
            self._snapshot_told(lane, template, event, now)

    def served(self, lane: LaneState, event: dict[str, Any]) -> None:
        """Take note that a generation has served its call."""
        generation = lane.generations.get(int(event.get("generation", -1)))
        if generation is None:
            return
        generation.calls += 1
        generation.served = event
        snapshots = lane.snapshots
        if snapshots is None or not event.get("persona"):
            return
        saved = int(event.get("kept", 0))
        snapshots.hits += saved > 0
        snapshots.misses += not saved
        snapshots.tokens_saved += saved
        if generation.snapshot in snapshots.living:
            snapshots.living[generation.snapshot].calls += 1
        if saved and generation.snapshot in snapshots.kept:
            snapshots.kept[generation.snapshot]["hits"] += 1

    def lose_all(self, lane: LaneState) -> list[int]:
        """A template's forks end with it; return the numbers of the generations that had begun to live."""
        lost = self._lose(lane, list(lane.generations.values()))
        if lane.snapshots is not None:
            for watched in lane.snapshots.living.values():
                self._forget(watched)
            lane.snapshots.living.clear()
            lane.snapshots.kept.clear()
        if lost:
            # More may have been forked and never heard of: one ahead, and a snapshot with its first generation.
            lane.next_generation += 3
        return lost

    def _forked(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        number = int(event["generation"])
        path = self._run_folder / f"{lane.stem}-{number}.watchdog"
        watched = Watched(f"{lane.stem}-{number}", template.lane, number, path, now, model=template.model,
                          pid=int(event["pid"]), process=self._fork_handle(int(event["pid"])), ready_at=now,
                          snapshot=int(event.get("snapshot", 0)))
        watched.heartbeat.observe(sentinel.touched(path), now)
        lane.generations[number] = watched
        lane.next_generation = max(lane.next_generation, number + 1)
        lane.generation = number
        lane.last_fork_seconds = float(event["seconds"])

    def _exited(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        number = int(event["generation"])
        code = int(event["code"])
        lane.next_generation = max(lane.next_generation, number + 1)
        if lane.snapshots is not None and number in lane.snapshots.living:
            self._snapshot_exited(lane, lane.snapshots.living.pop(number), template, code, now)
            return
        path = self._run_folder / f"{lane.stem}-{number}.watchdog"
        watched = lane.generations.pop(number, None)
        there = sentinel.read(path)
        if watched is None:  # it died before it was ready
            watched = Watched(f"{lane.stem}-{number}", template.lane, number, path, now, model=template.model,
                              pid=int(event.get("pid", 0)))
        verdict = policy.judge_exit(
            ready=watched.ready, sentinel=there is not None, served=watched.served is not None, changed=False,
            condemned=watched.condemned)
        if verdict == "spent":
            self._spent(watched)
        elif verdict != "ended":
            self._failed(watched, Failure(
                watched.name, verdict, watched.pid, number, code, now - watched.started, watched.calls,
                now - watched.heartbeat.seen if watched.ready else None, watched.reason, watched.model,
                there or {}, template.process.tail() if template.process else []), "")
        sentinel.Sentinel(path).remove()
        if watched.process is not None:
            watched.process.close()

    def _lose(self, lane: LaneState, gone: list[Watched]) -> list[int]:
        """Forget generations that ended with the process that forked them; return their numbers."""
        for watched in gone:
            self._forget(watched)
            del lane.generations[watched.generation]
        return sorted(watched.generation for watched in gone)

    def _forget(self, watched: Watched) -> None:
        sentinel.Sentinel(watched.sentinel).remove()
        if watched.process is not None:
            watched.process.close()

    # -- snapshots --------------------------------------------------------------------------------------------

    def _snapshot_told(self, lane: LaneState, template: Watched, event: dict[str, Any], now: float) -> None:
        kind = event["event"]
        number = int(event["generation"])
        snapshots = lane.snapshots
        assert snapshots is not None
        name = f"{lane.stem}-snapshot-{number}"
        if kind == "snapshot":
            path = self._run_folder / f"{name}.watchdog"
            pid = int(event["pid"])
            watched = snapshots.living[number] = Watched(
                name, template.lane, number, path, now, model=template.model, pid=pid, process=self._fork_handle(pid),
                ready_at=now)
            watched.heartbeat.observe(sentinel.touched(path), now)
        elif number in snapshots.living and kind == "kept":
            if number not in snapshots.kept:
                self._journal.event(f"{name} keeps a persona of {event['tokens']} tokens, "
                                    f"{event['memory'] / 1e6:.0f} MB")
            facts = snapshots.kept.setdefault(number, {"hits": 0})
            facts.update(tokens=int(event["tokens"]), memory_bytes=int(event["memory"]))
        elif number in snapshots.living:
            # The template has killed it.
            snapshots.living[number].condemned = "hung"
            snapshots.living[number].kill_at = now + _KILL_AGAIN
            snapshots.living[number].reason = str(event["reason"])

    def _snapshot_exited(self, lane: LaneState, watched: Watched, template: Watched, code: int, now: float) -> None:
        assert lane.snapshots is not None
        lane.snapshots.kept.pop(watched.generation, None)
        lost = self._lose(lane, [fork for fork in lane.generations.values() if fork.snapshot == watched.generation])
        there = sentinel.read(watched.sentinel)
        if watched.condemned is None and there is None:
            self._journal.event(f"{watched.name} leaves after {watched.calls} calls")
        else:
            self._failed(watched, Failure(
                watched.name, "hung" if watched.condemned else "crashed", watched.pid, watched.generation, code,
                now - watched.started, watched.calls, now - watched.heartbeat.seen, watched.reason, watched.model,
                there or {}, template.process.tail() if template.process else [], lost),
                "; its persona is evaluated for each call again")
        self._forget(watched)
