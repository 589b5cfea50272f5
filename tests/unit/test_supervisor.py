"""The supervisor's decisions, with a clock and processes of the test's own; only the sentinel files are real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mayfly.errors import ModelUnavailable
from mayfly.settings import Settings, parse
from mayfly.supervision.child import Handle
from mayfly.supervision.journal import Journal
from mayfly.supervision.lane import Lane
from mayfly.supervision.process import Position, Process
from mayfly.supervision.records import Records
from mayfly.supervision.reports import Reports
from mayfly.supervision.supervisor import Supervisor
from mayfly.wire import exits
from mayfly.wire.address import LaneAddress
from mayfly.wire.events import CannotLoad, Dismiss, Drains, Event, Exited, Forked, Keep, Ready, Served, Told, Want
from mayfly.wire.sentinel import Sentinel
from mayfly.wire.thread_table import Table


class PlayedProcess(Handle):
    """A process whose life the test decides."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.said: list[str] = []

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.said.append("terminate")

    def abort(self) -> None:
        self.said.append("abort")

    def kill(self) -> None:
        self.said.append("kill")

    def send(self, line: str) -> None:
        self.said.append(line)

    def tail(self) -> list[str]:
        return ["last words"]

    def close(self) -> None:
        self.said.append("close")


class PlayedSpawner:
    """Starts played processes; refuses while `refuses` is set."""

    def __init__(self) -> None:
        self.forked: list[PlayedProcess] = []
        self.started: list[tuple[Position, Process, PlayedProcess]] = []
        self.refuses = False

    def adopt(self, pid: int) -> PlayedProcess:
        self.forked.append(PlayedProcess(pid))
        return self.forked[-1]

    def start(self, position: Position, watched: Process, on_event: Callable[[Told], None]) -> PlayedProcess:
        if self.refuses:
            raise OSError(11, "Resource temporarily unavailable")
        process = PlayedProcess(1000 + len(self.started))
        self.started.append((position, watched, process))
        return process

    def latest(self, name: str) -> tuple[Process, PlayedProcess]:
        return next((watched, process) for position, watched, process in reversed(self.started)
                    if position.name == name)

    def count(self, name: str) -> int:
        return sum(1 for position, _, _ in self.started if position.name == name)


class PlayedSockets:
    """Opens lanes for models of so many bytes; calls wait where the test says."""

    def __init__(self, models: dict[str, int]) -> None:
        self.models = models
        self.waits: set[str] = set()
        self.versions: dict[str, int] = {}
        self.lanes: dict[str, Lane] = {}
        self.gone: dict[str, str] = {}
        self.isolation = "fork"
        self.opened: list[str] = []
        self.closed: list[str] = []

    def memory(self, model: str) -> int:
        if model not in self.models:
            raise ModelUnavailable(f"there is no {model}")
        return self.models[model]

    def open(self, name: str, model: str) -> Lane:
        memory = self.memory(model)
        self.opened.append(name)
        return Lane(name, model, self.isolation, stem=f"model{len(self.opened)}", memory=memory,
                    address=LaneAddress(name), model_file=Path("/absent.gguf"))

    def open_come(self, now: float) -> list[Lane]:
        come = [name for name in self.absent() if name not in self.gone]
        return [self.lanes.setdefault(name, Lane(name, "", "none")) for name in come]

    def absent(self) -> dict[str, dict[str, Any]]:
        return {name: {"state": "failing", "reason": self.gone.get(name, "")}
                for name in self.closed if ":" not in name and name not in self.lanes}

    def lost(self, lane: Lane) -> str:
        return self.gone.get(lane.name, "")

    def version(self, model: str) -> object:
        return self.versions.get(model)

    def close(self, name: str) -> None:
        self.closed.append(name)

    def waiting(self, name: str) -> bool:
        return name in self.waits


