"""What Serve tells a front about the replicas of a deployment, and how the front asks a certain one of them.

Serve makes a copy of this class, with the module around it, so what it says goes into this module by its name.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

#: The ids of the replicas that serve, by the name of their application, as Serve tells them whoever has a handle.
SERVING: dict[str, frozenset[str]] = {}


class Roster(RequestRouter):  # type: ignore[misc]
    """Brings a call to the replica whose id is its first argument; to any if that is ""."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See RequestRouter."""
        from mayfly.on_ray.roster import SERVING

        SERVING[self.app_name] = frozenset(replica.replica_id.unique_id for replica in replicas)
        super().update_replicas(replicas)

    async def choose_replicas(self, candidate_replicas: list[RunningReplica],
                              pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        """See RequestRouter."""
        wanted: Any = pending_request.args[0] if pending_request is not None else ""
        return [[replica for replica in candidate_replicas if wanted in ("", replica.replica_id.unique_id)]]
