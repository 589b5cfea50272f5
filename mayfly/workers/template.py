"""The chat template: a process with the model loaded that only forks (ISOLATION=fork).

Started by the watchdog. It keeps one generation forked ahead - reseeded, waiting - and, while fewer than
CHAT_PROCESSES calls are being served, accepts a call, hands its connection to that generation and forks the next.
Further calls wait in the lane's socket. A persona (system prompt) that is used again and again gets a snapshot, a fork
that has it evaluated; calls with it are handed there instead, and what a dying snapshot hasn't taken comes back. The
template never computes and never reads a request, only the key of its persona, so its loop beats and reaps whatever the
others do. It stays single-threaded: a fork beside threads is how deadlocks are made.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import math
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field

from mayfly.compat import hung_up
from mayfly.engines.base import CompletionEngine
from mayfly.lanes.calls import KEY_SIZE
from mayfly.supervision.sentinel import Sentinel
from mayfly.workers import exits, generation, snapshot
from mayfly.workers.accept import TICK, ModelFile, take_call
from mayfly.workers.budget import Table
from mayfly.workers.forks import Fork, Forks
from mayfly.workers.generation import Generation
from mayfly.workers.personas import Personas
from mayfly.workers.snapshot import Snapshot
from mayfly.workers.spec import Events, Spec

# A generation that dies before it has served anything is replaced, but not in a busy loop.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
# The key arrives with the connection; a caller that doesn't send it is no caller.
_KEY_PATIENCE = 5.0
# A snapshot waits for calls and does nothing else: one that doesn't take a call for this long never will.
_TAKE_PATIENCE = 5.0


@dataclass(eq=False)
class _Call:
    """A call that was accepted and isn't served yet."""

    connection: socket.socket
    place: int
    key: bytes = b""
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Snapshot:
    """A snapshot, as its template sees it; its calls by their generations' numbers."""

    fork: Fork
    key: bytes
    kept: bool = False
    leaving: bool = False
    memory: int = 0
    untaken: dict[int, _Call] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)  # their places

    @property
    def idle(self) -> bool:
        return not self.untaken and not self.taken

    def places(self) -> set[int]:
        """Return where its calls are computed."""
        return {call.place for call in self.untaken.values()} | set(self.taken.values())

    def untaken_since(self) -> float:
        """Return when it was handed the oldest call that it hasn't taken; infinity if there is none."""
        return min((call.since for call in self.untaken.values()), default=math.inf)


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
        self._forks = Forks(self._let_go)
        self._ahead: Fork | None = None
        self._opening: dict[int, _Call] = {}  # by the connection's descriptor; the key hasn't come
        self._plain: collections.deque[_Call] = collections.deque()  # for a generation of this process
        self._snapshots: dict[Fork, _Snapshot] = {}  # the least recently used first
        self._personas = Personas(spec.settings.snapshot_after, spec.settings.snapshots, spec.settings.snapshot_memory)
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
            # Those being served finish; calls that wait are served by the next template.
            if self._model_file.changed() and self._free_places() == self._places:
                if not self._snapshots:
                    self._sentinel.remove()
                    return exits.MODEL_CHANGED
                self._dismiss(list(self._snapshots.values()))
            if self._ahead is None and time.monotonic() >= self._fork_at and (
                    self._plain or not self._model_file.changed()):
                self._fork_ahead()
            self._wait()
            self._look_at_waiting()

    # -- the loop ---------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        for descriptor in (*self._forks.descriptors(), *self._opening):
            poll.register(descriptor, select.POLLIN)
        ready = self._ahead is not None and self._ahead.ready and not self._plain
        if ready and self._free_places() and not self._model_file.changed():
            poll.register(self._listener, select.POLLIN)
        timeout = TICK if self._ahead is not None else min(TICK, max(0.0, self._fork_at - time.monotonic()))
        for descriptor, _ in poll.poll(timeout * 1000):
            fork = self._forks.of(descriptor)
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._opening:
                self._open(self._opening.pop(descriptor))
            elif fork in self._snapshots:
                self._listen_to_snapshot(self._snapshots[fork])
            elif fork is not None:
                self._listen_to(fork)

    def _look_at_waiting(self) -> None:
        """Serve who waits for a generation, and end what takes too long."""
        while self._plain and self._ahead is not None and self._ahead.ready:
            self._hand_out(self._plain.popleft())
        now = time.monotonic()
        for descriptor, call in list(self._opening.items()):
            if now - call.since > _KEY_PATIENCE:
                del self._opening[descriptor]
                self._drop(call)
        for kept in list(self._snapshots.values()):
            for number, place in list(kept.taken.items()):
                # Its generation left the budget, so it is done, even if the snapshot is stuck and doesn't say so.
                if not self._table[place]:
                    self._finish(kept, number)
            if kept.kept and not kept.leaving and now - kept.untaken_since() > _TAKE_PATIENCE:
                self._events.send("stuck", generation=kept.fork.number,
                                  reason=f"it took no call for {_TAKE_PATIENCE:g} s")
                kept.leaving = True
                os.kill(kept.fork.pid, signal.SIGKILL)  # it isn't reaped yet, so this is its pid

    def _free_places(self) -> set[int]:
        waiting = [*self._opening.values(), *self._plain]
        taken = {fork.place for fork in self._forks} | {call.place for call in waiting}
        return self._places.difference(taken, *(kept.places() for kept in self._snapshots.values()))

    # -- a call's way -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        place = min(self._free_places())
        # Before the call leaves the socket: the watchdog looks in both places, and must see it in one of them.
        self._table[place] = 1
        connection = take_call(self._listener, self._spec.address)
        if connection is None:
            self._table[place] = 0
        else:
            self._opening[connection.fileno()] = _Call(connection, place)

    def _open(self, call: _Call) -> None:
        """Read the persona's key of a call and send the call on its way."""
        try:
            call.key = call.connection.recv(KEY_SIZE)
        except OSError:
            call.key = b""
        if len(call.key) != KEY_SIZE:
            self._drop(call)
            return
        kept = next((kept for kept in self._snapshots.values() if kept.key == call.key and not kept.leaving), None)
        if kept is not None and kept.kept:
            self._hand_to_snapshot(call, kept)
        elif kept is None and self._personas.see(call.key) and self._make_room():
            self._fork_snapshot(call)
        else:
            self._plain.append(call)

    def _hand_out(self, call: _Call) -> None:
        fork = self._ahead
        assert fork is not None
        # If it died this moment, the caller sees a connection that ended before it began, and tries again.
        with call.connection, contextlib.suppress(OSError):
            generation.hand_over(fork.channel, call.place, call.connection)
        fork.place = call.place
        self._ahead = None
        self._fork_at = 0.0

    def _drop(self, call: _Call) -> None:
        call.connection.close()
        self._table[call.place] = 0

    # -- generations ------------------------------------------------------------------------------------------

    def _take_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def _fork_ahead(self) -> None:
        number = self._take_number()
        served = Generation(self._spec, self._engine, self._table, self._events, number)
        self._ahead = self._forks.start(number, served.serve_when_called)

    def _let_go(self) -> None:
        self._listener.close()
        for call in (*self._opening.values(), *self._plain):
            call.connection.close()
        for kept in self._snapshots.values():
            for call in kept.untaken.values():
                call.connection.close()

    def _listen_to(self, fork: Fork) -> None:
        said = fork.hear()
        if said == generation.READY:
            fork.ready = True
        elif said == generation.DONE:
            self._empty(fork)
            self._pause = 0.0
        elif not said:
            self._reap(fork)
            self._empty(fork)
            if fork is self._ahead:
                self._ahead = None
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                self._fork_at = time.monotonic() + self._pause

    def _empty(self, fork: Fork) -> None:
        if fork.place is not None:
            self._table[fork.place] = 0
            fork.place = None

    def _reap(self, fork: Fork) -> int:
        code = self._forks.reap(fork)
        self._events.send("exited", generation=fork.number, pid=fork.pid, code=code)
        return code

    # -- snapshots --------------------------------------------------------------------------------------------

    def _make_room(self) -> bool:
        there = [kept for kept in self._snapshots.values() if not kept.leaving]
        enough, leavers = self._personas.room(there)
        if enough:
            self._dismiss([kept for kept in there if kept in leavers])
        return enough

    def _fork_snapshot(self, call: _Call) -> None:
        number, first = self._take_number(), self._take_number()
        body = Snapshot(self._spec, self._engine, self._table, self._events, number)
        fork = self._forks.start(number, lambda channel: body.live(channel, call.connection, call.place, first))
        call.since = time.monotonic()
        self._snapshots[fork] = _Snapshot(fork, call.key, untaken={first: call})

    def _hand_to_snapshot(self, call: _Call, kept: _Snapshot) -> None:
        call.since = time.monotonic()
        number = self._take_number()
        kept.untaken[number] = call
        self._snapshots[kept.fork] = self._snapshots.pop(kept.fork)  # now the most recently used
        # If it has died, its end is the next thing that is heard of it, and the call comes back.
        with contextlib.suppress(OSError):
            snapshot.hand_over(kept.fork.channel, call.place, number, call.connection)

    def _listen_to_snapshot(self, kept: _Snapshot) -> None:
        said, number, memory = snapshot.understand(kept.fork.hear())
        if said == snapshot.KEPT:
            kept.kept, kept.memory = True, memory
            for call in kept.untaken.values():
                call.since = time.monotonic()  # until now it had a persona to evaluate
            self._bound_memory(kept)
        elif said == snapshot.TAKEN:
            call = kept.untaken.pop(number)
            call.connection.close()
            kept.taken[number] = call.place
        elif said == snapshot.DONE:
            self._finish(kept, number)
        elif said == snapshot.STALE:
            self._personas.forget(kept.key)
            self._dismiss([kept])
        elif said == snapshot.UNFIT:
            self._personas.give_up(kept.key)
        elif not said:
            self._bury(kept)

    def _finish(self, kept: _Snapshot, number: int) -> None:
        if number in kept.taken:
            self._table[kept.taken.pop(number)] = 0
            self._pause = 0.0
            self._bound_memory(kept)

    def _bound_memory(self, kept: _Snapshot) -> None:
        there = [other for other in self._snapshots.values() if not other.leaving]
        leavers = self._personas.surplus(there)
        if kept in leavers and len(there) == 1:
            # Alone it is too much, and would be again.
            self._personas.give_up(kept.key)
        self._dismiss([other for other in there if other in leavers])

    def _dismiss(self, leavers: list[_Snapshot]) -> None:
        for kept in leavers:
            if not kept.leaving:
                kept.leaving = True
                self._personas.forget(kept.key)
                with contextlib.suppress(OSError):
                    snapshot.tell_to_leave(kept.fork.channel)

    def _bury(self, kept: _Snapshot) -> None:
        """Take note of a snapshot's end; a call that it hasn't taken gets a generation of this process."""
        code = self._reap(kept.fork)
        del self._snapshots[kept.fork]
        if code != exits.DONE and not kept.kept:
            self._personas.give_up(kept.key)
        self._personas.forget(kept.key)
        for place in kept.taken.values():
            self._table[place] = 0
        for call in kept.untaken.values():
            if hung_up(call.connection):
                self._drop(call)
            else:
                self._plain.append(call)
