"""What all routes share: the settings, the lanes, the access rules, and the room that calls take up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mayfly.errors import LaneUnavailable, QueueFull
from mayfly.lanes.calls import GATHERED, Begun, Lane, Watch
from mayfly.lanes.switchboard import Switchboard
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings
from mayfly.web.access import Access
from mayfly.web.cross_origin import CrossOrigin
from mayfly.web.draining import Draining
from mayfly.web.ignored import IgnoredFields

# Threads that no model call can take: for /health, refusals and errors.
SPARE_THREADS = 8
# A thread costs some 100 kB and its start 0.05 ms. Beyond this many calls at once the answer is 429, although
# QUEUE_LIMIT would let the lane's queue grow.
MOST_THREADS = 776

# The call that was made for a request before the application got it (a `Begun` or None), in its WSGI environment.
BEGUN = "mayfly.begun"

# The lanes of both configured models, and all lanes that open on demand together.
SHARES = ("embed", "chat", "model")


def shares(settings: Settings) -> dict[str, int]:
    """Return how many calls each of SHARES may hold: as many as one lane, or an equal part of what there can be."""
    completions = settings.chat_processes + 1
    at_once = {"embed": GATHERED, "chat": completions, "model": max(GATHERED, completions)}
    most = (MOST_THREADS - SPARE_THREADS) // len(SHARES)
    return {name: min(settings.queue_limit + at_once[name], most) for name in SHARES}


def threads_needed(settings: Settings) -> int:
    """Return how many threads serve requests: one for each call that may be held, and some spare."""
    return sum(shares(settings).values()) + SPARE_THREADS


@dataclass(frozen=True)
class Service:
    """The service behind the routes.

    Attributes:
        switchboard: the lanes of all models; `lanes` are those of the configured ones.
        inventory: what models there are.
        ignored: what clients are told of fields that mean nothing here.
        seats: for each of SHARES, how many calls may still take a thread; each has its own, so that a crowd at one
            lane can't shut out the others or /health.
    """

    settings: Settings
    lanes: Mapping[str, Lane]
    access: Access
    cross_origin: CrossOrigin
    draining: Draining
    seats: Mapping[str, threading.Semaphore]
    switchboard: Switchboard
    inventory: Inventory
    ignored: IgnoredFields = field(default_factory=IgnoredFields)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, settings: Settings, lanes: Mapping[str, Lane] | Switchboard, draining: Draining) -> Service:
        """Set the service up."""
        switchboard = lanes if isinstance(lanes, Switchboard) else Switchboard(lanes, {})
        seats = {name: threading.Semaphore(most) for name, most in shares(settings).items()}
        inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
        return cls(settings, switchboard.configured, Access.of(settings), CrossOrigin.of(settings), draining, seats,
                   switchboard, inventory)

    def watch(self, environ: Mapping[str, Any]) -> Watch:
        """Return the caller's side of a call that begins now, from its WSGI environment."""
        gone: Callable[[], bool] = environ.get("waitress.client_disconnected", lambda: False)
        begun: Begun | None = environ.get(BEGUN)
        deadline = time.monotonic() + self.settings.request_timeout if begun is None else begun.deadline
        return Watch(deadline, gone, self.draining.expired, begun)

    @contextmanager
    def seat(self, name: str, environ: Mapping[str, Any] | None = None) -> Iterator[Lane]:
        """Take a thread's place at a lane for the length of a call.

        Args:
            name: of the lane; see `Switchboard.lane`.
            environ: the request's; if its call has begun already, it has its seat until it is answered.

        Raises:
            QueueFull: so many calls are at this lane that its share of the threads is used up.
        """
        if environ is not None and environ.get(BEGUN) is not None:
            yield self.switchboard.lane(name)
            return
        leave = self.take_seat(name)
        try:
            yield self.switchboard.lane(name)
        finally:
            leave()

    def take_seat(self, name: str) -> Callable[[], None]:
        """Take a seat as `seat` does; return what gives it back."""
        seats = self.seats[name if name in self.lanes else SHARES[-1]]
        if not seats.acquire(blocking=False):
            raise QueueFull("Too many requests wait for this model already: try again later.", retry_after=1)
        return seats.release

    def refuse_if_stopping(self) -> None:
        """Refuse a new request once the service stops.

        Raises:
            LaneUnavailable: it stops.
        """
        if self.draining.started:
            raise LaneUnavailable("The service is stopping: try again when it is back.", retry_after=2)
