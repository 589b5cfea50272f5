"""What a RayService of KubeRay is told to deploy: nothing but a word that the services of the cluster take calls.

The services deploy what they serve, and the operator sees only what its own configuration names. So that names
`application`, which runs as soon as one of the services is ready: until then the operator leaves callers with the
cluster before.
"""

from __future__ import annotations

import contextlib
import time
import urllib.request
from typing import Any

import ray
from ray import serve

#: The resource of the nodes beside which there is a service: the port that it listens on.
PORT = "mayfly_port"
_PAUSE, _PATIENCE = 1.0, 5.0


def ready(node: dict[str, Any]) -> bool:
    """Tell whether there is a service beside a node, as `ray.nodes` tells of it, and it is ready."""
    port = node["Resources"].get(PORT)
    if not node["Alive"] or port is None:
        return False
    with contextlib.suppress(OSError), urllib.request.urlopen(
            f"http://{node['NodeManagerAddress']}:{port:.0f}/ready", timeout=_PATIENCE):
        return True
    return False


class Ready:
    """It is there when a service is, and asks for nothing more."""

    def __init__(self) -> None:
        while not any(map(ready, ray.nodes())):
            time.sleep(_PAUSE)


#: What the RayService's configuration names.
application = serve.deployment(Ready).options(ray_actor_options={"num_cpus": 0}).bind()
