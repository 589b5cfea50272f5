"""How many replicas a lane needs. Run by Serve's controller, to which Ray brings this module as it is here: nothing of
this program need be installed there, so it imports nothing."""

from __future__ import annotations

from typing import Any

#: Under these names a replica says how many calls it holds, and whether a service has asked for it lately.
CALLS, WANTED = "calls", "wanted"


class Scaling:
    """Wants as many replicas as it takes for each to hold `target` calls, one for whoever waits for any, and `fewest`
    as long as there is a service: however the last one has ended, the replicas leave after it."""

    def __init__(self, target: int, fewest: int) -> None:
        self._target = target
        self._fewest = fewest

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """See ray.serve.config.AutoscalingPolicy."""
        said = context.aggregated_metrics or {}
        waits = 1.0 if context.total_num_requests else 0.0
        fewest = self._fewest if waits or any(said.get(WANTED, {}).values()) else 0.0
        return max(sum(said.get(CALLS, {}).values()) / self._target, waits, fewest), {}
