"""Which replica a call goes to: calls with the same persona to the same one, whose prefix store has evaluated it.

Rendezvous hashing: each replica gets a rank by the hash of persona and replica, and the first that has room serves.
When replicas come or go, only the personas of those move.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class AffinityRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Ranks replicas for a call by its first argument."""

    async def choose_replicas(self, candidate_replicas: list[RunningReplica],
                              pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        """See RequestRouter: each replica is a rank of its own, the best first."""
        key = str(pending_request.args[0]) if pending_request is not None and pending_request.args else ""
        return [[replica] for replica in ranked(key, candidate_replicas, lambda replica: replica.replica_id.unique_id)]


def ranked(key: str, replicas: list[Any], name_of: Any) -> list[Any]:
    """Return replicas in the order in which calls with a key ask them."""
    return sorted(replicas, key=lambda replica: hashlib.sha256(f"{key}\0{name_of(replica)}".encode()).digest())
