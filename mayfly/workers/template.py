"""The chat template: a process with the model loaded that only forks (ISOLATION=fork).

Started by the watchdog. It keeps one generation forked ahead - reseeded, waiting - and, while fewer than
CHAT_PROCESSES calls are being served, accepts a call, hands its connection to that generation and forks the next.
Further calls wait in the lane's socket. It never computes, so its loop beats and reaps whatever the generations do.
It stays single-threaded: a fork beside threads is how deadlocks are made.

A generation tells its template two things over their socket pair: ready, done. The pair's end is its death.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from typing import NoReturn

from mayfly.compat import die_with_parent
from mayfly.engines.base import CompletionEngine
from mayfly.supervision.sentinel import Sentinel
from mayfly.workers import exits
from mayfly.workers.accept import TICK, ModelFile, take_call
from mayfly.workers.budget import Budget, Table
from mayfly.workers.serving import serve_completion
from mayfly.workers.spec import Events, Spec

_READY = b"r"
_DONE = b"d"
# With a connection goes the place in the thread budget.
_PLACE = struct.Struct("<H")
# A generation that dies before it has served anything is replaced, but not in a busy loop.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0


@dataclass
class _Generation:
    """A forked process, as its template sees it."""

    number: int
    pid: int
    channel: socket.socket
    forked: float
    ready: bool = False
    place: int | None = None  # in the thread budget, while it serves
    served: bool = False


class Template:
    """The template's loop; see the module's docstring."""

    def __init__(self, spec: Spec, engine: CompletionEngine, listener: socket.socket, model_file: ModelFile,
                 events: Events) -> None:
        self._spec = spec
        self._engine = engine
        self._listener = listener
        self._model_file = model_file
        self._events = events
        self._sentinel = Sentinel(spec.sentinel())
        self._table = Table(spec.budget)
        self._places = set(spec.places)
        self._next_number = spec.generation
        self._generations: dict[int, _Generation] = {}  # by the channel's descriptor
        self._ahead: _Generation | None = None
        self._pause = 0.0
        self._fork_at = 0.0

    def run(self) -> int:
        """Fork and hand out until told to end; return the exit code."""
        facts = {"pid": os.getpid(), "generation": self._spec.generation, "model": self._engine.model,
                 "when": time.time()}
        self._sentinel.write(facts)
        self._events.send("ready", model=self._engine.model, generation=self._spec.generation)
        # What exists now is never collected, so a collection in a generation doesn't copy these pages.
        gc.collect()
        gc.freeze()
        while True:
            self._sentinel.beat()
            if self._model_file.changed():
                # Those being served finish; calls that wait are served by the next template.
                if not any(generation.place for generation in self._generations.values()):
                    self._sentinel.remove()
                    return exits.MODEL_CHANGED
            elif self._ahead is None and time.monotonic() >= self._fork_at:
                self._fork()
            self._wait()

    # -- the loop ---------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        for descriptor in self._generations:
            poll.register(descriptor, select.POLLIN)
        free = self._free_places()
        if self._ahead is not None and self._ahead.ready and free and not self._model_file.changed():
            poll.register(self._listener, select.POLLIN)
        timeout = TICK if self._ahead is not None else min(TICK, max(0.0, self._fork_at - time.monotonic()))
        for descriptor, _ in poll.poll(timeout * 1000):
            if descriptor == self._listener.fileno():
                self._hand_out()
            else:
                self._listen_to(self._generations[descriptor])

    def _free_places(self) -> set[int]:
        return self._places - {generation.place for generation in self._generations.values()
                               if generation.place is not None}

    def _hand_out(self) -> None:
        generation = self._ahead
        assert generation is not None
        place = min(self._free_places())
        # Before the call leaves the socket: the watchdog looks in both places, and must see it in one of them.
        self._table[place] = 1
        connection = take_call(self._listener, self._spec.address)
        if connection is None:
            self._table[place] = 0
            return
        # If it died this moment, the caller sees a connection that ended before it began, and tries again.
        with connection, contextlib.suppress(OSError):
            socket.send_fds(generation.channel, [_PLACE.pack(place)], [connection.fileno()])
        generation.place = place
        self._ahead = None
        self._fork_at = 0.0

    def _listen_to(self, generation: _Generation) -> None:
        try:
            said = generation.channel.recv(16)
        except OSError:
            said = b""
        if not said:
            self._reap(generation)
            return
        if _READY in said:
            generation.ready = True
            self._events.send("forked", generation=generation.number, pid=generation.pid,
                              seconds=round(time.monotonic() - generation.forked, 5))
        if _DONE in said:
            generation.served = True
            self._empty(generation)
            self._pause = 0.0

    def _empty(self, generation: _Generation) -> None:
        if generation.place is not None:
            self._table[generation.place] = 0
            generation.place = None

    def _reap(self, generation: _Generation) -> None:
        """Take note of a generation's end. Its channel closes as it dies, so this wait is short."""
        _, status = os.waitpid(generation.pid, 0)
        del self._generations[generation.channel.fileno()]
        generation.channel.close()
        self._empty(generation)
        self._events.send("exited", generation=generation.number, pid=generation.pid,
                          code=os.waitstatus_to_exitcode(status))
        if generation is self._ahead:
            self._ahead = None
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._fork_at = time.monotonic() + self._pause

    # -- forking ----------------------------------------------------------------------------------------------

    def _fork(self) -> None:
        mine, theirs = socket.socketpair()
        number = self._next_number
        self._next_number += 1
        template = os.getpid()
        forked = time.monotonic()
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._become_generation(number, template, theirs)
        theirs.close()
        self._ahead = _Generation(number, pid, mine, forked)
        self._generations[mine.fileno()] = self._ahead

    def _become_generation(self, number: int, template: int, channel: socket.socket) -> NoReturn:
        """The generation: reseed, wait for the one call, serve it, exit. Never returns into the template's loop."""
        code = 1
        try:
            die_with_parent(template)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._listener.close()
            for other in self._generations.values():
                other.channel.close()
            self._live(number, channel)
            code = exits.DONE
        except BaseException:
            # The outermost boundary of this process: what is written here is in the failure report.
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _live(self, number: int, channel: socket.socket) -> None:
        self._engine.reseed()
        sentinel = Sentinel(self._spec.sentinel(number))
        facts = {"pid": os.getpid(), "generation": number, "model": self._engine.model, "when": time.time()}
        sentinel.write(facts)
        channel.send(_READY)
        while not select.select([channel], [], [], TICK)[0]:
            sentinel.beat()
        message, descriptors, _, _ = socket.recv_fds(channel, _PLACE.size, 1)
        if not descriptors:
            raise ConnectionError("the template is gone")
        connection = socket.socket(fileno=descriptors[0])
        budget = Budget(self._table, _PLACE.unpack(message)[0], self._spec.settings.threads, self._engine.set_threads)
        served = serve_completion(connection, self._engine, generation=number, sentinel=sentinel, budget=budget,
                                  facts=facts)
        sentinel.remove()
        self._events.send("served", generation=number, outcome=served.outcome, seconds=round(served.seconds, 4),
                          tokens=served.tokens)
        channel.send(_DONE)