class Rig:
    """A supervisor with everything around it played."""

    def __init__(self, folder: Path, settings: Settings, models: dict[str, int] | None = None) -> None:
        (folder / "run").mkdir()
        (folder / "logs").mkdir()
        self.folder = folder
        self.spawner = PlayedSpawner()
        self.forked = self.spawner.forked
        self.now = 100.0
        self.table = Table.make()
        self.sockets = PlayedSockets(models or {})
        isolations = {"embedding": "none", "completion": settings.isolation}
        lanes = {name: Lane(name, f"{name}-model", isolation, model_file=folder / f"{name}.gguf")
                 for name, isolation in isolations.items()}
        self.supervisor = Supervisor(
            settings, lanes, spawner=self.spawner, run_folder=folder / "run", table=self.table, sockets=self.sockets,
            records=Records(Journal(folder / "logs"), Reports(folder / "logs", 50)))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.supervisor.tick(self.now)

    def send(self, watched: Process, event: Event, ago: float = 0.0) -> None:
        self.supervisor.handle(watched, Told(event, self.now - ago), self.now)

    def come_up(self, name: str) -> tuple[Process, PlayedProcess]:
        watched, process = self.spawner.latest(name)
        Sentinel(watched.sentinel).write({"pid": process.pid, "generation": watched.generation})
        self.send(watched, Ready(model=f"{name}-model", generation=watched.generation))
        return watched, process

    def fork(self, template: Process, number: int) -> Path:
        path = self.folder / "run" / f"completion-{number}.watchdog"
        Sentinel(path).write({"generation": number, "request": {"id": "req_1", "characters": 5}})
        self.send(template, Forked(generation=number, pid=5000 + number, seconds=0.003))
        return path

    def want(self, model: str) -> None:
        """Have the web process ask for a model, and the supervisor act."""
        self.send(self.spawner.latest("app")[0], Want(model=model))
        self.tick()

    def rest(self, seconds: float) -> None:
        """Let time pass in which every process beats."""
        for _ in range(int(seconds * 2)):
            for _, watched, process in self.spawner.started:
                if process.code is None and watched.ready:
                    Sentinel(watched.sentinel).write({"pid": process.pid})
            self.tick(0.5)

    def fail(self, name: str, reason: str = "the file is no model") -> float:
        """Have the latest process of a position say that it can't load its model, and start the next one; return how
        long that took."""
        watched, process = self.spawner.latest(name)
        self.send(watched, CannotLoad(reason=reason))
        process.code = exits.CANNOT_LOAD
        return self.restart(name)

    def restart(self, name: str) -> float:
        """Let time pass in which everybody else beats, until a position has its next process; return how much."""
        before, since = self.spawner.count(name), self.now
        while self.spawner.count(name) == before and name in {position.name for position in self._positions()}:
            for _, watched, process in self.spawner.started:
                if process.code is None and watched.ready:
                    Sentinel(watched.sentinel).write({"pid": process.pid})
            self.tick(0.05)
        return self.now - since

    def _positions(self) -> list[Position]:
        return [self.supervisor.app, *(each for lane in self.supervisor.lanes.values() for each in lane.positions)]

    def lanes(self) -> set[str]:
        """Return the lanes of models that are open, by the models' names."""
        return {name.removeprefix("model:") for name in self.supervisor.lanes if name.startswith("model:")}

    def board(self, lane: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "run" / "state.json").read_text())["lanes"][lane])

    def reports(self) -> list[Path]:
        return sorted((self.folder / "logs").glob("*_watchdog_error.log"))


def settings(**values: str) -> Settings:
    return parse({"ISOLATION": "fork", "CHAT_PROCESSES": "1", **values})


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path, settings())
    rig.tick()
    return rig


def test_every_position_is_filled_at_the_first_tick(rig: Rig) -> None:
    assert sorted(position.name for position, _, _ in rig.spawner.started) == ["app", "completion", "embedding"]
    assert rig.board("embedding")["state"] == "loading"


@pytest.mark.parametrize(
    ("lane", "engine", "code", "then"),
    [("embedding", "auto", -4, "gpt4all"), ("embedding", "auto", -9, "auto"), ("embedding", "auto", 1, "auto"),
     ("embedding", "openvino", -4, "openvino"), ("completion", "auto", -6, "gpt4all"),
     ("completion", "llamacpp", -6, "llamacpp")])
def test_only_auto_goes_on_with_gpt4all_after_a_death_in_native_code_at_the_start(
        rig: Rig, lane: str, engine: str, code: int, then: str) -> None:
    rig.supervisor.lanes[lane].wanted_engine = engine
    rig.spawner.latest(lane)[1].code = code
    rig.tick()
    rig.tick(30)
    assert rig.spawner.count(lane) == 2
    assert rig.supervisor.lanes[lane].wanted_engine == then


def test_spent_generation_is_counted_without_a_report(rig: Rig) -> None:
    template, _ = rig.come_up("completion")
    path = rig.fork(template, 1)
    rig.send(template, Served(generation=1, outcome="answered", seconds=1.2, tokens=48))
    path.unlink()
    rig.send(template, Exited(generation=1, pid=5001, code=0))
    rig.tick()
    assert rig.board("completion")["restarts"] == {"spent": 1, "crashed": 0, "hung": 0, "failed_start": 0}
    assert rig.reports() == []


