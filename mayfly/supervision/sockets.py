"""The lanes' listening sockets. They belong to the watchdog, so a worker that dies never loses the calls that wait."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

from mayfly.compat.sockets import readable
from mayfly.engines.backends import Backend
from mayfly.errors import ModelUnavailable
from mayfly.models.inventory import Inventory, Model, unconfigured
from mayfly.settings import Settings
from mayfly.supervision.lane import Lane
from mayfly.wire.address import LaneAddress
from mayfly.wire.board import VOCABULARY
from mayfly.wire.calls import MOST_CALLS_HELD
from mayfly.wire.spec import Kind, LaneSpec, configured


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
        self._elsewhere: dict[str, LaneSpec] = {}

    def open_configured(self) -> dict[str, Lane]:
        """Open the lanes of EMBED_MODEL and MODEL_NAME; return those that have a model. Why others have none is in
        `missing`. With SERVE_ON=ray none is opened here: the web process knows where they are.

        Raises:
            OSError: a socket can't be made.
        """
        for kind, model, setting in configured(self._settings):
            try:
                if not model:
                    raise ModelUnavailable(unconfigured(kind, setting))
                found = self._inventory.require(model)
            except ModelUnavailable as exc:
                self.missing[kind] = f"{exc} ({setting})" if model else str(exc)
                continue
            if self._settings.serve_on == "ray":
                self._elsewhere[kind] = LaneSpec(None, model=found.id)
            else:
                # If the file is of the other kind, its worker says so.
                self._open(kind, kind, kind, found)
        return dict(self.lanes)

    def specs(self) -> dict[str, LaneSpec]:
        """Return what the web process is told of the configured models' lanes."""
        here = {name: lane.spec for name, lane in self.lanes.items()}
        lacking = {name: LaneSpec(None, why) for name, why in self.missing.items()}
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
        self.lanes.pop(name).listener.close()
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

    def _find(self, model: str) -> Model:
        found = self._inventory.find(model)
        if found is None:
            raise ModelUnavailable(f"there is no model {model[:100]!r} in MODEL_PATH any more")
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
