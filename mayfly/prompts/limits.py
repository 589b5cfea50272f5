"""Bounds for a piece of work that comes from a file: a chat template is a program, and may loop, or ask for terabytes.

Time is bounded where there are interval timers (everywhere but on Windows), memory where the system counts a process's
address space (Linux). A limit is of the whole process, and a timer's signal reaches the main thread, so work in another
thread isn't bounded: that is `python app.py` alone, which protects nobody from anything.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

if sys.platform != "win32":
    import resource

T = TypeVar("T")

# How much longer work may take that sees no signal, because it is native code, or swallows what the signal raises: then
# the process dies.
_GRACE = 2.0
# What the signal raises is lost where a destructor or a callback of the collector runs: then it comes again (s).
_AGAIN = 0.1


class TimeIsUp(BaseException):
    """The work has taken the seconds that it may. No `except Exception` in what it calls can hold this up."""


def bounded(work: Callable[[], T], *, memory: int, seconds: float) -> T:
    """Do some work with no more than so much memory beside what there is, and processor time; return what it returns.

    Args:
        memory: bytes.

    Raises:
        MemoryError, TimeIsUp: it wanted more. Work that sees no signal ends with the process.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return work()
    with _little_memory(memory):
        return _in_time(work, seconds)


if sys.platform != "win32":

    @contextlib.contextmanager
    def _little_memory(more: int) -> Iterator[None]:
        if not sys.platform.startswith("linux"):
            yield
            return
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = size + more
        tighter = before != resource.RLIM_INFINITY and before < wanted
        resource.setrlimit(resource.RLIMIT_AS, (before if tighter else wanted, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (before, most))

    def _in_time(work: Callable[[], T], seconds: float) -> T:
        def end(number: int, frame: FrameType | None) -> None:
            raise TimeIsUp

        # Its signal may come between any two steps. So the timers are set where they are cleared, and no context
        # manager is between, whose code could be ended before it has cleared anything.
        before = signal.signal(signal.SIGPROF, end)
        try:
            try:
                signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN)
                signal.setitimer(signal.ITIMER_VIRTUAL, seconds + _GRACE)  # its signal is left to end the process
                return work()
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)  # where its signal may just have come
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)  # where it can't have come again
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGPROF, before)