def test_generation_that_exits_with_its_sentinel_is_a_crash_with_a_report(rig: Rig) -> None:
    template, _ = rig.come_up("completion")
    path = rig.fork(template, 7)
    rig.send(template, Exited(generation=7, pid=5007, code=-11))
    rig.tick()
    assert rig.board("completion")["restarts"]["crashed"] == 1
    failure = rig.board("completion")["last_failure"]
    assert (failure["generation"], failure["how"]) == (7, "killed by SIGSEGV")
    (report,) = rig.reports()
    text = report.read_text()
    assert report.name == failure["report"]
    assert "killed by SIGSEGV" in text
    assert "req_1 characters=5" in text
    assert "last words" in text
    assert not path.exists()
    assert rig.board("completion")["state"] == "ready"  # the template lives


def test_generation_that_stops_beating_is_aborted_then_killed(rig: Rig) -> None:
    template, _ = rig.come_up("completion")
    rig.fork(template, 1)
    rig.tick(59.0)
    assert rig.forked[0].said == []
    Sentinel(template.sentinel).write({})  # the template beats
    rig.tick(2.0)
    assert rig.forked[0].said == ["abort"]
    rig.tick(0.5)
    assert rig.forked[0].said == ["abort"]
    rig.tick(0.6)
    assert rig.forked[0].said == ["abort", "kill"]
    rig.send(template, Exited(generation=1, pid=5001, code=-9))
    rig.tick()
    assert rig.board("completion")["restarts"]["hung"] == 1
    assert "HANG_SECONDS" in rig.reports()[0].read_text()


def test_generation_that_is_done_before_its_first_event_is_read_is_not_taken_for_hung(rig: Rig) -> None:
    template, _ = rig.come_up("completion")
    rig.send(template, Forked(generation=1, pid=5001, seconds=0.003))  # its sentinel is gone already
    rig.tick(0.1)
    assert rig.forked[0].said == []
    rig.send(template, Served(generation=1, outcome="answered", seconds=0.01, tokens=1))
    rig.send(template, Exited(generation=1, pid=5001, code=0))
    rig.tick()
    assert rig.board("completion")["restarts"]["spent"] == 1
    assert rig.reports() == []


def test_process_that_never_comes_up_is_ended_and_the_lane_says_why(rig: Rig) -> None:
    for state in ("loading", "loading", "failing"):
        _, process = rig.spawner.latest("completion")
        rig.tick(301.0)
        assert process.said == ["abort"]
        process.code = -6
        rig.tick()
        assert rig.board("completion")["state"] == state
        assert "START_SECONDS" in rig.board("completion")["reason"]
        assert rig.board("embedding")["state"] == "loading"
        rig.restart("completion")


def test_a_lane_is_given_up_after_three_starts_in_a_row_that_failed_by_themselves(rig: Rig) -> None:
    rig.come_up("embedding")
    for state in ("loading", "loading", "failing", "failing"):
        rig.fail("completion")
        assert rig.board("completion")["state"] == state
    rig.come_up("completion")
    rig.tick()
    assert rig.board("completion")["state"] == "ready"
    assert "reason" not in rig.board("completion")
    # What failed before it came up is no part of the next row.
    rig.spawner.latest("completion")[1].code = -9
    rig.restart("completion")
    for state in ("restarting", "restarting", "failing"):
        rig.fail("completion")
        assert rig.board("completion")["state"] == state


def test_a_mended_file_ends_the_pause_after_failed_starts_once_it_rests_and_is_tried_as_if_none_had_failed(
        rig: Rig) -> None:
    file = rig.folder / "embedding.gguf"
    file.write_bytes(b"broken")
    rig.supervisor.lanes["embedding"].wanted_engine = "gpt4all"  # what auto has become since the first one died
    for _ in range(10):
        rig.fail("embedding")
    watched, process = rig.spawner.latest("embedding")
    rig.send(watched, CannotLoad(reason="the file is no model"))
    process.code = exits.CANNOT_LOAD
    rig.tick()
    tried = rig.spawner.count("embedding")
    for size in range(1, 20):  # it is being copied
        file.write_bytes(b"good" * size)
        rig.tick(0.25)
    assert rig.spawner.count("embedding") == tried
    assert rig.board("embedding")["state"] == "failing"
    assert rig.restart("embedding") < 1.5
    assert rig.supervisor.lanes["embedding"].wanted_engine == ""
    rig.tick()
    assert rig.board("embedding")["state"] == "loading" and "reason" not in rig.board("embedding")
    # Nor does the next pause begin where the last one ended.
    assert rig.fail("embedding") < 1


