"""The end of a service's life: from the signal on, new requests are refused and those in flight get some time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Draining:
    """Whether the service stops, and how long it still waits for the calls in flight. Never goes back.

    Args:
        begins: called when it starts to stop.
    """

    def __init__(self, begins: Callable[[], None] = lambda: None) -> None:
        self._begins = begins
        self._ends: float | None = None

    @property
    def started(self) -> bool:
        """True once the service stops: new requests are answered 503."""
        return self._ends is not None

    @property
    def ends(self) -> float:
        """When the calls in flight have to end, on the clock of `time.monotonic`."""
        return float("inf") if self._ends is None else self._ends

    def start(self, grace: float) -> None:
        """Stop; the calls in flight have `grace` seconds. A second start can only shorten that."""
        if self._ends is None:
            self._begins()
        self._ends = min(self.ends, time.monotonic() + grace)
