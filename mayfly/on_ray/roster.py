"""What Serve tells a front about the replicas of a deployment, and how the front asks a certain one of them.

Serve makes a copy of this class, with the module around it, so what it has to say goes into another module.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class Roster(RequestRouter):  # type: ignore[misc]
    """Brings a call to the replica whose id is its first argument; to any if that is ""."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See RequestRouter."""
        from mayfly.on_ray.lines import SERVING

        SERVING[self.app_name] = frozenset(replica.replica_id.unique_id for replica in replicas)
        super().update_replicas(replicas)

    async def choose_replicas(self, candidate_replicas: list[RunningReplica],
                              pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        """See RequestRouter."""
        wanted: Any = pending_request.args[0] if pending_request is not None else ""
        return [[replica for replica in candidate_replicas if wanted in ("", replica.replica_id.unique_id)]]
