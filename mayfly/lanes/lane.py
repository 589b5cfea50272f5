"""What a lane is: one model, as the web process sees it.

`mayfly.lanes.client.SocketLane` answers through worker processes; `NoLane` says that there are none.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from mayfly.errors import LaneUnavailable
from mayfly.tallies import Served
from mayfly.wire.calls import Call, Item


class LaneCall(Protocol):
    """A call under way, which waits for nothing by itself. Used by one thread at a time.

    Whoever drives it calls `advance` when what is `watched` is ready, and at the latest when it is `due`. However the
    call ends, it has to be closed: that cancels what isn't answered, and gives its place in the lane back.
    """

    @property
    def watched(self) -> socket.socket | None:
        """What the call waits for, if it isn't for a time alone: to be read from, or, while `sending`, written to."""

    @property
    def sending(self) -> bool:
        """Whether the request hasn't been sent whole."""

    @property
    def due(self) -> float:
        """When `advance` is to be called though nothing has come, on the clock of `time.monotonic`."""

    def advance(self, now: float) -> list[Item]:
        """Go on as far as that needs no waiting; return what has come.

        Raises:
            CallError: the call has failed (LaneUnavailable, DeadlinePassed, ModelCrashed, EngineFailed, InvalidRequest,
                ContextLengthExceeded).
        """

    def close(self) -> None:
        """End the call, once; after that nothing."""


class Lane(Protocol):
    """One model, as the web process sees it. All methods may be called from several threads at once."""

    def begin(self, call: Call, deadline: float, *, in_pieces: bool = False) -> LaneCall:
        """Begin a call, without waiting for anything. A process that dies of it is replaced, and the call goes to the
        next one, once.

        Args:
            deadline: on the clock of `time.monotonic`, in seconds; then it raises DeadlinePassed.
            in_pieces: a completion is given piece by piece; then nothing is tried again after the first one.

        Raises:
            LaneUnavailable: the lane has no model to serve.
            QueueFull: too many calls wait already.
        """

    def status(self) -> dict[str, Any]:
        """Return the lane's part of `/health`: at least `state` ("ready", "loading", "failing", "off", ...)."""

    @property
    def served(self) -> Served:
        """What it has served since this process began."""

    def ready(self) -> bool:
        """Tell whether a call would be served now. A lane without a model is not ready."""

    def configured(self) -> bool:
        """Tell whether the lane has a model to serve."""


class NoLane:
    """A lane that nobody serves. See Lane.

    Args:
        reason: why, as a call is told.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.served = Served()

    def begin(self, call: Call, deadline: float, *, in_pieces: bool = False) -> LaneCall:
        """See Lane."""
        raise LaneUnavailable(self._reason, retry_after=60)

    def status(self) -> dict[str, Any]:
        """See Lane."""
        return {"state": "off", "reason": self._reason}

    def ready(self) -> bool:
        """See Lane."""
        return False

    def configured(self) -> bool:
        """See Lane."""
        return False