def test_a_start_that_was_killed_is_no_verdict_and_does_not_end_the_row(rig: Rig) -> None:
    rig.come_up("embedding")
    rig.fail("completion")
    for code in [-9, -15] * 5:
        rig.spawner.latest("completion")[1].code = code
        rig.restart("completion")
        assert rig.board("completion")["state"] == "loading"
    assert rig.board("completion")["restarts"] == {"spent": 0, "crashed": 10, "hung": 0, "failed_start": 1}
    assert "killed from outside while it loaded" in "".join(path.read_text() for path in rig.reports())
    rig.fail("completion")
    rig.fail("completion")
    assert rig.board("completion")["state"] == "failing"


def test_starts_that_were_killed_back_off_as_crashes_do_while_somebody_waits(rig: Rig) -> None:
    rig.come_up("embedding")
    rig.sockets.waits = {"completion"}
    pauses = []
    for _ in range(8):
        rig.spawner.latest("completion")[1].code = -9
        pauses.append(rig.restart("completion"))
    assert pauses[0] < 0.2 and max(pauses) == pytest.approx(2.0, abs=0.1)
    rig.sockets.waits = set()
    rig.spawner.latest("completion")[1].code = -9
    assert rig.restart("completion") > 10


def test_a_template_whose_generations_die_by_themselves_before_they_are_ready_is_given_up(rig: Rig) -> None:
    template, _ = rig.come_up("completion")
    for number, state in ((1, "ready"), (2, "ready"), (3, "failing"), (4, "failing")):
        rig.send(template, Exited(generation=number, pid=5000 + number, code=1))
        rig.tick()
        assert rig.board("completion")["state"] == state
    assert "exit code 1" in rig.board("completion")["reason"]
    rig.fork(template, 5)
    rig.tick()
    assert rig.board("completion")["state"] == "ready"
    for number in range(6, 12):
        rig.send(template, Exited(generation=number, pid=5000 + number, code=-9))
    rig.tick()
    assert rig.board("completion")["state"] == "ready"
    assert rig.board("completion")["restarts"] == {"spent": 0, "crashed": 6, "hung": 0, "failed_start": 4}


def test_the_same_death_again_and_again_is_one_report_that_counts(rig: Rig) -> None:
    rig.come_up("embedding")
    for _ in range(5):
        rig.fail("completion", reason=f"the file is no model (after {rig.now:.3f} s)")
    (report,) = rig.reports()
    assert "times:           5, since" in report.read_text()
    assert rig.board("completion")["last_failure"]["report"] == report.name
    assert rig.board("completion")["restarts"]["failed_start"] == 5
    rig.fail("completion", reason="there is no memory")
    assert len(rig.reports()) == 2
    # One that served says something of its own each time.
    for number in range(3):
        watched, process = rig.come_up("embedding")
        Sentinel(watched.sentinel).write({"request": {"id": f"req_{number}"}})
        process.code = -11
        rig.restart("embedding")
    assert len(rig.reports()) == 5


def test_worker_that_cannot_load_is_retried_with_growing_delays_and_others_go_on(rig: Rig) -> None:
    rig.come_up("embedding")
    gaps = []
    for _ in range(5):
        watched, process = rig.spawner.latest("completion")
        rig.send(watched, CannotLoad(reason="the file is no model"))
        process.code = exits.CANNOT_LOAD
        before, started = rig.spawner.count("completion"), rig.now
        rig.tick()
        while rig.spawner.count("completion") == before:
            Sentinel(rig.spawner.latest("embedding")[0].sentinel).write({})
            rig.tick(0.05)
        gaps.append(round(rig.now - started, 2))
    assert gaps == sorted(gaps)
    assert gaps[-1] > 8 * gaps[0] > 0
    assert rig.board("completion")["state"] == "failing"
    assert rig.board("completion")["reason"] == "the file is no model"
    assert rig.board("embedding")["state"] == "ready"
    assert rig.spawner.count("embedding") == 1


def test_model_file_that_was_replaced_restarts_the_worker_at_once_without_a_report(rig: Rig) -> None:
    watched, process = rig.come_up("embedding")
    watched.sentinel.unlink()
    process.code = exits.MODEL_CHANGED
    rig.tick()
    rig.tick()
    assert rig.spawner.count("embedding") == 2
    assert rig.reports() == []
    assert rig.board("embedding")["restarts"]["crashed"] == 0


