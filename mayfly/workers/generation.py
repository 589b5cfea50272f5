"""A generation: a process forked from a loaded model that answers exactly one completion call, and exits.

Its parent is the template, which forks it ahead of its call. It tells the watchdog that it is there, and its parent
that it is ready and that it is done; its end it tells by the end of the channel.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import Any

from mayfly.engines.base import CompletionEngine
from mayfly.supervision.sentinel import Sentinel
from mayfly.workers import exits
from mayfly.workers.accept import TICK
from mayfly.workers.budget import Budget, Table
from mayfly.workers.serving import serve_completion
from mayfly.workers.spec import Events, Spec

READY = b"r"
DONE = b"d"

# With a connection goes the place in the thread budget.
_PLACE = struct.Struct("<H")


class Generation:
    """What a forked process does that is to serve one call.

    Made just before the fork.
    """

    def __init__(self, spec: Spec, engine: CompletionEngine, table: Table, events: Events, number: int) -> None:
        self._spec = spec
        self._engine = engine
        self._table = table
        self._events = events
        self._number = number
        self._made = time.monotonic()
        self._sentinel = Sentinel(spec.sentinel(number))
        self._facts: dict[str, Any] = {"generation": number, "model": engine.model}

    def live(self, channel: socket.socket) -> int:
        """Wait for the parent to hand a connection over, and serve it; return the exit code."""
        self._come_up(channel)
        while not select.select([channel], [], [], TICK)[0]:
            self._sentinel.beat()
        message, descriptors, _, _ = socket.recv_fds(channel, _PLACE.size, 1)
        if not descriptors:
            raise ConnectionError("the template is gone")
        self._serve(channel, socket.socket(fileno=descriptors[0]), _PLACE.unpack(message)[0])
        return exits.DONE

    def _come_up(self, channel: socket.socket) -> None:
        self._engine.reseed()
        self._facts.update(pid=os.getpid(), when=time.time())
        self._sentinel.write(self._facts)
        self._events.send("forked", generation=self._number, pid=os.getpid(),
                          seconds=round(time.monotonic() - self._made, 5))
        channel.send(READY)

    def _serve(self, channel: socket.socket, connection: socket.socket, place: int) -> None:
        budget = Budget(self._table, place, self._spec.settings.threads, self._engine.set_threads)
        served = serve_completion(connection, self._engine, generation=self._number, sentinel=self._sentinel,
                                  budget=budget, facts=self._facts)
        self._sentinel.remove()
        self._events.send("served", generation=self._number, outcome=served.outcome, seconds=round(served.seconds, 4),
                          tokens=served.tokens)
        channel.send(DONE)


def hand_over(channel: socket.socket, place: int, connection: socket.socket) -> None:
    """Give a waiting generation its call.

    Raises:
        OSError: it has died.
    """
    socket.send_fds(channel, [_PLACE.pack(place)], [connection.fileno()])
