"""The thread budget: all model processes of the service share `THREADS` compute threads.

gpt4all's threads spin while they wait for one another, so two processes with two threads each on two cores don't
halve their speed, they collapse (7 texts a second instead of 390). A small table in shared memory holds, for every
place at which a model process may compute, how many threads it uses: 0 when idle. A process enters when a call
begins, looks again at every token or text, and leaves at the end. Each place has one writer at a time; nothing is
locked, and a stale look is put right at the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mayfly.wire.thread_table import Table

# How long a process that begins waits for the others to give up threads. They look once a token; a prompt batch of
# a large model takes longer, and beginning beside it is then better than waiting for it.
_PATIENCE = 0.25
_PAUSE = 0.001
# What others use of the cores is measured over a past that a program which has just stopped was part of. So a process
# looks at most so many times, so far apart (s), who computes now, and if so many show nobody, the measurement counts
# for nothing until it is about the time since then. Until then who made the call may be on its way to sleep, and
# threads of OpenMP spin for 10 ms behind the last that they had to do.
_LOOKS, _FREE_LOOKS = 15, 3
_BETWEEN_LOOKS = 0.001
_OUTDATED = 0.5


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
        spinning: whether the engine's threads use a core while they wait for one another; those that sleep mind other
            programs less.
        proc: where the kernel tells who computes; Linux does.
    """

    def __init__(self, table: Table, place: int, total: int, set_threads: Callable[[int], None], *,
                 spinning: bool = True, proc: Path = Path("/proc")) -> None:
        self._table = table
        self._place = place
        self._total = min(total, 255)
        self._set_threads = set_threads
        self._spinning = spinning
        self._proc = proc
        self._threads = 0
        self._most: int | None = None
        self._alone_until = 0.0

    def enter(self, most: int | None = None, *, look: bool = False) -> None:
        """Begin to compute: take a share, and give the others a moment to give theirs up.

        Args:
            most: threads that the call itself wants at most; None is as many as its share.
            look: see whether programs that are said to need cores still do: worth its 3 to 15 ms where the share can't
                be taken back soon, since a batch of a prompt is computed with the threads it began with.
        """
        self._most = most
        self._table[self._place] = 1
        if look and self._allowed() < self._total and self._nobody_else():
            self._alone_until = time.monotonic() + _OUTDATED
        mine = self._share()
        patience = time.monotonic() + _PATIENCE
        total = self._allowed()
        while self._table.in_use() - 1 + mine > total and len(self._table.busy()) <= total:
            if time.monotonic() >= patience:
                break
            time.sleep(_PAUSE)
        self._use(self._share())

    def adjust(self) -> None:
        """Between two tokens or texts: give threads up or take them back as others begin and end."""
        self._use(self._share())

    @property
    def full(self) -> int:
        """The threads that the call would have if nothing else computed."""
        return self._total if self._most is None else min(self._total, self._most)

    def leave(self) -> None:
        """Stop computing."""
        self._table[self._place] = 0

    def _share(self) -> int:
        busy = self._table.busy()
        # Somebody who took this process for dead may have freed its place.
        mine = share(self._allowed(), busy, self._place) if self._place in busy else 1
        return mine if self._most is None else min(mine, self._most)

    def _nobody_else(self) -> bool:
        """Tell whether no thread of another program computes, as far as the kernel tells."""
        free = 0
        for _ in range(_LOOKS):
            time.sleep(_BETWEEN_LOOKS)
            try:
                running = int((self._proc / "loadavg").read_text().split()[3].partition("/")[0])
            except (OSError, ValueError, IndexError):
                return False
            free += running <= self._table.in_use()
            if free == _FREE_LOOKS:
                return True
        return False

    def _allowed(self) -> int:
        if time.monotonic() < self._alone_until:
            return self._total
        return min(self._total, self._table.free_cores[not self._spinning] or self._total)

    def _use(self, threads: int) -> None:
        self._table[self._place] = threads
        if threads != self._threads:
            self._set_threads(threads)
            self._threads = threads