@pytest.mark.parametrize("code", [exits.MODEL_CHANGED, exits.CANNOT_LOAD, -7], ids=["in time", "as it loads", "died"])
def test_a_configured_model_whose_file_is_gone_has_no_process_until_the_file_is_there_again(
        rig: Rig, code: int) -> None:
    _, process = rig.spawner.latest("embedding") if code == exits.CANNOT_LOAD else rig.come_up("embedding")
    rig.sockets.gone["embedding"] = "it was removed"
    process.code = code
    rig.rest(10)
    assert rig.spawner.count("embedding") == 1
    assert rig.board("embedding") == {"state": "failing", "reason": "it was removed"}
    assert len(rig.reports()) == (code < 0)
    rig.sockets.gone.clear()
    assert rig.restart("embedding") < 1


def test_a_file_that_replaces_one_that_worked_is_tried_as_if_none_had_failed(rig: Rig) -> None:
    for _ in range(10):
        rig.fail("embedding")
    rig.come_up("embedding")
    _, process = rig.spawner.latest("embedding")
    process.code = exits.MODEL_CHANGED
    rig.restart("embedding")
    rig.tick()
    assert rig.fail("embedding") < 1


def test_template_that_dies_takes_its_generations_into_its_report(rig: Rig) -> None:
    template, process = rig.come_up("completion")
    rig.fork(template, 1)
    rig.fork(template, 2)
    rig.table[1] = 2
    process.code = -9
    rig.tick()
    assert rig.board("completion")["last_failure"]["lost"] == [1, 2]
    assert rig.board("completion")["restarts"]["crashed"] == 1
    assert len(rig.reports()) == 1
    assert list((rig.folder / "run").glob("completion-*.watchdog")) == []
    assert rig.table[1] == 0  # its threads are given back
    rig.tick(0.2)
    assert rig.spawner.latest("completion")[0].generation > 2  # no number is used twice


def test_app_that_dies_is_started_again(rig: Rig) -> None:
    watched, process = rig.spawner.latest("app")
    Sentinel(watched.sentinel).write({})
    rig.tick()
    process.code = -9
    rig.tick()
    rig.tick(0.11)
    assert rig.spawner.count("app") == 2
    assert "killed by SIGKILL" in rig.reports()[0].read_text()


def test_system_that_refuses_processes_is_asked_again_later(rig: Rig) -> None:
    _, process = rig.come_up("embedding")
    rig.spawner.refuses = True
    process.code = 1
    for _ in range(5):
        rig.tick(0.2)
    assert rig.spawner.count("embedding") == 1
    rig.spawner.refuses = False
    rig.tick(30.0)
    assert rig.spawner.count("embedding") == 2


def test_respawn_gives_each_turn_to_one_loaded_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings(ISOLATION="respawn"))
    rig.tick()
    chats = [(watched, process) for position, watched, process in rig.spawner.started if position.name == "completion"]
    assert len(chats) == 2  # one serves, one stands by
    for watched, process in chats:
        Sentinel(watched.sentinel).write({"pid": process.pid})
        rig.send(watched, Ready(model="completion-model", generation=watched.generation))
    rig.tick()
    assert [process.said for _, process in chats] == [["go"], []]
    first, serving = chats[0]
    rig.send(first, Served(generation=first.generation, outcome="answered", seconds=0.5, tokens=9))
    first.sentinel.unlink()
    serving.code = 0
    rig.tick()
    assert chats[1][1].said == ["go"]
    rig.tick()
    assert rig.spawner.count("completion") == 3
    assert rig.board("completion")["restarts"]["spent"] == 1


# -- models that are asked for --------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Rig:
    """A supervisor that may load two models of some size besides the configured ones, all of them 250 MB."""
    models = {"a": 100 << 20, "b": 100 << 20, "c": 100 << 20, "large": 200 << 20, "huge": 300 << 20}
    rig = Rig(tmp_path, settings(MAX_MODELS="2", MEMORY_LIMIT="250MB"), models)
    rig.tick()
    return rig


def test_a_model_that_is_asked_for_gets_a_lane_and_its_address_is_on_the_board(many: Rig) -> None:
    many.want("a")
    assert many.board("model:a")["address"]["path"] == "model:a"
    assert many.board("model:a")["state"] == "loading"
    many.tick()
    many.come_up("model1")
    many.tick()
    assert many.board("model:a")["state"] == "ready"
    many.want("a")
    assert many.sockets.opened == ["model:a"]


