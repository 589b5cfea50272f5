"""Both lanes inside this process, for `python app.py` alone: no watchdog, no fresh process for each completion.

The calling side is the same as under the watchdog; only the workers are threads here, one a lane, so that no model
is ever used by two threads. A crash in native code takes the whole process down.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
from pathlib import Path
from typing import Any

from mayfly.errors import ModelUnavailable
from mayfly.lanes.client import SocketLane
from mayfly.lanes.lane import Lane, NoLane
from mayfly.lanes.switchboard import Switchboard
from mayfly.models.inventory import Inventory, Model, unconfigured
from mayfly.settings import Settings
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import MOST_CALLS_HELD
from mayfly.wire.events import EventPipe
from mayfly.wire.spec import Spec, configured
from mayfly.wire.thread_table import Table
from mayfly.workers.worker import Worker, load_completions, load_embeddings


def local_lanes(settings: Settings, folder: Path) -> Switchboard:
    """Load the configured models into this process and return the lanes that they serve.

    Args:
        folder: a private folder for their sockets. The lanes live as long as the process; the folder is the caller's.

    Raises:
        ModelUnavailable: a configured model is missing or can't be loaded.
    """
    table = Table.make()
    events = EventPipe(os.open(os.devnull, os.O_WRONLY), drops=True)  # nobody watches
    inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
    lanes: dict[str, Lane] = {}
    models = {}
    for place, (kind, model, setting) in enumerate(configured(settings)):
        if not model:
            lanes[kind] = NoLane(unconfigured(kind, setting))
            continue
        found = inventory.require(model)
        listener, address = LaneAddress.bind(folder / f"{kind}.sock")
        listener.setblocking(False)
        spec = Spec(lane=kind, kind=kind, model=found.id, role="serve", settings=_for(found, settings),
                    model_file=found.path, listen_fd=listener.fileno(), address=address, run_folder=folder,
                    budget=table.handle,
                    places=(place,), generation=1, parent=os.getpid())
        lanes[kind] = _start(spec, Worker(spec, listener, table, events))
        models[found.id] = kind
    return Switchboard(lanes, models)


def _for(model: Model, settings: Settings) -> Settings:
    return dataclasses.replace(settings, n_ctx=model.window(settings))


def _start(spec: Spec, worker: Worker) -> SocketLane:
    said: dict[str, Any] = {"state": "ready", "model": spec.model, "isolation": "none", "generation": 1,
                            "pid": os.getpid()}
    failures: list[Exception] = []
    ready = threading.Event()

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    def run() -> None:
        # The model is loaded by the thread that uses it.
        try:
            if spec.kind == "embedding":
                embedder = load_embeddings(spec, note)
                said.update(embedder.facts)
                serve = functools.partial(worker.embed, embedder)
            else:
                completer = load_completions(spec, note)
                said.update(completer.facts)
                serve = functools.partial(worker.complete, completer)
        except Exception as exc:
            failures.append(exc)
            return
        finally:
            ready.set()
        serve()

    threading.Thread(target=run, name=f"{spec.lane} worker", daemon=True).start()
    ready.wait()
    if failures:
        raise ModelUnavailable(str(failures[0])) from failures[0]
    return SocketLane(spec.lane, lambda: said, address=spec.address, queue_limit=spec.settings.queue_limit,
                      served_at_once=MOST_CALLS_HELD if spec.kind == "embedding" else 1)
