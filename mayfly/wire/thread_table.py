"""The table of the thread budget: how many threads each model process of the service uses (mayfly.workers.budget).

The table is one byte a place, in memory of fixed size: lanes come and go while processes have it mapped. The supervisor
allots the places of a lane when it opens and takes them back when its last process has exited. Whoever reaps a dead
process empties its place. A place is taken before the call is, so the supervisor also sees by it whether a lane is in
use. Two bytes more hold how many cores are free for all of them together: the watchdog lowers them while other programs
compute (see mayfly.supervision.cores).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from mayfly.compat.memory import join_memory, shared_memory

#: Places of the table: more than MAX_MODELS lanes with CHAT_PROCESSES completions each can take.
PLACES = 4095
_SIZE = PLACES + 2

_LOW = 16
_FREE = bytes(PLACES - _LOW)


class Table:
    """The shared table.

    Attributes:
        handle: by which a process of the same service joins it; see `shared_memory`.
    """

    def __init__(self, memory: mmap.mmap, handle: int | str) -> None:
        self._map = memory
        self.handle = handle

    @classmethod
    def make(cls) -> Table:
        """Make the table of a service.

        Raises:
            OSError: there is no memory.
        """
        return cls(*shared_memory(_SIZE))

    @classmethod
    def join(cls, handle: int | str) -> Table:
        """Return the table that this process's parent has made."""
        return cls(join_memory(handle, _SIZE), handle)

    @property
    def free_cores(self) -> tuple[int, int]:
        """Cores that other programs leave free, for threads that spin and for threads that sleep while they wait; 0
        while nobody has looked."""
        return self._map[PLACES], self._map[PLACES + 1]

    @free_cores.setter
    def free_cores(self, cores: tuple[int, int]) -> None:
        self._map[PLACES], self._map[PLACES + 1] = (min(number, 255) for number in cores)

    def __getitem__(self, place: int) -> int:
        return self._map[place]

    def __setitem__(self, place: int, threads: int) -> None:
        self._map[place] = threads

    def free(self, places: Iterable[int]) -> None:
        """Empty places: a process that died while it computed can't give its threads back itself."""
        for place in places:
            self[place] = 0

    def busy(self) -> list[int]:
        """Return the places that compute now, in order."""
        return [place for place, threads in enumerate(self._places()) if threads]

    def in_use(self) -> int:
        """Return the threads in use at all places."""
        return sum(self._places())

    def _places(self) -> bytes:
        """Return the places' threads, without most of the free places at the end."""
        # Low places are allotted first, so little is left to look at; this is done at every token.
        if self._map[_LOW:PLACES] == _FREE:
            return self._map[:_LOW]
        return self._map[:PLACES]


class Allotment:
    """Which places of the table belong to which lane."""

    def __init__(self) -> None:
        self._free = list(range(PLACES))

    def take(self, count: int) -> tuple[int, ...]:
        """Return the lowest free places."""
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def give_back(self, places: tuple[int, ...]) -> None:
        """Take back what a lane had."""
        self._free = sorted([*self._free, *places])