def test_the_least_recently_used_model_leaves_for_the_next(many: Rig) -> None:
    for name in ("a", "b"):
        many.want(name)
        many.rest(3)
    for stem in ("model1", "model2"):
        many.come_up(stem)
    first, process = many.spawner.latest("model1")
    second, other = many.spawner.latest("model2")
    many.send(first, Served(generation=1, outcome="answered", seconds=0.1, tokens=1))
    many.want("c")
    assert many.lanes() == {"a"}
    assert many.sockets.closed == ["model:b"]
    assert (process.said, other.said) == ([], ["terminate"])
    many.tick()
    assert many.lanes() == {"a"}  # its process is there still, and so is its memory
    assert many.board("model:c")["state"] == "waiting"
    other.code = -15
    many.tick()
    assert many.lanes() == {"a", "c"}
    assert not second.sentinel.exists()
    assert many.reports() == []


@pytest.mark.parametrize("kept", ["on the way", "before it was sent"])
def test_the_least_recently_used_model_is_told_by_when_it_was_used_and_not_by_when_that_was_heard(
        many: Rig, kept: str) -> None:
    for name in ("a", "b"):
        many.want(name)
        many.rest(3)
    for stem in ("model1", "model2"):
        many.come_up(stem)
    for stem, ago in (("model1", 0.1), ("model2", 0.2)):
        when = many.now - ago if kept == "before it was sent" else 0.0
        many.send(many.spawner.latest(stem)[0], Served(1, "answered", 0.1, 1, when=when), 0.0 if when else ago)
    many.want("c")
    assert many.lanes() == {"a"}


def test_a_model_that_is_dismissed_leaves_unless_it_is_in_use_or_configured(many: Rig) -> None:
    web = many.spawner.latest("app")[0]
    for name in ("a", "b"):
        many.want(name)
    many.come_up("model1")
    many.rest(3)
    many.table[many.supervisor.lanes["model:a"].places[0]] = 1
    for name in ("a", "b", "completion-model", "absent"):
        many.send(web, Dismiss(name))
    many.tick()
    assert many.lanes() == {"a"} and {"embedding", "completion"} <= set(many.supervisor.lanes)
    many.table[many.supervisor.lanes["model:a"].places[0]] = 0
    many.rest(3)
    assert many.lanes() == {"a"}  # what was said while it was in use is over
    many.send(web, Dismiss("a"))
    many.tick()
    assert many.lanes() == set()


def test_a_model_leaves_once_it_has_been_idle_for_as_long_as_it_is_kept(many: Rig) -> None:
    web = many.spawner.latest("app")[0]
    many.want("a")
    many.tick()
    many.come_up("model1")
    many.rest(3)
    for name in ("a", "completion-model", "absent"):
        many.send(web, Keep(name, 10.0))
    many.rest(6)
    assert many.lanes() == {"a"}
    many.send(many.spawner.latest("model1")[0], Served(1, "answered", 0.1, 1))
    many.rest(9)
    assert many.lanes() == {"a"}  # it was used meanwhile
    many.table[many.supervisor.lanes["model:a"].places[0]] = 1
    many.rest(3)
    assert many.lanes() == {"a"}
    many.table[many.supervisor.lanes["model:a"].places[0]] = 0
    many.tick()
    assert many.lanes() == set() and {"embedding", "completion"} <= set(many.supervisor.lanes)


def test_a_model_whose_file_is_gone_leaves_at_once_whoever_waits_and_its_end_is_no_failure(many: Rig) -> None:
    many.sockets.versions["a"] = 1
    many.want("a")
    many.tick()
    _, process = many.come_up("model1")
    many.sockets.gone["model:a"] = "it was removed"
    many.sockets.waits = {"model:a"}
    process.code = exits.MODEL_CHANGED
    many.tick()
    assert many.lanes() == set() and many.spawner.count("model1") == 1
    assert many.reports() == []
    many.tick()
    many.sockets.gone.clear()
    many.want("a")  # the same file, put back
    assert many.lanes() == {"a"}


def test_a_model_whose_file_is_gone_stays_while_another_of_its_processes_answers(many: Rig) -> None:
    many.sockets.isolation = "respawn"
    many.want("a")
    many.tick()
    (first, _, process), (_, _, other) = many.spawner.started[-2:]
    answering = many.supervisor.lanes["model:a"].positions[1].places[0]
    many.table[answering] = 1
    many.sockets.gone["model:a"] = "it was removed"
    process.code = exits.MODEL_CHANGED
    many.rest(1)
    assert many.lanes() == {"a"} and other.said == [] and first.process is None
    many.table[answering] = 0
    many.tick()
    assert many.lanes() == set() and other.said == ["terminate"]


