"""A generation: a process forked from a loaded model that answers exactly one completion call, and exits.

Its parent is the template, which forks it ahead of its call. It tells the watchdog that it is there, and its parent
that it is ready, that it has read a request which wasn't whole when it got it, that its call had a form, and that it is
done; its end it tells by the end of the channel. It asks its parent for what the prefix store has of its prompt, and
hands back what it has evaluated itself.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from mayfly.compat.pages import Span, map_pages, take_pages
from mayfly.compat.sockets import hung_up, readable
from mayfly.engines.base import CompletionEngine
from mayfly.wire import exits
from mayfly.wire.calls import CompletionCall, Request
from mayfly.wire.events import EventPipe, Forked
from mayfly.wire.sentinel import AHEAD, Sentinel
from mayfly.wire.spec import Spec
from mayfly.wire.thread_table import Table
from mayfly.workers.accept import TICK, Gone, Line
from mayfly.workers.budget import Budget
from mayfly.workers.prefix_store import Lend, lent
from mayfly.workers.serving import Completer

READY = b"r"
READ = b"c"
DONE = b"d"
FORM = b"f"

#: For no place in the thread budget.
NO_PLACE = 0xFFFF

# With a connection, or after it, goes the place.
_PLACE = struct.Struct("<H")


class Generation:
    """What a forked process does that is to serve one call.

    Made just before the fork.

    Args:
        written: what a call writes of its parent's memory.
    """

    def __init__(self, spec: Spec, engine: CompletionEngine, written: Sequence[Span], table: Table, events: EventPipe,
                 number: int) -> None:
        self._spec = spec
        self._engine = engine
        self._written = written
        self._table = table
        self._events = events
        self._number = number
        self._made = time.monotonic()
        self._sentinel = Sentinel(spec.sentinel(number))
        self._facts: dict[str, Any] = {"generation": number, "model": engine.model}

    def live(self, channel: socket.socket) -> int:
        """Wait for the parent to hand a connection over, and serve it; return the exit code."""
        self._come_up(channel)
        folder, idle = self._spec.model_file.resolve().parent, functools.partial(self._idle, channel)
        reseeded = paged = False
        # What a fork pays for its state, its weights' pages and its own is paid before its call comes, and while
        # nobody computes: a call that has just begun would get fewer threads beside it.
        while not readable(channel, TICK):
            if not idle() or paged:
                continue
            if not reseeded:
                self._engine.reseed()
                reseeded = True
            paged = map_pages(folder, idle) and take_pages(self._written, idle)
        message, descriptors, _, _ = socket.recv_fds(channel, _PLACE.size, 1)
        if not descriptors:
            raise ConnectionError("the template is gone")
        (place,) = _PLACE.unpack(message)
        with socket.socket(fileno=descriptors[0]) as connection:
            if not reseeded:
                self._engine.reseed()
            line = Line(connection)
            request = self._read(channel, line)
            if request is not None and place == NO_PLACE:
                place = self._wait_for_place(channel, connection)
            if request is not None and place != NO_PLACE:
                self._serve(channel, line, request, place)
                return exits.DONE
        self._sentinel.remove()
        channel.send(DONE)
        return exits.DONE

    def _come_up(self, channel: socket.socket) -> None:
        self._facts.update(pid=os.getpid(), when=time.time())
        self._sentinel.write(self._facts)
        self._events.send(Forked(self._number, os.getpid(), round(time.monotonic() - self._made, 5)))
        channel.send(READY)

    def _read(self, channel: socket.socket, line: Line) -> Request | None:
        """Read the request; None if it doesn't come, or the parent says that it is enough."""
        try:
            while (request := line.take()) is None:
                self._sentinel.beat()
                if line.overdue(time.monotonic()) or readable(channel):
                    return None
                readable(line.connection, TICK)
        except Gone:
            return None
        return request

    def _wait_for_place(self, channel: socket.socket, connection: socket.socket) -> int:
        """Say that the request is there, and return the place that the parent gives; NO_PLACE if it is of no use."""
        channel.send(READ)
        while not readable(channel, TICK):
            self._sentinel.beat()
            if hung_up(connection):
                return NO_PLACE
        return int(_PLACE.unpack(channel.recv(_PLACE.size))[0])

    def _serve(self, channel: socket.socket, line: Line, request: Request, place: int) -> None:
        budget = Budget(self._table, place, self._spec.settings.threads, self._engine.set_threads)
        completer = Completer(self._engine, generation=self._number, sentinel=self._sentinel, budget=budget,
                              facts=self._facts, lend=self._lend(channel))
        served = completer.serve(line, request)
        self._sentinel.remove()
        self._events.send(served)
        call = request.call
        if isinstance(call, CompletionCall) and (call.sampling.form is not None or call.tools):
            channel.send(FORM)
        # If it dies now, nobody has lost anything but an evaluation.
        completer.hand_back()
        channel.send(DONE)
        if isinstance(call, CompletionCall):
            self._sentinel.write({**self._facts, "doing": AHEAD})
            completer.look_ahead(call, functools.partial(self._idle, channel))
            self._sentinel.remove()

    def _idle(self, channel: socket.socket) -> bool:
        """Beat, and tell whether nobody computes, and the parent wants nothing: later calls' work delays no call."""
        self._sentinel.beat()
        return not self._table.busy() and not readable(channel)

    def _lend(self, channel: socket.socket) -> Lend | None:
        most = self._spec.settings.prefix_memory
        return functools.partial(lent, channel, most) if most else None


def hand_over(channel: socket.socket, place: int, connection: socket.socket) -> None:
    """Give a waiting generation its call.

    Args:
        place: where it computes; with NO_PLACE it reads the request, says so, and waits for `give_place`.

    Raises:
        OSError: it has died.
    """
    socket.send_fds(channel, [_PLACE.pack(place)], [connection.fileno()])


def give_place(channel: socket.socket, place: int) -> None:
    """Give a generation that has read its request the place where it computes, or end it with NO_PLACE.

    Raises:
        OSError: it has died.
    """
    channel.send(_PLACE.pack(place))
