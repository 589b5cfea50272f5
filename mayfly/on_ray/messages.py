"""What a front and its driver say to each other: a message a line, in JSON. The driver hears the settings first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WantedLane:
    """To the driver: a lane that there is.

    Attributes:
        name: of the lane.
        model: the model's public name.
        kind: "embedding" or "completion".
        at_once: calls that a replica serves at the same time.
        stays: it is one of the configured models', and keeps its replicas as long as there is a service.
        wanted: somebody asks for it now.
    """

    name: str
    model: str
    kind: str
    at_once: int
    stays: bool
    wanted: bool


@dataclass(frozen=True)
class Wanted:
    """To the driver: somebody asks for a lane."""

    name: str


@dataclass(frozen=True)
class Dismissed:
    """To the driver: a lane is to leave."""

    name: str


@dataclass(frozen=True)
class DoorAt:
    """Where a replica takes calls (`door.py`), under Serve's name for it."""

    name: str
    host: str
    port: int
    token: str
    number: int


@dataclass(frozen=True)
class LaneAt:
    """How a lane is.

    Attributes:
        name: of the lane.
        said: for /health.
        doors: of all replicas; None as long as Serve hasn't told which there are.
    """

    name: str
    said: dict[str, Any]
    doors: tuple[DoorAt, ...] | None


@dataclass(frozen=True)
class Turn:
    """From the driver: how all is.

    Attributes:
        trouble: why it can't tell; "" if it can.
        lanes: those that it was told of; none in trouble.
    """

    trouble: str = ""
    lanes: tuple[LaneAt, ...] = ()
