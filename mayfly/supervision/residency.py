"""Which models stay loaded: lanes open when somebody asks for their model, and the least recently used idle one leaves.

Decisions alone: a lane's sockets are opened and closed by `LaneSockets`, its processes started and ended by the
supervisor. The models of EMBED_MODEL and MODEL_NAME leave only when their files do, and come with them again.

A lane that comes up never leaves while it is in use. Whether it is in use is seen where it can't be lost: calls that
wait are in its listening socket, and a process that takes one out marks its place in the thread budget before. Counts
kept by the web process would be wrong once that has crashed, or has dropped an event because the pipe was full.

A lane whose last start was in vain leaves at once for somebody else: callers that wait for it ask again, and nobody can
tell whether those in its socket are still there, since no process takes them out. One that has been given up is
remembered, so that it doesn't drive out again and again what works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mayfly.errors import ModelUnavailable
from mayfly.settings import Settings
from mayfly.supervision.lane import Lane, Use
from mayfly.wire.board import VOCABULARY
from mayfly.wire.thread_table import Table

#: The web process asks again every second while somebody waits.
_FORGET_AFTER = 5.0
# How often (s) the file of a model that was refused is looked at.
_LOOK = 1.0
# Between a lane's opening and the arrival of the first call in its socket.
_EXPECTED = 2.0
# So long (s) a lane goes on trying that has been given up; and one whose last start was in vain, if nobody asks for it.
_GIVE_UP_AFTER = 60.0


class Sockets(Protocol):
    """What the supervisor needs of `LaneSockets`."""

    def memory(self, model: str) -> int:
        """Return the memory in bytes that a model will take; ModelUnavailable if it can't be used."""

    def open(self, name: str, model: str) -> Lane:
        """Open a lane; ModelUnavailable or OSError if it can't be."""

    def open_come(self, now: float) -> list[Lane]:
        """Open the lanes of configured models whose files have come."""

    def absent(self) -> dict[str, dict[str, Any]]:
        """Return the board's word on configured models that have no lane."""

    def lost(self, lane: Lane) -> str:
        """Return why a lane's model has no file any more, or ""."""

    def version(self, model: str) -> object:
        """Return what changes with a model's file; None if there is none."""

    def close(self, name: str) -> None:
        """Close a lane."""

    def waiting(self, name: str) -> bool:
        """Tell whether a call waits in a lane's socket."""


@dataclass
class _Wish:
    """A model that is asked for and has no lane yet."""

    lane: str
    model: str
    memory: int
    renewed: float
    version: object
    look_at: float
    refused: bool = False
    reason: str = ""
    unusable: bool = False
    last_failure: dict[str, Any] | None = None


