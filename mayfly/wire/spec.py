"""What the watchdog hands a worker, and what a worker tells the watchdog.

A worker's three standard streams are its whole connection to the watchdog: one JSON line on stdin says what to be,
JSON lines on stdout say what happens, stderr is for people and failure reports. Native code that prints to stdout
must not garble the events, so the real stdout is put aside and descriptor 1 made a second stderr.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from mayfly.settings import Settings

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
    address: dict[str, Any]
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
        if self.lane != "chat":
            return "", ""
        return self.settings.prompt_template, self.settings.system_template

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        wire = dict(self.__dict__)
        wire["settings"] = self.settings.to_wire(with_keys=False)
        for name in ("model_file", "run_folder"):
            wire[name] = str(wire[name])
        return wire

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Spec:
        """Rebuild what `to_wire` made."""
        values = dict(wire)
        values["settings"] = Settings.from_wire(wire["settings"])
        values["places"] = tuple(wire["places"])
        for name in ("model_file", "run_folder"):
            values[name] = Path(wire[name])
        return cls(**values)


def read_spec(stdin: TextIO) -> Spec:
    """Read the line that says what to be."""
    return Spec.from_wire(json.loads(stdin.readline()))
