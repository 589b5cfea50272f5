"""A replica: one model's lane on a node of a Ray cluster, under a supervisor in a thread of this process.

Started by Ray Serve, which starts, counts and replaces replicas; calls come to its door (`door.py`), past Ray. It forks
nothing itself. The model's processes end with it, and it outlives them.
"""

from __future__ import annotations

import json
import time

import ray
import ray.serve._private.replica as serving

from mayfly.on_ray.door import Door
from mayfly.on_ray.host import Host, failure
from mayfly.on_ray.scaling import CALLS, WANTED

# A service asks more often (s) than this.
_WANTED = 60.0


class Replica:
    """See the module.

    Args:
        settings, name: see Host.

    Raises:
        RuntimeError: the model can't be served here.
    """

    def __init__(self, settings: str, name: str) -> None:
        _close_the_side_door()
        self._host = Host(settings, name)
        self._lane = self._host.lane()
        self._asked = time.monotonic()
        self._door = Door(self._lane, ray.util.get_node_ip_address())

    def __del__(self) -> None:
        """Called by Serve, too, before it ends the process; fronts have been told already that this one leaves."""
        door, host = getattr(self, "_door", None), getattr(self, "_host", None)
        if door is not None:
            door.stop(self._host.settings.grace_seconds)
        if host is not None:
            host.stop()

    def check_health(self) -> None:
        """Raise if the lane's supervisor or the door has ended: Serve then replaces this replica."""
        if not self._host.is_alive() or not self._door.is_alive():
            raise failure("the supervisor of its processes has ended")

    def door(self, replica: str) -> str:
        """Return, as JSON, where calls are taken; `replica` is the id of this one (`Roster`)."""
        self._asked = time.monotonic()
        return json.dumps({**self._door.told(), "facts": self._lane.status()})

    def record_autoscaling_stats(self) -> dict[str, int]:
        """Return what the lane is scaled by (`Scaling`)."""
        return {CALLS: self._door.held, WANTED: int(time.monotonic() - self._asked < _WANTED)}


def _close_the_side_door() -> None:
    """Keep Serve from opening a port here that unpickles whatever anybody sends it, without a look at the token: it is
    for a transport between replicas that isn't used."""
    if not hasattr(serving, "add_port_to_grpc_server"):
        raise failure("this version of ray is not the one in requirements-ray.txt")
    serving.add_port_to_grpc_server = lambda server, address: 0
