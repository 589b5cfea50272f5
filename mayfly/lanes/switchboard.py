"""Which lane serves a model: those of the configured models are always there, the others open when they are called."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

from mayfly.lanes.client import SocketLane
from mayfly.lanes.lane import Lane, NoLane
from mayfly.wire.board import VOCABULARY, Board
from mayfly.wire.calls import MOST_CALLS_HELD
from mayfly.wire.events import Dismiss, Keep, Want
from mayfly.wire.spec import LaneSpec, WebSpec

#: Makes the lane of this name for a model, by its id and what it is for; for VOCABULARY the id is "".
New = Callable[[str, str, str], Lane]


def _alone(name: str, model: str, kind: str) -> Lane:
    return NoLane("`python app.py` alone serves the configured models only, and counts no tokens: start the service "
                  "with start.sh")


class Switchboard:
    """The lanes of all models.

    Args:
        configured: "embedding" and "completion".
        models: which of these serves which model, by the model's id.
        new: makes other lanes; left out where there is no watchdog, and the configured models alone are served.
        known: returns those that are open now or asked for: by name, what each is for, or "" if that isn't known. A
            process that replaces another one hears so of lanes that the other one opened.
        dismiss: asks for the end of a model's lane, by the model's id.
        keep: says how long (s) it is to stay idle.
    """

    def __init__(self, configured: Mapping[str, Lane], models: Mapping[str, str], *, new: New = _alone,
                 known: Callable[[], Mapping[str, str]] = dict, dismiss: Callable[[str], None] = lambda model: None,
                 keep: Callable[[str, float], None] = lambda model, seconds: None) -> None:
        self.configured = configured
        self.keep = keep
        self._models = models
        self._new = new
        self._known = known
        self._dismiss = dismiss
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
        """Return a lane by its name: "embedding", "completion", or what `lane_of` or `vocabulary` returned."""
        return self.configured[name] if name in self.configured else self._lanes[name]

    def unload(self, model: str) -> bool:
        """Ask for the end of the lane that opened on demand for a model, if it is there; tell whether it isn't.

        A lane that is used, or waited for, doesn't end: ask until it has, or long enough.
        """
        name = f"model:{model}"
        with self._lock:
            lane = self._lanes.get(name)
        status = lane.status() if lane is not None else {}
        if status.get("queue", 0) + status.get("active", 0):
            return False
        if name not in self._known():
            return True
        self._dismiss(model)
        return False

    def all_lanes(self) -> dict[str, Lane]:
        """Return all lanes that were ever there, by name."""
        return self._all(self._known())

    def open_lanes(self) -> dict[str, Lane]:
        """Return the lanes that are there now, by name."""
        known = self._known()
        return {name: lane for name, lane in self._all(known).items() if name in self.configured or name in known}

    def _all(self, known: Mapping[str, str]) -> dict[str, Lane]:
        with self._lock:
            for name, kind in known.items():
                if kind and name not in self.configured and name not in self._lanes:
                    self._lanes[name] = self._new(name, name.partition(":")[2], kind)
            return {**self.configured, **self._lanes}


def supervised(spec: WebSpec, tell: Callable[[Want | Dismiss | Keep], None]) -> Switchboard:
    """Return the lanes of a web process that the watchdog has started.

    Args:
        tell: tells the watchdog which lanes are asked for and which aren't needed any more.
    """
    board = Board(spec.board)
    open_lane = functools.partial(SocketLane, queue_limit=spec.settings.queue_limit)
    most = {"completion": spec.completions_at_once, "embedding": MOST_CALLS_HELD}

    def configured(name: str, told: LaneSpec) -> Lane:
        if told.address is None and not told.model:
            return NoLane(told.missing)
        # A port is another one when the lane has left and comes back; so is all of a lane that waits for its file.
        fixed = told.address if told.address is not None and told.address.path else None
        at_once = told.served_at_once if told.address is not None else most.get(name, 1)
        return open_lane(name, lambda: board.lane(name), address=fixed, served_at_once=at_once)

    def new(name: str, model: str, kind: str) -> Lane:
        return open_lane(name, lambda: board.lane(name), summon=lambda: tell(Want(model)),
                         served_at_once=most.get(kind, 1))

    return Switchboard({name: configured(name, told) for name, told in spec.lanes.items()},
                       {told.model: name for name, told in spec.lanes.items() if told.model},
                       new=new, known=board.kinds, dismiss=lambda model: tell(Dismiss(model)),
                       keep=lambda model, seconds: tell(Keep(model, seconds)))
