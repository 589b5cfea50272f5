"""What the watchdog hands the processes that it starts.

A process's three standard streams are its whole connection to the watchdog: one JSON line on stdin says what to be,
JSON lines on stdout say what happens (`mayfly.wire.events`), stderr is for people and failure reports.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, TypeVar, cast

from mayfly.settings import Settings
from mayfly.wire.address import LaneAddress
from mayfly.wire.codec import from_wire

_Spec = TypeVar("_Spec")

Role = Literal["serve", "once", "template"]
Kind = Literal["embedding", "completion", "vocabulary"]


@dataclass(frozen=True)
class Spec:
    """What a worker is to be.

    Attributes:
        lane: the lane's name in the names of files.
        kind: of the model; or "vocabulary" for the worker that counts tokens of any model.
        model: the model's public name.
        role: serve every call; serve one call and exit; or fork a generation for each call.
        settings: without keys.
        model_file: the model.
        listen_fd: the lane's listening socket, inherited.
        address: the lane's address, for the token check where a lane is a TCP port.
        run_folder: where sentinels are.
        budget: the handle of the thread budget's table.
        places: this worker's place in it; a template has one for each generation that may serve at a time.
        generation: number of this process, or of a template's first generation.
        parent: the watchdog's pid.
    """

    lane: str
    kind: Kind
    model: str
    role: Role
    settings: Settings
    model_file: Path
    listen_fd: int
    address: LaneAddress
    run_folder: Path
    budget: int | str
    places: tuple[int, ...]
    generation: int
    parent: int

    def sentinel(self, generation: int | None = None) -> Path:
        """Return the sentinel's path: of this process, or of a generation."""
        name = self.lane if generation is None else f"{self.lane}-{generation}"
        return self.run_folder / f"{name}.watchdog"

    def templates(self) -> tuple[str, str]:
        """Return PROMPT_TEMPLATE and SYSTEM_TEMPLATE, which are for the model of MODEL_NAME, or ""."""
        if self.lane != "completion":
            return "", ""
        return self.settings.prompt_template, self.settings.system_template


@dataclass(frozen=True)
class LaneSpec:
    """What the web process is told of a lane.

    Attributes:
        address: None where there is no model, and `missing` says so, or where it is served elsewhere.
        model: the model's id; "" if none is configured. One whose file isn't there is served as soon as it comes.
        served_at_once: calls that the lane serves at the same time.
    """

    address: LaneAddress | None
    missing: str = ""
    model: str = ""
    served_at_once: int = 1


@dataclass(frozen=True)
class WebSpec:
    """What the web process is to be.

    Attributes:
        settings: with keys.
        listen_fds: the public listening sockets, inherited.
        sentinel, board: paths.
        completions_at_once: that a lane of any model serves.
        lanes: of the configured models, by name.
    """

    settings: Settings
    listen_fds: tuple[int, ...]
    sentinel: Path
    generation: int
    parent: int
    board: Path
    completions_at_once: int
    lanes: dict[str, LaneSpec]


def read_spec(stdin: TextIO, kind: type[_Spec]) -> _Spec:
    """Read the line that says what to be.

    Raises:
        ValueError: there is none.
    """
    return cast(_Spec, from_wire(json.loads(stdin.readline()), kind))


def configured(settings: Settings) -> list[tuple[Kind, str, str]]:
    """Return the lanes that are always there: the kind, which is the lane's name too, the model's name or "", and the
    setting that holds it."""
    return [("embedding", settings.embed_model, "EMBED_MODEL"), ("completion", settings.model_name, "MODEL_NAME")]