def test_a_model_in_use_never_leaves_and_who_asks_waits(many: Rig) -> None:
    for name in ("a", "b"):
        many.want(name)
    many.rest(3)
    many.table[many.supervisor.lanes["model:a"].places[0]] = 1
    many.sockets.waits = {"model:b"}
    many.want("c")
    assert many.lanes() == {"a", "b"}
    assert "in use" in many.board("model:c")["reason"]
    many.rest(3)
    many.want("c")
    many.sockets.waits = set()
    many.tick()
    assert many.lanes() == {"a"}


def test_a_model_that_was_just_asked_for_does_not_leave_before_its_call_arrives(many: Rig) -> None:
    for name in ("a", "b", "c"):
        many.want(name)
    assert many.lanes() == {"a", "b"}
    many.rest(1)
    assert many.lanes() == {"a", "b"}
    many.rest(2)
    assert many.lanes() == {"b"}


def test_a_wish_that_is_not_renewed_is_forgotten(many: Rig) -> None:
    many.sockets.waits = {"model:a", "model:b"}
    for name in ("a", "b", "c"):
        many.want(name)
    many.rest(6)
    many.sockets.waits = set()
    many.rest(3)
    assert many.lanes() == {"a", "b"}
    with pytest.raises(KeyError):
        many.board("model:c")


def test_as_many_models_leave_as_the_memory_limit_asks_and_none_in_vain(many: Rig) -> None:
    for name in ("a", "b"):
        many.want(name)
        many.rest(3)
    many.sockets.waits = {"model:b"}
    many.want("large")
    assert many.lanes() == {"a", "b"}  # without a there would still be no room for it
    many.sockets.waits = set()
    many.tick()
    assert many.lanes() == set()
    for stem in ("model1", "model2"):
        many.spawner.latest(stem)[1].code = -15
    many.tick()
    assert many.lanes() == {"large"}


def test_a_model_that_can_never_fit_is_refused_with_the_numbers(many: Rig) -> None:
    many.want("huge")
    assert many.board("model:huge")["state"] == "failing"
    assert "300 MB" in many.board("model:huge")["reason"] and "250 MB" in many.board("model:huge")["reason"]


def test_a_model_that_is_gone_is_refused_with_the_reason(many: Rig) -> None:
    many.want("absent")
    assert many.board("model:absent") == {"state": "failing", "reason": "there is no absent", "model": "absent"}


def test_without_max_models_the_configured_ones_are_served_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings(MAX_MODELS="0"), {"a": 1})
    rig.tick()
    rig.want("a")
    assert rig.lanes() == set()
    assert "MAX_MODELS" in rig.board("model:a")["reason"]


def test_a_model_whose_process_cannot_start_is_given_up_after_a_minute_whoever_asks(many: Rig) -> None:
    many.want("a")
    many.tick()
    many.sockets.waits = {"model:a"}  # those who have left are in its socket for ever
    since = many.now
    while "a" in many.lanes():
        assert many.now < since + 100
        assert many.board("model:a").get("reason", "the file is no model") == "the file is no model"
        many.fail("model1")
        if "a" in many.lanes():
            many.want("a")
    assert many.now > since + 60
    # Who asks again has it tried again.
    many.want("a")
    many.tick()
    assert many.lanes() == {"a"}
    assert many.board("model:a")["state"] == "loading"


def test_a_model_that_is_failing_leaves_at_once_for_another_and_is_remembered(many: Rig) -> None:
    many.want("a")
    many.want("b")
    for _ in range(3):
        many.fail("model1")
    assert many.board("model:a")["state"] == "failing"
    report = many.board("model:a")["last_failure"]["report"]
    many.sockets.waits = {"model:a", "model:b"}
    many.want("c")
    assert "a" not in many.lanes()
    many.spawner.latest("model1")[1].code = -15
    many.tick()
    assert many.lanes() == {"b", "c"}
    # It drives nobody out again, and its callers are told at once.
    many.sockets.waits = set()
    for _ in range(5):
        many.want("a")
        assert many.lanes() == {"b", "c"}
        assert many.board("model:a")["state"] == "failing"
        assert many.board("model:a")["reason"] == "the file is no model"
        assert many.board("model:a")["last_failure"]["report"] == report
        many.rest(3)
    # After a minute it may be tried again, and another file at once.
    many.sockets.versions["a"] = 2
    many.rest(6)
    many.want("a")
    many.tick()
    assert many.board("model:a")["state"] != "failing"


