"""A snapshot: a process forked from the template that has evaluated one persona, from which calls with it are forked.

Started by the template with the call that made the persona worth it: it asks that call's caller for the persona alone,
evaluates it, and never reads a request; its generations do. It ends when the template tells it to leave, or dies. A
call that it was handed is the template's again if it dies before it has said `taken`.

Two messages come from the template: a call (with its connection), and `leave`. Five go there: ready, kept (the persona
is evaluated: tokens, bytes of memory), taken and done (a call, by its generation), stale (what is kept is of no use),
unfit (it can't be kept).
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from mayfly.compat import hung_up, private_memory
from mayfly.engines.base import CompletionEngine, Segment, beginning
from mayfly.errors import CallError, EngineFailed
from mayfly.lanes import framing
from mayfly.lanes.calls import CompletionCall, Message
from mayfly.supervision.sentinel import Sentinel
from mayfly.workers import exits, generation
from mayfly.workers.accept import TICK
from mayfly.workers.budget import Budget, Table
from mayfly.workers.forks import Fork, Forks
from mayfly.workers.spec import Events, Spec

READY = generation.READY
KEPT = b"k"
TAKEN = b"t"
DONE = generation.DONE
STALE = generation.STALE
UNFIT = b"u"

#: The place of a message that is no call.
LEAVE = 0xFFFF

_CALL = struct.Struct("<HI")  # place in the thread budget, generation's number
_SAID = struct.Struct("<cIQ")
# The web process is on this machine and answers at once; if it doesn't for this long, it is gone.
_IO_TIMEOUT = 10.0
_LOOK_INTERVAL = 0.05


class Snapshot:
    """What the forked process does; see the module's docstring.

    Args:
        number: of this process.
    """

    def __init__(self, spec: Spec, engine: CompletionEngine, table: Table, events: Events, number: int) -> None:
        self._spec = spec
        self._engine = engine
        self._table = table
        self._events = events
        self._number = number
        self._sentinel = Sentinel(spec.snapshot_sentinel(number))
        self._channel: socket.socket | None = None
        self._forks = Forks(self._let_go)
        self._tokens = 0

    def live(self, channel: socket.socket, connection: socket.socket, place: int, first: int) -> int:
        """Evaluate the persona of a call, then fork generations until told to leave; return the exit code.

        Args:
            connection: the call's; its generation answers it.
            place: where it is computed.
            first: number of that generation.
        """
        self._channel = channel
        self._sentinel.write({"pid": os.getpid(), "generation": self._number, "model": self._engine.model,
                              "when": time.time()})
        self._events.send("snapshot", generation=self._number, pid=os.getpid())
        channel.send(_SAID.pack(READY, 0, 0))
        try:
            self._keep(connection, place)
        except (CallError, OSError, framing.FrameError, _Gone) as exc:
            if isinstance(exc, CallError):
                channel.send(_SAID.pack(UNFIT, 0, 0))
            self._sentinel.remove()
            return exits.DONE
        # What exists now is never collected, so a collection in a generation doesn't copy these pages.
        gc.collect()
        gc.freeze()
        self._say_what_is_kept()
        self._fork(connection, place, first, evaluated=True)
        return self._run(channel)

    # -- the persona ------------------------------------------------------------------------------------------

    def _keep(self, connection: socket.socket, place: int) -> None:
        connection.settimeout(_IO_TIMEOUT)
        framing.send(connection, {"event": "persona"})
        frame = framing.receive(connection)
        if frame is None:
            raise _Gone
        persona = [Message(**message) for message in frame[0]["persona"]]
        segments = self._beginning(persona)
        budget = Budget(self._table, place, self._spec.settings.threads, self._engine.set_threads)
        budget.enter()
        # The place stays taken: the generation that is forked next computes there.
        self._tokens = self._engine.keep(segments, self._step(connection, budget))

    def _beginning(self, persona: list[Message]) -> list[Segment]:
        # Most templates want a user in a conversation; what he says comes after the beginning.
        call = CompletionCall("", (*persona, Message("user", "?")))
        kept = beginning(self._engine.prompt(call), len(persona))
        if not kept:
            raise EngineFailed("this template doesn't begin with the persona")
        return kept

    def _step(self, connection: socket.socket, budget: Budget) -> Callable[[], bool]:
        """Return what is done between two batches: beat, share the threads, see whether the call is still wanted."""
        next_look = 0.0

        def step() -> bool:
            nonlocal next_look
            self._sentinel.beat()
            budget.look()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + _LOOK_INTERVAL
                if hung_up(connection):
                    raise _Gone
            return True

        return step

    def _say_what_is_kept(self) -> None:
        assert self._channel is not None
        memory = private_memory()
        self._events.send("kept", generation=self._number, tokens=self._tokens, memory=memory)
        self._channel.send(_SAID.pack(KEPT, self._tokens, memory))

    # -- the loop ---------------------------------------------------------------------------------------------

    def _run(self, channel: socket.socket) -> int:
        leaving = False
        while not leaving or len(self._forks):
            self._sentinel.beat()
            poll = select.poll()
            for descriptor in (channel.fileno(), *self._forks.descriptors()):
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(TICK * 1000):
                fork = self._forks.of(descriptor)
                if fork is not None:
                    self._listen_to(fork)
                elif not self._take(channel):
                    leaving = True
                    break
        self._sentinel.remove()
        return exits.DONE

    def _take(self, channel: socket.socket) -> bool:
        """Take a call and fork for it; return False if there is none because it is time to leave."""
        message, descriptors, _, _ = socket.recv_fds(channel, _CALL.size, 1)
        if not message:
            raise ConnectionError("the template is gone")
        place, number = _CALL.unpack(message)
        if place == LEAVE:
            return False
        self._fork(socket.socket(fileno=descriptors[0]), place, number)
        return True

    def _fork(self, connection: socket.socket, place: int, number: int, *, evaluated: bool = False) -> None:
        assert self._channel is not None
        served = generation.Generation(self._spec, self._engine, self._table, self._events, number,
                                       snapshot=self._number, evaluated=evaluated)
        with connection:
            self._forks.start(number, lambda channel: served.serve_at_once(channel, connection, place))
        self._channel.send(_SAID.pack(TAKEN, number, 0))

    def _let_go(self) -> None:
        assert self._channel is not None
        self._channel.close()

    def _listen_to(self, fork: Fork) -> None:
        assert self._channel is not None
        said = fork.hear()
        if said == DONE:
            self._channel.send(_SAID.pack(DONE, fork.number, 0))
        elif said == STALE:
            self._channel.send(_SAID.pack(STALE, 0, 0))
        elif not said:
            code = self._forks.reap(fork)
            self._events.send("exited", generation=fork.number, pid=fork.pid, code=code)
            self._channel.send(_SAID.pack(DONE, fork.number, 0))
            if not len(self._forks):
                self._say_what_is_kept()


class _Gone(Exception):
    """The call for which the persona was to be evaluated is over."""


def hand_over(channel: socket.socket, place: int, number: int, connection: socket.socket) -> None:
    """Give a snapshot a call and its generation's number.

    Raises:
        OSError: it has died.
    """
    socket.send_fds(channel, [_CALL.pack(place, number)], [connection.fileno()])


def tell_to_leave(channel: socket.socket) -> None:
    """Tell a snapshot to end when its generations have.

    Raises:
        OSError: it has died.
    """
    channel.send(_CALL.pack(LEAVE, 0))


def understand(said: bytes) -> tuple[bytes, int, int]:
    """Take a snapshot's message apart: what it is, and its two numbers; b"" if the channel has ended."""
    return _SAID.unpack(said) if said else (b"", 0, 0)
