"""Which lane serves a model: those of the configured models are always there, the others open when they are called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from mayfly.lanes.client import SocketLane
from mayfly.lanes.lane import Lane, NoLane
from mayfly.wire.board import VOCABULARY, Board
from mayfly.wire.calls import GATHERED
from mayfly.wire.spec import LaneSpec, WebSpec

#: Asks the watchdog for the lane of a model by its id, or by "" for that of VOCABULARY.
Ask = Callable[[str], None]


class Switchboard:
    """The lanes of all models.

    Args:
        configured: "embed" and "chat".
        models: which of these serves which model, by the model's id.
        board: where the watchdog's word on the lanes is read.
        ask: asks the watchdog for a lane; None where there is no watchdog, and the configured models
            alone are served.
        queue_limit: see `SocketLane`.
        served_at_once: completions that a lane serves at the same time.
    """

    def __init__(self, configured: Mapping[str, Lane], models: Mapping[str, str], *, board: Board | None = None,
                 ask: Ask | None = None, queue_limit: int = 0, served_at_once: int = 1) -> None:
        self.configured = configured
        self._models = models
        self._board = board
        self._ask = ask
        self._queue_limit = queue_limit
        self._served_at_once = served_at_once
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()

    def lane_of(self, model: str, kind: str) -> str:
        """Return the name of a model's lane, which need not be open yet.

        Args:
            model: the id of a model that there is (lanes are kept for ever, so not any name a client sends).
            kind: "embedding" or "completion", what the model is for.
        """
        if model in self._models:
            return self._models[model]
        name = f"model:{model}"
        with self._lock:
            if name not in self._lanes:
                self._lanes[name] = self._new(name, model, kind)
        return name

    def vocabulary(self) -> str:
        """Return the name of the lane that counts tokens, for any model."""
        with self._lock:
            if VOCABULARY not in self._lanes:
                self._lanes[VOCABULARY] = self._new(VOCABULARY, "", "vocabulary")
        return VOCABULARY

    def lane(self, name: str) -> Lane:
        """Return a lane by its name: "embed", "chat", or what `lane_of` or `vocabulary` returned."""
        return self.configured[name] if name in self.configured else self._lanes[name]

    def open_lanes(self) -> dict[str, Lane]:
        """Return the lanes that are there now, by name."""
        known = self._board.lanes() if self._board is not None else {}
        with self._lock:
            called = dict(self._lanes)
        return {**self.configured, **{name: lane for name, lane in called.items() if name in known}}

    def _new(self, name: str, model: str, kind: str) -> Lane:
        board, ask = self._board, self._ask
        if board is None or ask is None:
            return NoLane("`python app.py` alone serves the configured models only, and counts no tokens: start the "
                          "service with start.sh")
        return SocketLane(name, lambda: board.lane(name), queue_limit=self._queue_limit, summon=lambda: ask(model),
                          served_at_once={"completion": self._served_at_once, "embedding": GATHERED}.get(kind, 1))


def supervised(spec: WebSpec, ask: Ask) -> Switchboard:
    """Return the lanes of a web process that the watchdog has started.

    Args:
        ask: see `Switchboard`.
    """
    board = Board(spec.board)
    queue_limit = spec.settings.queue_limit

    def lane(name: str, told: LaneSpec) -> Lane:
        if told.address is None:
            return NoLane(told.missing)
        return SocketLane(name, lambda: board.lane(name), address=told.address, queue_limit=queue_limit,
                          served_at_once=told.served_at_once)

    return Switchboard({name: lane(name, told) for name, told in spec.lanes.items()},
                       {told.model: name for name, told in spec.lanes.items() if told.model}, board=board, ask=ask,
                       queue_limit=queue_limit, served_at_once=spec.completions_at_once)
