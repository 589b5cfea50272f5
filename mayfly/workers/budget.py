"""The thread budget: all model processes of the service share `THREADS` compute threads.

gpt4all's threads spin while they wait for one another, so two processes with two threads each on two cores don't
halve their speed, they collapse (7 texts a second instead of 390). A small table in shared memory holds, for every
place at which a model process may compute, how many threads it uses: 0 when idle. A process enters when a call
begins, looks again at every token or text, and leaves at the end. Each place has one writer at a time; nothing is
locked, and a stale look is put right at the next one.

The table is one byte a place, in memory of fixed size: lanes come and go while processes have it mapped. The supervisor
allots the places of a lane when it opens and takes them back when its last process has exited. Whoever reaps a dead
process empties its place. A place is taken before the call is, so the supervisor also sees by it whether a lane is in
use. Two bytes more hold how many cores are free for all of them together: the watchdog lowers them while other programs
compute (see mayfly.supervision.cores).
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

from mayfly.compat import join_memory, shared_memory

#: Places of the table: more than MAX_MODELS lanes with CHAT_PROCESSES completions each can take.
PLACES = 4095
_SIZE = PLACES + 2

# How long a process that begins waits for the others to give up threads. They look once a token; a prompt batch of
# a large model takes longer, and beginning beside it is then better than waiting for it.
_PATIENCE = 0.25
_LOW = 16
_FREE = bytes(PLACES - _LOW)
_PAUSE = 0.001


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


def share(total: int, busy: list[int], place: int) -> int:
    """Return how many of `total` threads a busy place may use: an equal part, at least one.

    What doesn't divide evenly goes to the first places, so that the parts add up to `total`.
    """
    rank = busy.index(place)
    return max(1, total // len(busy) + (1 if rank < total % len(busy) else 0))


class Budget:
    """One process's part of the table.

    Args:
        table: the shared table.
        place: where this process computes.
        total: THREADS, at most 255.
        set_threads: the engine's setter; called only when the number changes.
        sleeping: whether the engine's threads sleep while they wait for one another, or needn't wait.
        set_spinning: the setter for those that may spin, where the engine has them beside others.
    """

    def __init__(self, table: Table, place: int, total: int, set_threads: Callable[[int], None], *,
                 sleeping: bool = False, set_spinning: Callable[[int], None] | None = None) -> None:
        self._table = table
        self._place = place
        self._total = min(total, 255)
        self._set_threads = set_threads
        self._sleeping = sleeping
        self._set_spinning = set_spinning
        self._spinning = 0
        self._threads = 0
        self._most: int | None = None

    def enter(self, most: int | None = None) -> None:
        """Begin to compute: take a share, and give the others a moment to give theirs up.

        Args:
            most: threads that the call itself wants at most; None is as many as its share.
        """
        self._most = most
        self._table[self._place] = 1
        mine = self._share()
        patience = time.monotonic() + _PATIENCE
        total = self._allowed()
        while self._table.in_use() - 1 + mine > total and len(self._table.busy()) <= total:
            if time.monotonic() >= patience:
                break
            time.sleep(_PAUSE)
        self._use(self._share())

    def look(self) -> None:
        """Between two tokens or texts: give threads up or take them back as others begin and end."""
        self._use(self._share())

    def leave(self) -> None:
        """Stop computing."""
        self._table[self._place] = 0

    def _share(self) -> int:
        busy = self._table.busy()
        # Somebody who took this process for dead may have freed its place.
        mine = share(self._allowed(), busy, self._place) if self._place in busy else 1
        return mine if self._most is None else min(mine, self._most)

    def _allowed(self) -> int:
        return min(self._total, self._table.free_cores[self._sleeping] or self._total)

    def _use(self, threads: int) -> None:
        self._table[self._place] = threads
        if threads != self._threads:
            self._set_threads(threads)
            self._threads = threads
        spinning = min(threads, self._table.free_cores[0] or threads)
        if self._set_spinning is not None and spinning != self._spinning:
            self._set_spinning(spinning)
            self._spinning = spinning
