"""What a process tells the watchdog, a JSON line each through its standard output: events.

Native code that prints there must not garble them, so the real standard output is put aside for the events, and
descriptor 1 made a second standard error.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field

from mayfly.compat.process import take_stdout
from mayfly.wire.codec import plain

_encode = json.JSONEncoder(default=plain).encode


@dataclass(frozen=True)
class Ready:
    """A worker serves; `facts` is what it shows of its engine."""

    model: str
    generation: int
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CannotLoad:
    """The model can't be loaded, or, if it is `unusable`, never will be; the worker ends."""

    reason: str
    unusable: bool = False


@dataclass(frozen=True)
class Forked:
    """A template has forked a generation, in so many seconds."""

    generation: int
    pid: int
    seconds: float


@dataclass(frozen=True)
class Exited:
    """A template's generation has ended."""

    generation: int
    pid: int
    code: int


@dataclass(frozen=True)
class Served:
    """A worker has served a call, or several: then it doesn't say how.

    Attributes:
        when: it was done, before the caller knew: the worker may be kept from telling this until the caller has asked
            for another model. 0 is when this is told.
    """

    generation: int
    outcome: str = ""
    seconds: float = 0.0
    tokens: int = 0
    calls: int = 1
    when: float = 0.0


@dataclass(frozen=True)
class Remembered:
    """What a lane's prefix store has been good for, and holds.

    Attributes:
        hits, misses: prompts of which a beginning was there, and those of which none was.
        tokens_saved: prompt tokens that weren't evaluated.
        states, bytes: what it holds.
    """

    hits: int = 0
    misses: int = 0
    tokens_saved: int = 0
    states: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Access:
    """The web process has answered a request; the line is for the access log."""

    line: str


@dataclass(frozen=True)
class Want:
    """Somebody waits for the lane of a model, given by its id, or "" for that of tokens. Repeated while he waits."""

    model: str


@dataclass(frozen=True)
class Dismiss:
    """The lane of a model, given by its id, is to close, if nobody uses it. Repeated while somebody waits for that."""

    model: str


@dataclass(frozen=True)
class Keep:
    """The lane of a model, given by its id, is to close once it has been idle for so long (s)."""

    model: str
    seconds: float


@dataclass(frozen=True)
class Log:
    """A line for the log."""

    line: str


@dataclass(frozen=True)
class Drains:
    """The web process stops, and answers whoever still comes."""


Event = Ready | CannotLoad | Forked | Exited | Served | Remembered | Access | Want | Dismiss | Keep | Log | Drains


@dataclass(frozen=True)
class Told:
    """An event, and when it was: the watchdog reads the pipes of several processes in any order.

    Attributes:
        dropped: so many before it found no room in the pipe.
    """

    event: Event
    at: float
    dropped: int = 0


class EventPipe:
    """The way to the watchdog. May be used by several threads, and shared by forks.

    Args:
        drops: what doesn't fit into the pipe at once is dropped and counted: the watchdog may be slow or hung, and no
            request waits for it. A worker waits instead, since the watchdog keeps its books by what it says.
    """

    def __init__(self, descriptor: int, *, drops: bool) -> None:
        self._descriptor = descriptor
        self._dropped = 0
        self._lock = threading.Lock()
        if drops and hasattr(os, "set_blocking"):  # Windows: since Python 3.12
            os.set_blocking(descriptor, False)

    @classmethod
    def instead_of_stdout(cls, *, drops: bool = False) -> EventPipe:
        """Take standard output over; whatever else prints there goes to standard error from now on."""
        return cls(take_stdout(), drops=drops)

    def send(self, event: Event) -> None:
        """Tell the watchdog."""
        with self._lock:
            line = _encode(Told(event, time.monotonic(), self._dropped)) + "\n"
            try:
                # Up to PIPE_BUF (4096) bytes a write is whole or not at all, so lines of several processes don't mix.
                os.write(self._descriptor, line.encode())
                self._dropped = 0
            except OSError:  # it is full, or the watchdog is gone, and this process with it in a moment
                self._dropped += 1
