"""How long the threads of OpenMP, which llama.cpp computes with, spin while they wait for one another.

Documented in libgomp's manual, under GOMP_SPINCOUNT: the number of turns is read once, when the library is loaded; but
as long as a process has more threads of OpenMP than there are cores, no more than 100 are taken (where OMP_WAIT_POLICY
isn't set). So a team that does nothing shortens the turns of those that compute, for as long as it is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

#: Turns of a loop before a thread sleeps.
# With 1,000 two threads on two cores slept within a token as the window grew: 400 tokens into it a token of a 135 M
# model took 1.06 of its time with 3,000, and with 10,000 and more it took no less. Beside another program's work on one
# of the cores it took 29 ms with 1,000, 43 with 3,000, 65 with 10,000, and 16 with 3,000 that were shortened. Shortened
# they are no good without need: sixteen threads on sixteen cores made 52 tokens/s of that model with 100, and 160 to
# 239 with 1,000 and 10,000.
TURNS = 3000


def set_turns() -> None:
    """Set the turns of a libgomp that is yet to be loaded, unless the environment sets them."""
    os.environ.setdefault("GOMP_SPINCOUNT", str(TURNS))


class Spinning:
    """The turns of this process's threads.

    Args:
        library: one that computes with OpenMP. With another there is nothing to shorten.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._short = contextlib.ExitStack()
        self._computing = 0

    def shorten(self, computing: int) -> None:
        """See to it that threads which wait sleep almost at once; 0 takes that back.

        Args:
            computing: how many threads compute.
        """
        if computing == self._computing:
            return
        self._computing = computing
        self._short.close()
        # With those that compute, less the one that each team has from its caller, there is one more than cores.
        if computing and hasattr(self._library, "GOMP_parallel"):
            idle = max(2, self._library.omp_get_num_procs() + 2 - computing)
            self._short.enter_context(_idle_team(self._library, idle))


@contextlib.contextmanager
def _idle_team(library: ctypes.CDLL, threads: int) -> Iterator[None]:
    """Have a team of threads that have nothing to do, and sleep."""
    parallel, nothing = library.GOMP_parallel, library.omp_get_thread_num
    parallel.restype, parallel.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    there, ended = threading.Event(), threading.Event()

    def have() -> None:
        parallel(ctypes.cast(nothing, ctypes.c_void_p), None, threads, 0)
        there.set()
        ended.wait()

    # A team is there as long as the thread that has called for it.
    holder = threading.Thread(target=have, name="idle-team", daemon=True)
    holder.start()
    there.wait()
    try:
        yield
    finally:
        ended.set()
        holder.join()
