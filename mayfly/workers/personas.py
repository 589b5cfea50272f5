"""Which personas are worth a snapshot, and which snapshot leaves for another: decisions, no processes.

Personas are known by their keys alone (`CompletionCall.persona_key`): what was forked from this process must hold no
text of an earlier call.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from mayfly.lanes.calls import NO_PERSONA

# Keys that are remembered; a persona that is used less often than this many others isn't used again and again.
_REMEMBERED = 4096


class Kept(Protocol):
    """What is known of a snapshot."""

    memory: int

    @property
    def idle(self) -> bool:
        """No call is served from it now."""


@dataclass
class Personas:
    """What was seen of personas.

    Args:
        after: with which of its calls a persona gets a snapshot (SNAPSHOT_AFTER).
        most: snapshots at a time (SNAPSHOTS).
        memory: bytes that they may take together (SNAPSHOT_MEMORY), or 0 for any number.
    """

    after: int
    most: int
    memory: int
    _seen: collections.OrderedDict[bytes, int] = field(default_factory=collections.OrderedDict, init=False)
    _unfit: collections.OrderedDict[bytes, None] = field(default_factory=collections.OrderedDict, init=False)

    def see(self, key: bytes) -> bool:
        """Take note of a call; tell whether its persona is worth a snapshot, which it has not yet."""
        if not self.most or key == NO_PERSONA or key in self._unfit:
            return False
        self._seen[key] = self._seen.get(key, 0) + 1
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return self._seen[key] >= self.after

    def forget(self, key: bytes) -> None:
        """Begin to count anew: its snapshot has left or died."""
        self._seen.pop(key, None)

    def give_up(self, key: bytes) -> None:
        """Never try this one again: it can't be kept, or its snapshot died over it."""
        self.forget(key)
        self._unfit[key] = None
        if len(self._unfit) > _REMEMBERED:
            self._unfit.popitem(last=False)

    def room(self, snapshots: Iterable[Kept]) -> tuple[bool, list[Kept]]:
        """Tell whether there is room for one more, and which must leave for it.

        Args:
            snapshots: the living ones, the least recently used first.
        """
        there = list(snapshots)
        surplus = len(there) + 1 - self.most
        leavers = [snapshot for snapshot in there if snapshot.idle][:max(0, surplus)]
        return len(leavers) >= surplus, leavers

    def surplus(self, snapshots: Iterable[Kept]) -> list[Kept]:
        """Return those that must leave because all together take too much memory.

        Args:
            snapshots: as in `room`.
        """
        there = list(snapshots)
        excess = sum(snapshot.memory for snapshot in there) - self.memory if self.memory else 0
        leavers = []
        for snapshot in there:
            if excess <= 0:
                break
            if snapshot.idle:
                leavers.append(snapshot)
                excess -= snapshot.memory
        return leavers
