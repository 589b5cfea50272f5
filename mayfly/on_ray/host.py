"""Where a lane is hosted on a node of a Ray cluster: in a process of Ray's, which forks nothing itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

from mayfly.errors import LaneUnavailable
from mayfly.lanes.client import SocketLane
from mayfly.settings import Settings, log_folder, parse
from mayfly.supervision.lane_host import LaneHost
from mayfly.supervision.refusals import Refused
from mayfly.supervision.run_folder import RunFolder
from mayfly.wire.board import Board
from mayfly.wire.codec import from_wire, plain

# Before the reason in what is raised in a process of Ray's: Ray hands that on among other text.
_REASON = "mayfly says: "
_SAID = re.compile(re.escape(_REASON) + "(.*)")
_LOOK = 0.02
_FOLDERS = "mayfly-lane-"
# A folder that is younger (s) may be of a host that hasn't locked it yet.
_NEW = 60.0
# What is no matter of a replica: services that differ in this alone share them.
_OF_FRONTS = ("listen_ip", "listen_port", "ollama_compat_port", "route", "authorized_urls", "require_key",
              "allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials", "model_list", "hf_endpoint",
              "venv_name", "model_aliases", "replicas", "request_timeout", "receive_timeout", "connection_limit",
              "lame_duck_seconds", "max_body", "max_texts")


def settings_for(settings: Settings, model: str, kind: str, *, stays: bool) -> str:
    """Return what the hosts of a model's lane are told, as JSON: no key, and no other model."""
    configured = stays and kind == "completion"
    usual = parse({})
    told = dataclasses.replace(
        settings, **{name: getattr(usual, name) for name in _OF_FRONTS},
        # Each node has these for itself.
        run_folder_name=Path(), log_folder_name=Path(),
        api_keys=(), hf_token="", threads=settings.replica_threads, serve_on="this", ray_address="",
        embed_model=model if kind == "embedding" else "",
        model_name=model if kind == "completion" else "",
        prompt_template=settings.prompt_template if configured else "",
        system_template=settings.system_template if configured else "")
    return json.dumps(told, default=plain)


def failure(reason: object) -> RuntimeError:
    """Return what to raise, so that `reason_in` finds the reason elsewhere."""
    return RuntimeError(f"{_REASON}{reason}\n")


def reason_in(text: str) -> str:
    """Return the reason in what Ray hands on of a `failure`; "" if there is none."""
    found = _SAID.search(text)
    return found[1].strip() if found else ""


class Host(threading.Thread):
    """A lane's supervisor, in a thread of this process. The model's processes end with it, and it outlives them.

    Args:
        settings: as JSON; one of EMBED_MODEL and MODEL_NAME is set.
        name: of the lane, "embedding" or "completion".
    """

    def __init__(self, settings: str, name: str) -> None:
        super().__init__(name="lane host", daemon=True)
        self.settings: Settings = from_wire(json.loads(settings), Settings)
        self._name = name
        _sweep()
        self._path = Path(tempfile.mkdtemp(prefix=_FOLDERS))
        self._made = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._lane: SocketLane | None = None
        self.start()

    def lane(self) -> SocketLane:
        """Return the lane once it is ready.

        Raises:
            RuntimeError: the model can't be served here.
        """
        self._made.wait()
        if self._lane is None:
            raise failure(self._failure) from self._failure
        patience = time.monotonic() + self.settings.start_seconds
        while not self._lane.ready():
            said = self._lane.said()
            if said.get("state") == "failing" or time.monotonic() >= patience:
                self.stop()
                raise failure(said.get("reason") or "its process is not ready in START_SECONDS")
            time.sleep(_LOOK)
        return self._lane

    def run(self) -> None:
        """Host the lane until `stop`."""
        try:
            # The nodes of one machine, and the service itself, may have the same folder.
            logs = log_folder() / "replicas" / f"{self._name}-{os.getpid()}"
            with contextlib.closing(RunFolder(self._path)) as folder:
                host = LaneHost(dataclasses.replace(self.settings, log_folder_name=logs), folder)
                try:
                    self._open(host)
                    while not self._stopping.is_set():
                        host.turn()
                    host.end()
                finally:
                    host.close()
        except Exception as exc:  # of a thread this is the outermost boundary; `lane` and `check_health` tell of it
            self._failure = exc
        finally:
            self._made.set()
            shutil.rmtree(self._path, ignore_errors=True)

    def stop(self) -> None:
        """End the lane and its processes."""
        self._stopping.set()
        if threading.current_thread() is not self:
            self.join(5.0)

    def _open(self, host: LaneHost) -> None:
        spec = host.sockets.specs()[self._name]
        if spec.address is None:
            raise LaneUnavailable(spec.missing)
        board = Board(self._path / "state.json")
        self._lane = SocketLane(self._name, lambda: board.lane(self._name), address=spec.address,
                                queue_limit=self.settings.queue_limit, served_at_once=spec.served_at_once)
        self._made.set()


def _sweep() -> None:
    """Remove the folders of hosts that were killed: nobody has their locks."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError, Refused):
            if time.time() - left.stat().st_mtime > _NEW:
                RunFolder(left).close()
                shutil.rmtree(left)
