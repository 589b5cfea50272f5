"""What is counted for `/metrics`: the library that writes it is loaded when somebody asks, and not before."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

# Seconds: from an embedding's milliseconds to the longest completion.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Times:
    """How often something took how long. Used under its owner's lock, or by one thread."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds

    @classmethod
    def of(cls, parts: Iterable[Times]) -> Times:
        """Return what several have counted."""
        made = cls()
        for part in parts:
            made._counts = [one + other for one, other in zip(made._counts, part._counts, strict=True)]
            made.total += part.total
        return made

    def buckets(self) -> list[tuple[str, int]]:
        """Return how many took at most so long, as Prometheus has it: upper bounds, and `+Inf`."""
        found, so_far = [], 0
        for bound, count in zip([*map(str, _BOUNDS), "+Inf"], self._counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


@dataclass
class Served:
    """What a lane has served.

    Attributes:
        texts: embedded.
        prompt_tokens, completion_tokens: of calls that were answered; a text's tokens are prompt tokens.
        retried: calls whose process died, and that went to the next one.
        first_token: from the beginning of a call for a completion to its first piece.
    """

    texts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retried: int = 0
    first_token: Times = field(default_factory=Times)
