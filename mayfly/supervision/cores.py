"""How many cores are free for the service's model processes, seen by what all others use.

gpt4all's threads spin while they wait for one another. Two of them beside one busy program on two cores are not a
third slower: 50 tokens of a tiny model then take 2.8 s instead of 0.015 s, where one thread would take 0.02 s. So
threads that others need are given up while they need them. OpenVINO's threads sleep while they wait: beside one busy
program they lose a third instead, and what a client and the web process use while the model waits for them is no reason
to give one up. Theirs are given up to somebody who needs most of a core.

Linux tells (/proc/stat and /proc/<pid>/stat, see proc(5)); elsewhere all cores count as free.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path

# Over less than this the kernel's clock ticks (10 ms) are too coarse.
_WINDOW = 0.25
# What others may use of a core before it counts as taken: for threads that spin, and for threads that sleep.
_TOLERANCES = (0.35, 0.75)


class FreeCores:
    """Measures, from one call to the next, what others use.

    Args:
        cores: how many this service may use.
        proc: where the kernel tells.
        cpus: numbers of the cores on which it may use so many: all, or those that it is bound to. What others use
            elsewhere takes nothing from it, nor what they leave free here.
    """

    def __init__(self, cores: int, proc: Path = Path("/proc"), cpus: Collection[int] = ()) -> None:
        self._cores = cores
        self._proc = proc
        self._cpus = cpus or (os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ())
        self._ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._last: tuple[float, float, float] | None = None
        self._free = (cores, cores)

    def measure(self, workers: Iterable[int], now: float) -> tuple[int, int]:
        """Return how many cores are free for workers, at least 1: for threads that spin, and for threads that sleep.

        Args:
            workers: pids of the model processes. What their ended children used is counted with them.
            now: on a monotonic clock, in seconds.
        """
        if self._last is not None and now - self._last[0] < _WINDOW:
            return self._free
        try:
            busy = self._busy()
        except (OSError, ValueError, IndexError):
            return self._cores, self._cores
        ours = sum(self._used(pid) for pid in workers)
        last, self._last = self._last, (now, busy, ours)
        # A worker that ended took its count along: that span says nothing.
        if last is not None and ours >= last[2] and busy >= last[1]:
            others = (busy - last[1] - (ours - last[2])) / self._ticks / (now - last[0])
            spinning, sleeping = (max(1, min(self._cores, math.floor(len(self._cpus) - others + tolerance)))
                                  for tolerance in _TOLERANCES)
            self._free = spinning, sleeping
        return self._free

    def _busy(self) -> float:
        """Return the ticks that the cores have worked: user, nice, system, irq, softirq and steal."""
        busy = 0
        with open(self._proc / "stat", encoding="ascii") as file:
            for name, *fields in map(str.split, file):
                if not name.startswith("cpu"):
                    break
                if name[3:] and int(name[3:]) in self._cpus:
                    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                    busy += user + nice + system + irq + softirq + steal
        return busy

    def _used(self, pid: int) -> int:
        """Return the ticks that a process and its ended children have used."""
        try:
            with open(self._proc / str(pid) / "stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            return sum(int(field) for field in fields[11:15])
        except (OSError, ValueError, IndexError):
            return 0