class Residency:
    """Who is asked for, who opens, who leaves.

    Args:
        settings: MAX_MODELS and MEMORY_LIMIT.
        sockets: opens lanes.
        table: in which a process of a lane marks its place before it takes a call.
    """

    def __init__(self, settings: Settings, sockets: Sockets, table: Table) -> None:
        self._settings = settings
        self._sockets = sockets
        self._table = table
        self._wishes: dict[str, _Wish] = {}
        self._given_up: dict[str, Lane] = {}
        self._dismissed: set[str] = set()

    def want(self, model: str, when: float, lanes: dict[str, Lane], now: float) -> None:
        """Take note that the web process wanted a model's lane at some time."""
        name = f"model:{model}" if model else VOCABULARY
        if name in lanes:
            # Not expected again: the call may have been answered before this was read from another pipe.
            lanes[name].use.note(when)
        elif name in self._wishes:
            if not self._wishes[name].refused:  # or what has changed since would never be seen
                self._wishes[name].renewed = now
        else:
            self._wishes[name] = self._wish(name, model, now)

    def dismiss(self, model: str) -> None:
        """Have a model's lane leave at the next look, if it is idle then."""
        self._dismissed.add(f"model:{model}")

    def keep(self, model: str, seconds: float, lanes: dict[str, Lane]) -> None:
        """Have a model's lane leave once it has been idle for so long."""
        name = f"model:{model}"
        if name in lanes:
            lanes[name].use.keep = seconds

    def loses_file(self, lane: Lane) -> bool:
        """Tell whether a lane's model has no file any more, before a process is started; then the lane leaves."""
        lane.lost = lane.lost or self._sockets.lost(lane)
        return bool(lane.lost)

    def _wish(self, name: str, model: str, now: float) -> _Wish:
        wish = _Wish(name, model, 0, now, self._sockets.version(model) if model else None, now + _LOOK)
        given_up = self._given_up.pop(name, None)
        if given_up is not None and not self._tried_enough(given_up, now) and (
                given_up.use.file == wish.version):
            self._given_up[name] = given_up
            wish.refused, wish.reason, wish.last_failure = True, given_up.starts.failing, given_up.last_failure
            wish.unusable = given_up.starts.unusable
        elif model:
            try:
                wish.memory = self._sockets.memory(model)
            except (ModelUnavailable, OSError) as exc:
                wish.refused, wish.reason = True, str(exc)
        return wish

    def to_close(self, lanes: dict[str, Lane], leaving: list[Lane], now: float) -> list[Lane]:
        """Return the lanes that have to leave now.

        Args:
            lanes: those that are open.
            leaving: those that were closed and whose processes haven't ended yet.
        """
        self._forget(now)
        gone = [lane for lane in lanes.values() if self._leaves(lane, now)]
        for name in self._dismissed:
            self._wishes.pop(name, None)
        self._dismissed.clear()
        for wish in self._wishes.values():
            if not wish.refused and wish.model:
                gone += self._make_room(wish, [lane for lane in lanes.values() if lane not in gone], [*leaving, *gone],
                                        now)
        self._given_up.update((lane.name, lane) for lane in gone if lane.starts.failing and not lane.lost)
        return gone

    def _leaves(self, lane: Lane, now: float) -> bool:
        if lane.lost and not self._in_use(lane):
            return True
        return lane.use.may_leave and (self._tried_enough(lane, now) or self._has_to_leave(lane, now))

    def _has_to_leave(self, lane: Lane, now: float) -> bool:
        asked = lane.name in self._dismissed or now - lane.use.last >= lane.use.keep
        return asked and self._idle(lane, now)

    def _tried_enough(self, lane: Lane, now: float) -> bool:
        if lane.starts.failing:
            return now - lane.starts.given_up > _GIVE_UP_AFTER
        return lane.starts.struggling and not self._in_use(lane) and now - lane.use.last > _GIVE_UP_AFTER

    def to_open(self, lanes: dict[str, Lane], leaving: list[Lane], now: float) -> list[Lane]:
        """Open the lanes for which there is room; return them."""
        opened: list[Lane] = []
        if not any(lane.name in self._sockets.absent() for lane in leaving):
            opened += self._sockets.open_come(now)
        for wish in list(self._wishes.values()):
            there = [*lanes.values(), *opened]
            if wish.refused or (wish.model and self._shortage(wish, there, leaving)):
                continue
            try:
                lane = self._sockets.open(wish.lane, wish.model)
            except (ModelUnavailable, OSError) as exc:
                wish.refused, wish.reason = True, str(exc)
                continue
            lane.use = Use(bool(wish.model), now, now + _EXPECTED, file=self._sockets.version(wish.model))
            opened.append(lane)
            del self._wishes[wish.lane]
        return opened

    def public(self) -> dict[str, dict[str, Any]]:
        """Return the board's word on models that are asked for and have no lane."""
        return {**self._sockets.absent(), **{
            wish.lane: {"state": "failing" if wish.refused else "waiting", "reason": wish.reason,
                        "model": wish.model, **({"last_failure": wish.last_failure} if wish.last_failure else {}),
                        **({"unusable": True} if wish.unusable else {})}
            for wish in self._wishes.values()}}

    def _forget(self, now: float) -> None:
        for wish in list(self._wishes.values()):
            if now - wish.renewed > _FORGET_AFTER or (wish.refused and wish.model and self._has_changed(wish, now)):
                del self._wishes[wish.lane]

    def _has_changed(self, wish: _Wish, now: float) -> bool:
        """Tell whether there is another file than when the wish came."""
        if now < wish.look_at:
            return False
        wish.look_at = now + _LOOK
        return self._sockets.version(wish.model) != wish.version

    def _make_room(self, wish: _Wish, lanes: list[Lane], leaving: list[Lane], now: float) -> list[Lane]:
        """Return the lanes that leave for a wish: none if all that could leave wouldn't be enough."""
        fixed = sum(lane.memory for lane in lanes if not lane.use.may_leave)
        limit = self._settings.memory_limit
        if limit and fixed + wish.memory > limit:
            wish.refused = True
            wish.reason = (f"{wish.model} needs about {_mb(wish.memory)}, but MEMORY_LIMIT leaves "
                           f"{_mb(max(0, limit - fixed))} beside the configured models")
            return []
        if self._settings.max_models == 0:
            wish.refused, wish.reason = True, "MAX_MODELS is 0: only the configured models are served"
            return []
        idle = [lane for lane in lanes if lane.use.may_leave and self._idle(lane, now)]
        idle.sort(key=lambda lane: (not lane.starts.struggling, lane.use.last))
        gone: list[Lane] = []
        # Those that are leaving already make room too; it is waited for, and nobody else leaves instead.
        while self._shortage(wish, [lane for lane in lanes if lane not in gone], []):
            if not idle:
                wish.reason = "all other models that are loaded are in use (MAX_MODELS, MEMORY_LIMIT)"
                return []
            gone.append(idle.pop(0))
        wish.reason = "it waits for another model to leave" if gone or leaving else ""
        return gone

    def _shortage(self, wish: _Wish, lanes: list[Lane], leaving: list[Lane]) -> bool:
        there = [*lanes, *leaving]
        limit = self._settings.memory_limit
        too_much = bool(limit) and sum(lane.memory for lane in there) + wish.memory > limit
        return too_much or sum(1 for lane in there if lane.use.may_leave) >= self._settings.max_models

    def _in_use(self, lane: Lane) -> bool:
        return any(self._table[place] for place in lane.places)

    def _idle(self, lane: Lane, now: float) -> bool:
        # First the socket, then the places: a call goes that way too.
        awaited = not lane.starts.struggling and (now <= lane.use.expected or self._sockets.waiting(lane.name))
        return not awaited and not self._in_use(lane)


def _mb(size: int) -> str:
    return f"{size / (1 << 20):.0f} MB"
