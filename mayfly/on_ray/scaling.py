"""How many replicas a lane needs. Run by Serve's controller, to which Ray brings this module as it is here: nothing of
this program need be installed there, so it imports nothing."""

from __future__ import annotations

from typing import Any

#: Under this name a replica says how many calls it holds.
CALLS = "calls"


class Scaling:
    """Wants as many replicas as it takes for each to hold `target` calls, and one for whoever waits for any."""

    def __init__(self, target: int) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """See ray.serve.config.AutoscalingPolicy."""
        held = (context.aggregated_metrics or {}).get(CALLS, {})
        return max(sum(held.values()) / self._target, 1.0 if context.total_num_requests else 0.0), {}
