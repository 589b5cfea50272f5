"""Both lanes inside this process, for `python app.py` alone: no watchdog, no fresh process for each completion.

The calling side is the same as under the watchdog; only the workers are threads here, one a lane, so that no model
is ever used by two threads. A crash in native code takes the whole process down.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from mayfly.engines import choose
from mayfly.engines.backends import Kind
from mayfly.errors import ModelUnavailable
from mayfly.lanes.client import SocketLane
from mayfly.lanes.switchboard import Switchboard
from mayfly.models.inventory import Inventory, Model, unconfigured
from mayfly.settings import Settings
from mayfly.wire.address import LaneAddress
from mayfly.wire.board import Board
from mayfly.wire.calls import GATHERED
from mayfly.wire.sentinel import Sentinel
from mayfly.wire.thread_table import Table
from mayfly.workers.accept import TICK, Door, Line
from mayfly.workers.budget import Budget
from mayfly.workers.embedding import Embedder
from mayfly.workers.serving import serve_completion


class _Always(Board):
    """A board without a watchdog: a lane of this process is ready as soon as it exists."""

    def __init__(self, model: str, shown: dict[str, str]) -> None:
        self._state = {"state": "ready", "model": model, "isolation": "none", "generation": 1, "pid": os.getpid(),
                       **shown}

    def lane(self, name: str) -> dict[str, Any]:
        """See Board."""
        return self._state


def local_lanes(settings: Settings, folder: Path) -> Switchboard:
    """Load the configured models into this process and return the lanes that they serve.

    Args:
        folder: a private folder for their sockets. The lanes live as long as the process; the folder is the caller's.

    Raises:
        ModelUnavailable: a configured model is missing or can't be loaded.
    """
    table = Table.make()
    inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
    lanes = {}
    models = {}
    configured: list[tuple[str, Kind, str, str]] = [
        ("embed", "embedding", settings.embed_model, "EMBED_MODEL"),
        ("chat", "completion", settings.model_name, "MODEL_NAME")]
    for name, kind, model, setting in configured:
        if not model:
            lanes[name] = SocketLane(name, None, _Always("", {}), queue_limit=0, missing=unconfigured(kind, setting))
            continue
        found = inventory.require(model)
        lanes[name] = _start(name, found, settings, table, folder)
        models[found.id] = name
    return Switchboard(lanes, models)


def _start(name: str, model: Model, settings: Settings, table: Table, folder: Path) -> SocketLane:
    listener, address = LaneAddress.bind(folder / f"{name}.sock")
    listener.setblocking(False)
    failures: list[Exception] = []
    ready = threading.Event()
    shown: dict[str, str] = {}

    def run() -> None:
        # The model is loaded by the thread that uses it.
        try:
            worker = _Worker(name, model, settings, table, folder)
            shown.update(worker.shown)
        except Exception as exc:
            failures.append(exc)
            return
        finally:
            ready.set()
        worker.serve(listener, address)

    threading.Thread(target=run, name=f"{name} worker", daemon=True).start()
    ready.wait()
    if failures:
        raise ModelUnavailable(str(failures[0])) from failures[0]
    return SocketLane(name, address, _Always(model.id, shown), queue_limit=settings.queue_limit,
                      served_at_once=GATHERED if name == "embed" else 1)


class _Worker:
    """One model, used by the thread that made it."""

    def __init__(self, name: str, model: Model, settings: Settings, table: Table, folder: Path) -> None:
        self._sentinel = Sentinel(folder / f"{name}.watchdog")
        self._embedder = self._completer = None
        self.shown: dict[str, str] = {}  # what /health shows of its engine
        if name == "embed":
            self._embedder = choose.load_embeddings(
                model.path, settings.threads, model.id, engine=settings.embed_engine,
                precision=settings.embed_precision, note=lambda line: print(line, file=sys.stderr))
            self.shown = self._embedder.facts
            place, set_threads = 0, self._embedder.set_threads
        else:
            self._completer = choose.load_completions(model.path, settings.threads, settings.n_ctx, settings.device,
                                                      model.id, settings.prompt_template, settings.system_template)
            place, set_threads = 1, self._completer.set_threads
        self._budget = Budget(table, place, settings.threads, set_threads)
        self._facts = {"pid": os.getpid(), "generation": 1, "model": model.id, "when": time.time()}
        self._sentinel.write(self._facts)

    def serve(self, listener: socket.socket, address: dict[str, Any]) -> NoReturn:
        """Answer calls as long as the process lives."""
        if self._embedder is not None:
            embedder = Embedder(self._embedder, listener, address, generation=1,
                                sentinel=self._sentinel, budget=self._budget, facts=self._facts)
            while True:
                embedder.step()
        assert self._completer is not None
        door = Door(listener, address, Line.take)
        while True:
            for line, request in door.hear(TICK, 1):
                serve_completion(line.connection, request, self._completer, generation=1, sentinel=self._sentinel,
                                 budget=self._budget, facts=self._facts)
