"""Starts the real processes: what each is told, and which sockets it inherits."""

from __future__ import annotations

import dataclasses
import os
import queue
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mayfly.settings import PROJECT_FOLDER, Settings
from mayfly.supervision.child import Child, Process
from mayfly.supervision.sockets import LaneSocket
from mayfly.supervision.watched import Position, Watched
from mayfly.wire.spec import Spec

#: What the watchdog's loop waits for: a process and what it sent, or None for "look now".
Inbox = queue.SimpleQueue[tuple[Watched, dict[str, Any]] | None]

# The web process sends a line for each request. Each would wake three threads of the watchdog and have it look at every
# process, on the cores and in the moment in which the client reads its answer and sends the next request.
_GATHER = 0.05


class ProcessSpawner:
    """Starts the web process and workers as child processes.

    Args:
        settings: of the service.
        public: the public listening sockets, for the web process alone.
        lanes: every lane's socket, by name; they come and go.
        run_folder: where sentinels are.
        inbox: takes events.
        budget: the handle of the thread budget's table.
    """

    def __init__(self, settings: Settings, *, public: Sequence[socket.socket], lanes: dict[str, LaneSocket],
                 run_folder: Path, inbox: Inbox, budget: int | str) -> None:
        self._settings = settings
        self._public = public
        self._lanes = lanes
        self._run_folder = run_folder
        self._inbox = inbox
        self._budget = budget

    def start(self, position: Position, watched: Watched) -> Process:
        """See Spawner."""
        if position.role == "app":
            argv = [sys.executable, str(PROJECT_FOLDER / "app.py"), "--supervised"]
            return self._child(argv, self._app_spec(watched), self._public, watched, gather=_GATHER)
        lane = self._lanes[position.lane]
        assert lane.listener is not None and lane.address is not None and lane.model_file is not None
        settings = (dataclasses.replace(self._settings, embed_engine=watched.embed_engine) if watched.embed_engine
                    else self._settings)
        spec = Spec(
            lane=position.name, kind=lane.kind, model=lane.model, role=position.role, settings=settings,
            model_file=lane.model_file, listen_fd=lane.listener.fileno(), address=lane.address,
            run_folder=self._run_folder, budget=self._budget, places=position.places,
            generation=watched.generation, parent=os.getpid())
        argv = [sys.executable, "-m", "mayfly.workers"]
        inherited = [self._budget] if isinstance(self._budget, int) else []
        return self._child(argv, spec.to_wire(), [lane.listener], watched, inherited)

    def _app_spec(self, watched: Watched) -> dict[str, Any]:
        return {
            "settings": self._settings.to_wire(with_keys=True),
            "listen_fds": [sock.fileno() for sock in self._public],
            "sentinel": str(watched.sentinel),
            "generation": watched.generation,
            "parent": os.getpid(),
            "board": str(self._run_folder / "state.json"),
            "queue_limit": self._settings.queue_limit,
            "chat_processes": self._settings.chat_processes if self._settings.isolation != "none" else 1,
            "lanes": {name: {"address": lane.address, "missing": lane.missing, "model": lane.model,
                             "served_at_once": lane.served_at_once}
                      for name, lane in self._lanes.items() if name in ("embed", "chat")},
        }

    def _child(self, argv: list[str], spec: dict[str, Any], sockets: Sequence[socket.socket], watched: Watched,
               descriptors: Sequence[int] = (), gather: float = 0.0) -> Child:
        def on_line(line: str) -> None:
            if self._settings.debug:
                self._inbox.put((watched, {"event": "log", "line": line}))

        return Child(argv, cwd=PROJECT_FOLDER, spec=spec, sockets=sockets, descriptors=descriptors,
                     on_event=lambda event: self._inbox.put((watched, event)), on_line=on_line, gather=gather)
