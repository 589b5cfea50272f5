"""A process and what it said last arrive by two ways; the watchdog judges its exit by both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mayfly.settings import Settings, parse
from mayfly.supervision.journal import Journal
from mayfly.supervision.reports import Reports
from mayfly.supervision.supervisor import Supervisor
from mayfly.supervision.watched import LaneState, Position, Watched
from mayfly.wire import exits, sentinel
from mayfly.wire.thread_table import Table


class _Scene:
    """A supervisor of the chat lane alone, whose processes do what the test says. Its clock is `now`."""

    def __init__(self, folder: Path, isolation: str) -> None:
        self.now = 100.0
        self.unheard: list[tuple[Watched, dict[str, Any]]] = []
        self.started: list[tuple[Watched, _Process]] = []
        self.lane = LaneState("chat", "model.gguf", isolation)
        self.journal = Journal(folder / "logs")
        settings: Settings = parse({"ISOLATION": isolation})
        self.supervisor = Supervisor(
            settings, {"chat": self.lane}, spawner=self, journal=self.journal, reports=Reports(folder / "logs", 9),
            run_folder=folder, table=Table.make(), now=self.now, fork_handle=lambda pid: _Process(),
            catch_up=self._catch_up)
        (folder / "logs").mkdir()

    def start(self, position: Position, watched: Watched) -> _Process:
        """See Spawner."""
        process = _Process()
        self.started.append((watched, process))
        return process

    def tick(self) -> None:
        """Look a little later."""
        self.now += 0.1
        self.supervisor.tick(self.now)

    def worker(self) -> tuple[Watched, _Process]:
        """Start the lane's (first) process; return it, ready."""
        self.tick()
        watched, process = next(entry for entry in self.started if entry[0].lane == "chat")
        sentinel.Sentinel(watched.sentinel).write({"pid": process.pid})
        self.tick()
        assert watched.ready
        return watched, process

    def _catch_up(self) -> None:
        while self.unheard:
            self.supervisor.handle(*self.unheard.pop(0), self.now)


class _Process:
    """A process that runs until it is given a code."""

    pid = 4711

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        """See Process."""
        return self.code

    def tail(self) -> list[str]:
        """See Process."""
        return []

    def tell(self, line: str) -> None:
        """See Process."""

    terminate = abort = kill = close = lambda self: None


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> _Scene:
    """A scene in the isolation that the test names."""
    return _Scene(tmp_path, request.param)


@pytest.mark.parametrize("scene", ["respawn"], indirect=True)
def test_a_served_call_that_is_heard_of_at_the_exit_counts_as_spent(scene: _Scene) -> None:
    watched, process = scene.worker()
    sentinel.Sentinel(watched.sentinel).remove()
    scene.unheard.append((watched, {"event": "served", "generation": watched.generation, "seconds": 0.1, "tokens": 8}))
    process.code = exits.DONE
    scene.tick()
    assert scene.lane.restarts == {"spent": 1, "crashed": 0, "hung": 0, "failed_start": 0}


@pytest.mark.parametrize("scene", ["fork"], indirect=True)
def test_a_generation_that_ended_just_before_its_template_is_not_taken_for_a_failed_start(scene: _Scene) -> None:
    template, process = scene.worker()
    say: Callable[..., None] = lambda **event: scene.unheard.append((template, event))  # noqa: E731
    scene.supervisor.handle(template, {"event": "forked", "generation": 2, "pid": 4712, "seconds": 0.003}, scene.now)
    say(event="served", generation=2, seconds=0.1, tokens=8)
    say(event="exited", generation=2, pid=4712, code=exits.DONE)
    process.code = -9
    scene.tick()
    assert scene.lane.restarts == {"spent": 1, "crashed": 1, "hung": 0, "failed_start": 0}
    assert scene.lane.failing == ""
    assert scene.lane.last_failure is not None
    assert scene.lane.last_failure["lost"] == []
