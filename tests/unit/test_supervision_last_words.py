"""A process and what it said last arrive by two ways; the watchdog judges its exit by both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mayfly.settings import Settings, parse
from mayfly.supervision.child import Handle
from mayfly.supervision.journal import Journal
from mayfly.supervision.lane import Lane
from mayfly.supervision.process import Position, Process
from mayfly.supervision.records import Records
from mayfly.supervision.reports import Reports
from mayfly.supervision.supervisor import Supervisor
from mayfly.wire import exits, sentinel
from mayfly.wire.events import Event, Exited, Forked, Served, Told
from mayfly.wire.thread_table import Table


class _Scene:
    """A supervisor of the chat lane alone, whose processes do what the test says. Its clock is `now`."""

    def __init__(self, folder: Path, isolation: str) -> None:
        self.now = 100.0
        self.started: list[tuple[Process, _Handle, Callable[[Told], None]]] = []
        self.lane = Lane("completion", "model.gguf", isolation)
        settings: Settings = parse({"ISOLATION": isolation, "MODEL_PATH": str(folder)})
        self.supervisor = Supervisor(
            settings, {"completion": self.lane}, spawner=self, run_folder=folder, table=Table.make(),
            records=Records(Journal(folder / "logs"), Reports(folder / "logs", 9)), sockets=self)
        (folder / "logs").mkdir()

    def start(self, position: Position, process: Process, on_event: Callable[[Told], None]) -> _Handle:
        """See Spawner."""
        handle = _Handle()
        self.started.append((process, handle, on_event))
        return handle

    def adopt(self, pid: int) -> _Handle:
        """See Spawner."""
        return _Handle()

    def waiting(self, name: str) -> bool:
        """See Sockets."""
        return False

    def lost(self, lane: Lane) -> str:
        """See Sockets."""
        return ""

    def absent(self) -> dict[str, dict[str, Any]]:
        """See Sockets."""
        return {}

    def open_come(self, now: float) -> list[Lane]:
        """See Sockets."""
        return []

    def tick(self) -> None:
        """Look a little later."""
        self.now += 0.1
        self.supervisor.tick(self.now)

    def worker(self) -> tuple[Process, _Handle, Callable[[Event], None]]:
        """Start the lane's (first) process; return it, ready, and what sends an event in its name that nobody has read
        before its exit is seen."""
        self.tick()
        process, handle, on_event = next(entry for entry in self.started if entry[0].lane is self.lane)
        sentinel.Sentinel(process.sentinel).write({"pid": handle.pid})
        self.tick()
        assert process.ready
        return process, handle, lambda event: on_event(Told(event, self.now))


class _Handle(Handle):
    """A process that runs until it is given a code."""

    pid = 4711

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        """See Handle."""
        return self.code


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> _Scene:
    """A scene in the isolation that the test names."""
    return _Scene(tmp_path, request.param)


@pytest.mark.parametrize("scene", ["respawn"], indirect=True)
def test_a_served_call_that_is_heard_of_at_the_exit_counts_as_spent(scene: _Scene) -> None:
    process, handle, send = scene.worker()
    sentinel.Sentinel(process.sentinel).remove()
    send(Served(process.generation, "answered", 0.1, 8))
    handle.code = exits.DONE
    scene.tick()
    assert scene.lane.restarts == {"spent": 1, "crashed": 0, "hung": 0, "failed_start": 0}


@pytest.mark.parametrize("scene", ["fork"], indirect=True)
def test_a_generation_that_ended_just_before_its_template_is_not_taken_for_a_failed_start(scene: _Scene) -> None:
    template, handle, send = scene.worker()
    scene.supervisor.handle(template, Told(Forked(2, 4712, 0.003), scene.now), scene.now)
    send(Served(2, "answered", 0.1, 8))
    send(Exited(2, 4712, exits.DONE))
    handle.code = -9
    scene.tick()
    assert scene.lane.restarts == {"spent": 1, "crashed": 1, "hung": 0, "failed_start": 0}
    assert scene.lane.starts.failing == ""
    assert scene.lane.last_failure is not None
    assert scene.lane.last_failure["lost"] == []
