"""The lanes' listening sockets. They belong to the watchdog, so a worker that dies never loses the calls that wait."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path
from typing import Any

from mayfly.compat.sockets import readable
from mayfly.engines.backends import Backend
from mayfly.errors import ModelUnavailable
from mayfly.models import parts
from mayfly.models.inventory import Inventory, Model, public_name, unconfigured
from mayfly.settings import Settings
from mayfly.supervision.lane import Lane
from mayfly.wire.address import LaneAddress
from mayfly.wire.board import VOCABULARY
from mayfly.wire.calls import MOST_CALLS_HELD
from mayfly.wire.spec import Kind, LaneSpec, configured

# How often the files of configured models are looked for that aren't there (s). A file that is the same at two looks in
# a row is taken for whole: it may be being copied.
_LOOK = 1.0


class LaneSockets:
    """All lanes' sockets: those of the configured models, and those that open on demand.

    Args:
        settings: of the service.
        run_folder: where sockets are.
    """

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        self._settings = settings
        self._run_folder = run_folder
        self._inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
        self._numbers = itertools.count(1)
        self._files: dict[str, tuple[Path, os.stat_result]] = {}
        self.lanes: dict[str, Lane] = {}
        self.missing: dict[str, str] = {}
        self._had: set[str] = set()
        self._come: dict[str, parts.Mark] = {}
        self._look_at = 0.0
        self._elsewhere: dict[str, LaneSpec] = {}

    def open_configured(self) -> dict[str, Lane]:
        """Open the lanes of EMBED_MODEL and MODEL_NAME; return those that have a model. Why others have none is in
        `missing`. With SERVE_ON=ray none is opened here: the web process knows where they are.

        Raises:
            OSError: a socket can't be made.
        """
        for kind, model, setting in configured(self._settings):
            found = self._require(kind, model, setting)
            if found is not None and self._settings.serve_on == "ray":
                self._elsewhere[kind] = LaneSpec(None, model=found.id)
            elif found is not None:
                self._open_always(kind, found)
        return dict(self.lanes)

    def open_come(self, now: float) -> list[Lane]:
        """Open the lanes of configured models whose files have come, or come back; return them. One whose socket can't
        be made is tried again.
        """
        opened: list[Lane] = []
        if now < self._look_at:
            return opened
        self._look_at = now + _LOOK
        for kind, model, setting in self._awaited():
            found = self._require(kind, model, setting)
            before, self._come[kind] = self._come.get(kind, ()), parts.mark(found.path) if found is not None else ()
            if found is not None and before == self._come[kind]:
                with contextlib.suppress(OSError):
                    opened.append(self._open_always(kind, found))
        return opened

    def absent(self) -> dict[str, dict[str, Any]]:
        """Return the board's word on configured models that have no lane, for want of a file."""
        return {kind: {"state": "failing" if kind in self._had else "off", "reason": self.missing[kind],
                       "model": public_name(model)}
                for kind, model, _ in self._awaited()}

    def lost(self, lane: Lane) -> str:
        """Return why a lane's model can't be had any more, or "". Of a file that is there its worker tells, but if the
        model was only asked for: whoever asks for it again is told too."""
        if lane.kind == "vocabulary":
            return ""
        try:
            if not (gone := self._inventory.gone(lane.model_file)) and lane.use.may_leave:
                self._find(lane.model)
        except ModelUnavailable as exc:
            return str(exc)
        return gone

    def specs(self) -> dict[str, LaneSpec]:
        """Return what the web process is told of the configured models' lanes."""
        here = {name: lane.spec for name, lane in self.lanes.items()}
        awaited: dict[str, str] = {kind: public_name(model) for kind, model, _ in self._awaited()}
        lacking = {name: LaneSpec(None, why, awaited.get(name, "")) for name, why in self.missing.items()}
        told = {**here, **self._elsewhere, **lacking}
        return {name: told[name] for name, *_ in configured(self._settings)}

    # -- on demand --------------------------------------------------------------------------------------------

    def memory(self, model: str) -> int:
        """Return the memory in bytes that a model will take.

        Raises:
            ModelUnavailable: there is no such model, or no engine can run it.
        """
        return self._find(model).memory(self._settings)

    def open(self, name: str, model: str) -> Lane:
        """Open a lane for a model, or for counting tokens (`VOCABULARY`).

        Raises:
            ModelUnavailable: there is no such model, or no engine can run it.
            OSError: the socket can't be made.
        """
        if name == VOCABULARY:
            return self._open(name, name, "vocabulary", None)
        found = self._find(model)
        assert found.kind is not None
        return self._open(name, f"model{next(self._numbers)}", found.kind, found)

    def version(self, model: str) -> object:
        """Return what changes with a model's file; None if there is none."""
        found = self._inventory.find(model)
        return found and (found.path, found.size, found.modified)

    def close(self, name: str) -> None:
        """Close a lane's socket and remove its file. Calls that still wait there are told by its end."""
        lane = self.lanes.pop(name)
        lane.listener.close()
        if name in self._had:
            self.missing[name] = lane.lost
            self._look_at = 0.0
        path, made = self._files.pop(name, (None, None))
        if path is not None and _leads_to(path, made):
            with contextlib.suppress(OSError):
                path.unlink()

    def renew(self) -> list[str]:
        """Bind those sockets again whose files have gone or are another's; return the lanes' names. One that is removed
        in this very moment is left to the next call.

        The lanes' workers listen to sockets that nobody finds any more: they have to be replaced.

        Raises:
            OSError: a socket can't be made.
        """
        renewed = []
        for name, (path, made) in list(self._files.items()):
            if not _leads_to(path, made):
                with contextlib.suppress(FileNotFoundError):
                    listener = self._bind(name, path)[0]
                    self.lanes[name].listener.close()
                    self.lanes[name].listener = listener
                    renewed.append(name)
        return renewed

    def waiting(self, name: str) -> bool:
        """Tell whether a call waits in a lane's socket for a worker to take it."""
        return readable(self.lanes[name].listener)

    def _awaited(self) -> list[tuple[Kind, str, str]]:
        """Return the configured models that have no lane here and get one when their files come; see `configured`."""
        return [(kind, model, setting) for kind, model, setting in configured(self._settings)
                if model and kind in self.missing and self._settings.serve_on != "ray"]

    def _require(self, kind: Kind, model: str, setting: str) -> Model | None:
        """Return a configured model; None if there is none, and `missing` says why."""
        if not model:
            self.missing[kind] = unconfigured(kind, setting)
            return None
        try:
            return self._inventory.require(model)
        except ModelUnavailable as exc:
            then = "start again then" if self._settings.serve_on == "ray" else "once that is mended it is loaded"
            self.missing[kind] = f"{exc}; {then} ({setting})"
            return None

    def _open_always(self, kind: Kind, model: Model) -> Lane:
        # If the file is of the other kind, its worker says so.
        lane = self._open(kind, kind, kind, model)
        self._had.add(kind)
        self.missing.pop(kind, None)
        return lane

    def _find(self, model: str) -> Model:
        found = self._inventory.find(model)
        if found is None:
            raise ModelUnavailable(f"there is no model {model[:100]!r} in MODEL_PATH any more; once it is back it is "
                                   "loaded")
        if found.unusable or found.kind is None:
            raise ModelUnavailable(found.unusable)
        return found

    def _backend(self, model: Model, kind: Kind) -> Backend:
        return model.backend("embedding" if kind == "embedding" else "completion", self._wanted(kind))

    def _wanted(self, kind: Kind) -> str:
        return self._settings.embed_engine if kind == "embedding" else self._settings.chat_engine

    def _bind(self, name: str, path: Path) -> tuple[socket.socket, LaneAddress]:
        listener, address = LaneAddress.bind(path)
        if address.path:
            self._files[name] = path, os.lstat(path)
        return listener, address

    def _open(self, name: str, stem: str, kind: Kind, model: Model | None) -> Lane:
        listener, address = self._bind(name, self._run_folder / f"{stem}.sock")
        isolation = "none"
        if kind == "completion" and model is not None:
            isolation = self._backend(model, kind).isolation(self._settings.isolation, self._settings.device)
        at_once = self._settings.chat_processes
        if isolation == "none":
            at_once = MOST_CALLS_HELD if kind == "embedding" else 1
        lane = self.lanes[name] = Lane(
            name, model.id if model else "", isolation, stem=stem, kind=kind,
            model_file=model.path if model else self._settings.model_path,
            memory=model.memory(self._settings) if model else 0,
            window=model.window(self._settings) if model else 0, listener=listener, address=address,
            served_at_once=at_once, wanted_engine=self._wanted(kind))
        return lane


def _leads_to(path: Path, made: os.stat_result | None) -> bool:
    """Tell whether a socket's file is the one that was made."""
    try:
        return made is not None and os.path.samestat(os.lstat(path), made)
    except OSError:
        return False
