"""Starts the real processes: what each is told, and which sockets it inherits."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mayfly.places import ABOVE
from mayfly.settings import Settings
from mayfly.supervision.child import Child, Fork
from mayfly.supervision.process import Position, Process
from mayfly.wire.events import Log, Told
from mayfly.wire.spec import LaneSpec, Spec, WebSpec

# The web process sends a line for each request. Each would wake three threads of the watchdog and have it look at every
# process, on the cores and in the moment in which the client reads its answer and sends the next request.
_GATHER = 0.05


class ProcessSpawner:
    """Starts the web process and workers as child processes. See Spawner.

    Args:
        public: the public listening sockets, for the web process alone.
        lanes: of the configured models, as the web process is told of them.
        run_folder: where sentinels are.
        budget: the handle of the thread budget's table.
    """

    def __init__(self, settings: Settings, *, public: Sequence[socket.socket], lanes: dict[str, LaneSpec],
                 run_folder: Path, budget: int | str) -> None:
        self._settings = settings
        self._public = public
        self._lanes = lanes
        self._run_folder = run_folder
        self._budget = budget

    def start(self, position: Position, process: Process, on_event: Callable[[Told], None]) -> Child:
        """See Spawner."""
        def on_line(line: str) -> None:
            if self._settings.debug or position.role == "app":
                on_event(Told(Log(line), 0.0))

        settings, lane = self._settings, position.lane
        if lane is None or position.role == "app":
            at_once = settings.chat_processes if settings.isolation != "none" else 1
            web = WebSpec(settings, tuple(sock.fileno() for sock in self._public), process.sentinel,
                          process.generation, os.getpid(), self._run_folder / "state.json", at_once, self._lanes)
            return Child([sys.executable, "-m", "mayfly.app", "--supervised"], cwd=ABOVE, spec=web,
                         sockets=self._public, on_event=on_event, on_line=on_line, gather=_GATHER)
        embeds = lane.kind == "embedding"
        settings = dataclasses.replace(
            settings, api_keys=(), hf_token="", n_ctx=lane.window or settings.n_ctx,
            embed_engine=lane.wanted_engine if embeds else settings.embed_engine,
            chat_engine=settings.chat_engine if embeds else lane.wanted_engine)
        spec = Spec(
            lane=position.name, kind=lane.kind, model=lane.model, role=position.role, settings=settings,
            model_file=lane.model_file, listen_fd=lane.listener.fileno(), address=lane.address,
            run_folder=self._run_folder, budget=self._budget, places=position.places,
            generation=process.generation, parent=os.getpid())
        return Child([sys.executable, "-m", "mayfly.workers"], cwd=ABOVE, spec=spec, sockets=[lane.listener],
                     descriptors=[self._budget] if isinstance(self._budget, int) else [], on_event=on_event,
                     on_line=on_line)

    def adopt(self, pid: int) -> Fork:
        """See Spawner."""
        return Fork(pid)
