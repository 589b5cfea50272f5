"""The end of a service's life: it says that it leaves, serves on for a while, then refuses what is new and gives what
is in flight some time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Draining:
    """Whether the service stops, and how long it still waits for the calls in flight. Never goes back.

    Args:
        begins: called when it starts to refuse what is new.
    """

    def __init__(self, begins: Callable[[], None] = lambda: None) -> None:
        self._begins = begins
        self._announced = False
        self._ends: float | None = None

    @property
    def announced(self) -> bool:
        """True once the service is told to stop: it isn't ready any more, and each connection ends with its answer, so
        that a balancer asks others while new requests are still served."""
        return self._announced

    @property
    def started(self) -> bool:
        """True once new requests are answered 503."""
        return self._ends is not None

    @property
    def ends(self) -> float:
        """When the calls in flight have to end, on the clock of `time.monotonic`."""
        return float("inf") if self._ends is None else self._ends

    def announce(self) -> None:
        """Say that the service leaves."""
        self._announced = True

    def start(self, grace: float) -> None:
        """Stop; the calls in flight have `grace` seconds. A second start can only shorten that."""
        self.announce()
        if self._ends is None:
            self._begins()
        self._ends = min(self.ends, time.monotonic() + grace)