def test_a_model_that_is_killed_whenever_it_loads_leaves_at_once_for_another(many: Rig) -> None:
    many.want("a")
    many.want("b")
    many.sockets.waits = {"model:a", "model:b"}
    many.want("c")
    assert many.lanes() == {"a", "b"}
    many.spawner.latest("model1")[1].code = -9
    many.rest(1)
    many.spawner.latest("model1")[1].code = -9
    many.tick()
    many.tick()
    assert many.lanes() == {"b", "c"}
    # Nobody holds it for damaged: whoever waits for it has it opened again.
    many.sockets.waits = set()
    many.rest(3)
    many.want("a")
    many.tick()
    assert many.board("model:a")["state"] == "waiting"


def test_a_model_that_is_killed_whenever_it_loads_leaves_when_nobody_asks_any_more(many: Rig) -> None:
    many.want("a")
    many.tick()
    many.sockets.waits = {"model:a"}
    for _ in range(40):
        many.spawner.latest("model1")[1].code = -9
        many.rest(2)
    assert many.lanes() == set()


def test_what_was_refused_is_looked_at_again_however_often_it_is_asked_for(many: Rig) -> None:
    for _ in range(4):
        many.want("late")
        assert many.board("model:late")["state"] == "failing"
        many.rest(2)
    many.sockets.models["late"] = 1 << 20
    for _ in range(4):
        many.want("late")
        many.rest(2)
    assert many.lanes() == {"late"}


def test_what_was_refused_is_tried_as_soon_as_there_is_another_file(many: Rig) -> None:
    many.want("late")
    many.rest(1.5)
    assert many.board("model:late")["state"] == "failing"
    many.sockets.models["late"], many.sockets.versions["late"] = 1 << 20, 1
    many.rest(1.5)
    many.want("late")
    assert many.lanes() == {"late"}


def test_what_a_dismissed_process_still_says_is_about_nothing(many: Rig) -> None:
    for name in ("a", "b"):
        many.want(name)
        many.rest(3)
    template, process = many.come_up("model1")
    many.want("c")
    many.send(template, Forked(generation=9, pid=5009, seconds=0.003))
    many.send(template, Exited(generation=9, pid=5009, code=-9))
    many.tick(1.1)
    assert process.said == ["terminate", "kill"]  # it didn't end when it was asked
    process.code = -9
    many.tick()
    many.want("a")
    assert many.reports() == []


def test_places_in_the_thread_budget_are_emptied_and_used_again(many: Rig) -> None:
    seen = []
    for name in ("a", "b", "c", "a", "b", "c"):
        many.want(name)
        many.rest(3)
        taken = {place for lane in many.supervisor.lanes.values() for place in lane.places}
        for _, watched, process in many.spawner.started:
            if watched.dismissed and process.code is None:
                (place,) = {2, 3} - taken
                many.table[place] = 1  # it began to compute in the very moment
                process.code = -15
        many.tick()
        many.tick()
        seen.append(many.supervisor.lanes[f"model:{name}"].places)
    assert set(seen) == {(2,), (3,)}
    assert many.table.busy() == []


def test_a_stop_is_told_to_a_web_process_that_listens_to_it_and_waits_for_its_end(rig: Rig) -> None:
    rig.tick()
    _, process = rig.spawner.latest("app")
    assert not rig.supervisor.drain(rig.now)
    assert process.said == []  # it is loading, and the signal would just end it
    rig.come_up("app")
    for _ in range(3):
        assert not rig.supervisor.drain(rig.now)
    assert process.said == ["terminate"]
    process.code = 0
    assert rig.supervisor.drain(rig.now)
    assert rig.reports() == []
    assert rig.spawner.count("app") == 1


def test_a_web_process_that_dies_before_it_drains_is_replaced_and_told_again(rig: Rig) -> None:
    rig.tick()
    rig.come_up("app")
    rig.supervisor.drain(rig.now)
    rig.spawner.latest("app")[1].code = -9
    for _ in range(20):
        rig.now += 0.1
        assert not rig.supervisor.drain(rig.now)
    assert rig.spawner.count("app") == 2
    assert len(rig.reports()) == 1
    watched, process = rig.come_up("app")
    assert not rig.supervisor.drain(rig.now)
    assert process.said == ["terminate"]
    rig.send(watched, Drains())
    assert rig.supervisor.drains
    process.code = -9
    assert rig.supervisor.drain(rig.now)  # the listening sockets were its alone
    assert rig.spawner.count("app") == 2
