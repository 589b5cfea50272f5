"""The chat template: a process with the model loaded that only forks (ISOLATION=fork).

Started by the watchdog. It keeps one generation forked ahead - reseeded, waiting - and, while fewer than
CHAT_PROCESSES calls are being served, takes a call, hands its connection to that generation and forks the next. Further
calls wait in the lane's socket. The template never computes and never reads a request, only how long it is, so its loop
beats and reaps whatever the others do. A generation whose request isn't whole yet counts once it has read it. The
template stays single-threaded: a fork beside threads is how deadlocks are made.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import select
import socket
import time
from collections.abc import Sequence

from mayfly.compat.pages import Span
from mayfly.engines.base import CompletionEngine
from mayfly.errors import InvalidRequest
from mayfly.wire import exits
from mayfly.wire.calls import Answer, Request
from mayfly.wire.codec import prepare
from mayfly.wire.events import EventPipe, Exited, Ready
from mayfly.wire.sentinel import Sentinel
from mayfly.wire.spec import Spec
from mayfly.wire.thread_table import Table
from mayfly.workers import forks, generation, prefix_store
from mayfly.workers.accept import TICK, Door, Line, ModelFile
from mayfly.workers.forks import Fork
from mayfly.workers.generation import Generation
from mayfly.workers.prefix_store import PrefixStore

# A generation that dies before it has served anything is replaced, but not in a busy loop.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
# Callers wait, and it wasn't the generation's fault.
_LONGEST_PAUSE_KILLED = 2.0
# Generations that read a request at the same time; for one more, the one that has read longest gives up.
_MOST_READERS = 8


class Template:
    """The template's loop; see the module's docstring.

    Args:
        written: what a call writes of this process's memory.
    """

    def __init__(self, spec: Spec, engine: CompletionEngine, written: Sequence[Span], listener: socket.socket,
                 table: Table, model_file: ModelFile, events: EventPipe) -> None:
        self._spec = spec
        self._engine = engine
        self._written = written
        self._door = Door(listener, spec.address, Line.look)
        self._model_file = model_file
        self._events = events
        self._sentinel = Sentinel(spec.sentinel())
        self._table = table
        self._places = set(spec.places)
        self._next_number = spec.generation
        self._forks: list[Fork] = []
        self._ahead: Fork | None = None
        self._readers: list[Fork] = []
        self._waiting: collections.deque[Fork] = collections.deque()  # with a request, for a place
        self._store = PrefixStore.of(spec.settings.prefix_memory)
        self._pause = 0.0
        self._fork_at = 0.0

    def run(self) -> int:
        """Fork and hand out until told to end; return the exit code."""
        facts = {"pid": os.getpid(), "generation": self._spec.generation, "model": self._engine.model,
                 "when": time.time()}
        self._sentinel.write(facts)
        self._events.send(Ready(self._engine.model, self._spec.generation, self._engine.facts))
        # What all generations need is made once, and not by each of them while its caller waits.
        prepare(Request)
        prepare(Answer)
        # What exists now is never collected, so a collection in a generation doesn't copy these pages.
        gc.collect()
        gc.freeze()
        while True:
            self._sentinel.beat()
            if self._model_file.changed():
                # Those being served finish; calls that wait are served by the next template.
                if len(self._forks) == (self._ahead is not None):
                    self._sentinel.remove()
                    return exits.MODEL_CHANGED
            elif self._ahead is None and time.monotonic() >= self._fork_at:
                self._fork_ahead()
            self._wait()

    # -- the loop ---------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        talking = {fork.fileno(): fork for fork in self._forks}
        for descriptor in talking:
            poll.register(descriptor, select.POLLIN)
        ready = self._ahead is not None and self._ahead.ready
        if ready and self._free_places() and not self._model_file.changed():
            poll.register(self._door, select.POLLIN)
        timeout = TICK if self._ahead is not None else min(TICK, max(0.0, self._fork_at - time.monotonic()))
        for descriptor, _ in poll.poll(timeout * 1000):
            if descriptor in talking:
                self._listen_to(talking[descriptor])
            else:
                self._take_call()
        self._door.send_away()
        while self._waiting and (free := self._free_places()):
            self._give_place(self._waiting.popleft(), min(free))

    def _free_places(self) -> set[int]:
        return self._places.difference(fork.place for fork in self._forks if fork.place is not None)

    def _take_call(self) -> None:
        fork = self._ahead
        if fork is None:
            return  # it has died this moment
        place = min(self._free_places())
        # Before the call leaves the socket: the watchdog looks in both places, and must see it in one of them.
        self._table[place] = 1
        came = self._door.receive(0, 1)
        for line, whole in came:
            if not whole:
                self._let_read(fork)
            else:
                fork.place = place
            # If it died this moment, the caller sees a connection that ended before it began, and tries again.
            with line.connection, contextlib.suppress(OSError):
                generation.hand_over(fork.channel, place if whole else generation.NO_PLACE, line.connection)
            self._ahead = None
            self._fork_at = 0.0
        if fork.place is None:
            self._table[place] = 0

    def _let_read(self, fork: Fork) -> None:
        self._readers.append(fork)
        if len(self._readers) > _MOST_READERS:
            with contextlib.suppress(OSError):
                generation.give_place(self._readers.pop(0).channel, generation.NO_PLACE)

    def _give_place(self, fork: Fork, place: int) -> None:
        self._table[place] = 1
        fork.place = place
        with contextlib.suppress(OSError):
            generation.give_place(fork.channel, place)

    # -- generations ------------------------------------------------------------------------------------------

    def _fork_ahead(self) -> None:
        number = self._next_number
        self._next_number += 1
        served = Generation(self._spec, self._engine, self._written, self._table, self._events, number)
        self._ahead = forks.start(number, served.live, self._let_go)
        self._forks.append(self._ahead)

    def _let_go(self) -> None:
        """In a fork: close what is the template's alone."""
        for fork in self._forks:
            fork.channel.close()
        self._door.close()
        if self._store is not None:
            self._store.close()

    def _listen_to(self, fork: Fork) -> None:
        said, descriptors = fork.receive()
        if said == generation.READY:
            fork.ready = True
        elif said == generation.READ:
            if fork in self._readers:
                self._readers.remove(fork)
                self._waiting.append(fork)
        elif said == generation.FORM:
            with contextlib.suppress(InvalidRequest):  # callers are told so
                self._engine.equip()
        elif said == generation.DONE:
            self._leave(fork)
            self._pause = 0.0
        elif said[:1] in (prefix_store.ASK, prefix_store.KEEP) and self._store is not None:
            with contextlib.suppress(OSError):
                self._store.hear(fork.channel, said, descriptors)
        elif not said:
            self._forks.remove(fork)
            code = fork.reap()
            for news in self._store.news() if self._store is not None else ():
                self._events.send(news)
            self._events.send(Exited(fork.number, fork.pid, code))
            self._leave(fork)
            if fork is self._ahead:
                self._ahead = None
                longest = _LONGEST_PAUSE_KILLED if exits.killed_from_outside(code) else _LONGEST_PAUSE
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), longest)
                self._fork_at = time.monotonic() + self._pause

    def _leave(self, fork: Fork) -> None:
        """Take note that a generation computes no more and waits for nothing."""
        if fork in self._readers:
            self._readers.remove(fork)
        if fork in self._waiting:
            self._waiting.remove(fork)
        if fork.place is not None:
            self._table[fork.place] = 0
            fork.place = None
