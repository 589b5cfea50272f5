"""Work with what a caller sent that may end its process, in native code: it is tried in a fork first.

A fork that computes nothing needs none of the threads that its process may have. Where processes don't fork (Windows,
macOS beside its own libraries) nothing is tried, and the process that serves the call is at risk.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from mayfly.compat.process import die_with_parent
from mayfly.prompts.limits import bounded

# How often the call is looked at meanwhile (ms).
_LOOK_INTERVAL = 20


def survives(work: Callable[[], object], *, memory: int, seconds: float, on_progress: Callable[[], bool]) -> bool:
    """Tell whether a process does some work to its end, with no more than so much memory and processor time.

    Args:
        work: it does so too if it raises ValueError.
        memory: bytes, beside what the process has.
        on_progress: called meanwhile; what it raises ends the attempt.
    """
    if not sys.platform.startswith("linux"):
        return True
    ended, alive = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _try(parent, work, memory, seconds)
    os.close(alive)
    poll = select.poll()
    poll.register(ended)
    try:
        while not poll.poll(_LOOK_INTERVAL):
            on_progress()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(ended)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _try(parent: int, work: Callable[[], object], memory: int, seconds: float) -> NoReturn:
    code = 1
    try:
        die_with_parent(parent)
        # What native code says as it dies is of no use to anybody: it is the caller's fault.
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(ValueError):
            bounded(work, memory=memory, seconds=seconds)
        code = 0
    finally:
        os._exit(code)
