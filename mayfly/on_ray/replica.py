"""A replica: one model's lane on a node of a Ray cluster, under a supervisor in a thread of this process.

Started by Ray Serve, which starts, counts and replaces replicas; calls come to its door (`door.py`), past Ray. It forks
nothing itself. The model's processes end with it, and it outlives them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import ray
import ray.serve._private.replica as serving

from mayfly.errors import LaneUnavailable
from mayfly.lanes.client import SocketLane
from mayfly.on_ray.door import Door
from mayfly.on_ray.scaling import CALLS, WANTED
from mayfly.settings import Settings, log_folder
from mayfly.supervision.lane_host import LaneHost
from mayfly.supervision.refusals import Refused
from mayfly.supervision.run_folder import RunFolder
from mayfly.wire.board import Board
from mayfly.wire.codec import from_wire

#: Before the reason in what a replica that can't come up raises: Serve hands that on among other text.
REASON = "mayfly says: "
_LOOK = 0.02
_FOLDERS = "mayfly-lane-"
# A folder that is younger (s) may be of a replica that hasn't locked it yet.
_NEW = 60.0
# A service asks more often (s) than this.
_WANTED = 60.0


class Replica:
    """See the module.

    Args:
        settings: as JSON; one of EMBED_MODEL and MODEL_NAME is set.
        name: of the lane here, "embedding" or "completion".

    Raises:
        RuntimeError: the model can't be served here.
    """

    def __init__(self, settings: str, name: str) -> None:
        _close_the_side_door()
        made: Settings = from_wire(json.loads(settings), Settings)
        self._host = _Host(made, name)
        self._lane = self._host.lane()
        patience = time.monotonic() + made.start_seconds
        while not self._lane.ready():
            said = self._lane.said()
            if said.get("state") == "failing" or time.monotonic() >= patience:
                self._host.stop()
                raise RuntimeError(f"{REASON}{said.get('reason') or 'its process is not ready in START_SECONDS'}\n")
            time.sleep(_LOOK)
        self._grace = made.grace_seconds
        self._asked = time.monotonic()
        self._door = Door(self._lane, ray.util.get_node_ip_address())

    def __del__(self) -> None:
        """Called by Serve, too, before it ends the process; fronts have been told already that this one leaves."""
        door, host = getattr(self, "_door", None), getattr(self, "_host", None)
        if door is not None:
            door.stop(self._grace)
        if host is not None:
            host.stop()

    def check_health(self) -> None:
        """Raise if the lane's supervisor or the door has ended: Serve then replaces this replica."""
        if not self._host.is_alive() or not self._door.is_alive():
            raise RuntimeError(f"{REASON}the supervisor of its processes has ended\n")

    def door(self, replica: str) -> str:
        """Return, as JSON, where calls are taken; `replica` is the id of this one (`Roster`)."""
        self._asked = time.monotonic()
        return json.dumps({**self._door.told(), "facts": self._lane.status()})

    def record_autoscaling_stats(self) -> dict[str, int]:
        """Return what the lane is scaled by (`Scaling`)."""
        return {CALLS: self._door.held, WANTED: int(time.monotonic() - self._asked < _WANTED)}


class _Host(threading.Thread):
    """The supervisor's thread, which lives as long as the lane does."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(name="lane host", daemon=True)
        self._settings = settings
        self._name = name
        _sweep()
        self._path = Path(tempfile.mkdtemp(prefix=_FOLDERS))
        self._made = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._lane: SocketLane | None = None
        self.start()

    def lane(self) -> SocketLane:
        """Return the lane once its socket is there.

        Raises:
            RuntimeError: it can't be made.
        """
        self._made.wait()
        if self._lane is None:
            raise RuntimeError(f"{REASON}{self._failure}\n") from self._failure
        return self._lane

    def run(self) -> None:
        """Host the lane until `stop`."""
        try:
            # The nodes of one machine, and the service itself, may have the same folder.
            logs = log_folder() / "replicas" / f"{self._name}-{os.getpid()}"
            with contextlib.closing(RunFolder(self._path)) as folder:
                host = LaneHost(dataclasses.replace(self._settings, log_folder_name=logs), folder)
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
                                queue_limit=self._settings.queue_limit, served_at_once=spec.served_at_once)
        self._made.set()


def _sweep() -> None:
    """Remove the folders of replicas that were killed: nobody has their locks."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError, Refused):
            if time.time() - left.stat().st_mtime > _NEW:
                RunFolder(left).close()
                shutil.rmtree(left)


def _close_the_side_door() -> None:
    """Keep Serve from opening a port here that unpickles whatever anybody sends it, without a look at the token: it is
    for a transport between replicas that isn't used."""
    if not hasattr(serving, "add_port_to_grpc_server"):
        raise RuntimeError(f"{REASON}this version of ray is not the one in requirements-ray.txt\n")
    serving.add_port_to_grpc_server = lambda server, address: 0
