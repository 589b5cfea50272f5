"""What the processes of the service are told when they are started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mayfly.settings import parse
from mayfly.supervision import spawner
from mayfly.supervision.lane import Lane
from mayfly.supervision.process import Position, Process
from mayfly.wire.address import LaneAddress
from mayfly.wire.codec import from_wire, plain
from mayfly.wire.spec import LaneSpec, Spec, WebSpec


class _Told:
    """Takes the place of a child process, and keeps what it is told."""

    def __init__(self, argv: list[str], *, spec: Spec | WebSpec, **_: Any) -> None:
        self.spec = spec


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what starts the process of a position and returns what that is told, once it has travelled."""
    monkeypatch.setattr(spawner, "Child", _Told)
    settings = parse({"API_KEYS": "a-key-of-some-length", "EMBED_ENGINE": "auto"})
    lanes = {"embedding": LaneSpec(LaneAddress("/run/embed.sock"), model="m", served_at_once=32),
             "completion": LaneSpec(None, "MODEL_NAME is none")}
    spawns = spawner.ProcessSpawner(settings, public=[], lanes=lanes, run_folder=tmp_path, budget=7)

    def start(position: Position) -> Any:
        process = Process(position.name, position.lane, 3, tmp_path / "x.watchdog", 0.0)
        told: Any = spawns.start(position, process, lambda told: None)
        return from_wire(json.loads(json.dumps(told.spec, default=plain)), type(told.spec))

    return start


def test_the_web_process_is_told_of_the_lanes_and_handed_the_keys(start: Any) -> None:
    spec = start(Position("app", None, "app"))
    assert spec.settings.api_keys == ("a-key-of-some-length",)
    assert spec.lanes["embedding"] == LaneSpec(LaneAddress("/run/embed.sock"), "", "m", 32)
    assert spec.lanes["completion"] == LaneSpec(None, "MODEL_NAME is none")
    assert (spec.generation, spec.parent) == (3, os.getpid())


def test_a_worker_is_handed_no_key_and_the_engine_that_its_lane_has_come_to(start: Any) -> None:
    lane = Lane("embedding", "m", "none", kind="embedding", model_file=Path("/models/m.gguf"), wanted_engine="gpt4all")
    with lane.listener:
        spec = start(Position("embedding", lane, "serve", (4, 5)))
    assert spec.settings.api_keys == ()
    assert spec.settings.embed_engine == "gpt4all"
    assert (spec.model_file, spec.places, spec.role) == (Path("/models/m.gguf"), (4, 5), "serve")
