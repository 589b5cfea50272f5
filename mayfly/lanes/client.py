"""The calling side of a lane: the web process asks a worker process, and nothing that happens to it gets lost.

A call is a connection to the lane's socket, and the request is sent with it at once: it waits in the kernel's queue
until a worker takes it, so workers may die and be replaced meanwhile. The worker says `began`; then come `piece` (text
of a completion), `done`, or `error`. A connection that ends without `done` or `error` means that the worker died; one
that hadn't said `began` may not even have read the call, so that counts as no try.

Connections that have brought vectors are kept: they take the next call to the same process, which has nothing to say
before `done` or `error`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mayfly.errors import CallError, DeadlinePassed, LaneUnavailable, ModelCrashed, ModelUnusable, QueueFull
from mayfly.tallies import Served
from mayfly.wire import framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import (
    MOST_CALLS_HELD,
    Answer,
    Began,
    Call,
    Completion,
    EmbedCall,
    Embeddings,
    Failed,
    Finished,
    Item,
    Piece,
    Request,
)
from mayfly.wire.codec import NoMessage, from_wire

# How often a call that hasn't begun looks whether its lane has failed, and how soon it tries to connect again (s).
_LOOK, _TRY_AGAIN = 0.25, 0.05
# Bytes read at once, and how often in a row before others have their turn.
_READ, _MOST_READS = 1 << 18, 8
# A lane that opens on demand is asked for this often while it isn't there.
_ASK_AGAIN = 1.0
# What is said for this process alone.
_NOT_SHOWN = ("address", "served_at_once", "kind")


class SocketLane:
    """A lane served by supervised worker processes. See `mayfly.lanes.lane.Lane`.

    Args:
        name: "embedding", "completion", or that of a lane that opens on demand.
        said: returns the watchdog's last word on the lane.
        address: None if it is part of what is said, as long as the lane is there.
        queue_limit: calls that may wait, beside those being served, before QueueFull.
        served_at_once: calls that the lane serves at the same time.
        summon: tells the watchdog that this lane is wanted, if it opens on demand.
    """

    #: What has died when a connection breaks off, and how many such deaths it takes to end a call.
    server, tries = "model process", 2
    #: How long the watchdog's report of a death is waited for, before an answer doesn't name it (s).
    report_patience = 3.0

    def __init__(self, name: str, said: Callable[[], dict[str, Any]], *, queue_limit: int,
                 address: LaneAddress | None = None, served_at_once: int = 1,
                 summon: Callable[[], None] = lambda: None) -> None:
        self.said = said
        self.summon = summon
        self._address = address
        self._most = queue_limit + served_at_once
        self._queue_limit = queue_limit
        kind, _, model = name.partition(":")
        self._on_demand = bool(model)
        self._spoken = f"model {model}" if model else f"{kind} model"
        self._lock = threading.Lock()
        self._calls = 0
        self._active = 0
        self.served = Served()
        self._kept: list[tuple[socket.socket, int]] = []

    # -- what /health shows -----------------------------------------------------------------------------------

    def configured(self) -> bool:
        """See Lane."""
        return bool(self.said().get("state") != "off")

    def ready(self) -> bool:
        """See Lane."""
        return bool(self.said().get("state") == "ready")

    def status(self) -> dict[str, Any]:
        """Return the watchdog's word on the lane, with this process's queue and retries."""
        with self._lock:
            counts = {"queue": self._calls - self._active, "active": self._active,
                      "retried": self.served.retried}
        return {**{name: fact for name, fact in self.said().items() if name not in _NOT_SHOWN}, **counts}

    # -- calls ------------------------------------------------------------------------------------------------

    def begin(self, call: Call, deadline: float, *, in_pieces: bool = False) -> SocketCall:
        """See Lane."""
        with self._lock:
            if self._calls >= self._most:
                raise QueueFull(f"{self._queue_limit} requests wait for the {self._spoken} already (QUEUE_LIMIT); "
                                "try again later", retry_after=1)
            self._calls += 1
        return SocketCall(self, call, deadline, in_pieces)

    def connect(self, call: Call, *, in_pieces: bool) -> socket.socket | None:
        """Return a new connection for a call, which never waits; None if the lane isn't there now."""
        try:
            address = self._address or from_wire(self.said().get("address"), LaneAddress)
            connection: socket.socket = address.connect(timeout=0.0 if address.path else 1.0)
        except (OSError, NoMessage):
            return None
        connection.setblocking(False)
        return connection

    def kept_connection(self) -> tuple[socket.socket, int] | None:
        """Return a connection over which a call was answered, and its process's generation, if there is one."""
        with self._lock:
            return self._kept.pop() if self._kept else None

    def keep(self, connection: socket.socket, generation: int) -> None:
        """Keep a connection for the next call, or close it if there are enough."""
        with self._lock:
            if len(self._kept) < MOST_CALLS_HELD:
                self._kept.append((connection, generation))
                return
        connection.close()

    def forget(self, generation: int) -> None:
        """Close the kept connections to a process that has died: its ends are closed one by one, and another may still
        look open."""
        with self._lock:
            lost = [connection for connection, of in self._kept if of == generation]
            self._kept = [(connection, of) for connection, of in self._kept if of != generation]
        for connection in lost:
            connection.close()

    def leaves(self, connection: socket.socket) -> bool:
        """Tell whether a call that hasn't begun had better connect anew."""
        return False

    def count(self, *, calls: int = 0, active: int = 0, retried: int = 0) -> None:
        """Add to what `status` shows."""
        with self._lock:
            self._calls += calls
            self._active += active
            self.served.retried += retried

    def note(self, answer: Finished | Embeddings, texts: int) -> None:
        """Add to what it has served."""
        with self._lock:
            self.served.prompt_tokens += answer.prompt_tokens
            if isinstance(answer, Finished):
                self.served.completion_tokens += answer.completion_tokens
            else:
                self.served.texts += texts

    def note_first_token(self, seconds: float) -> None:
        """Add to how long calls for completions waited for their first piece."""
        with self._lock:
            self.served.first_token.add(seconds)

    def unavailable(self, reason: str) -> CallError:
        """Return the error for a call that the lane can't serve: that of a file which its caller has named is his."""
        said = self.said()
        if said.get("unusable"):
            of = ModelUnusable.of if self._on_demand else LaneUnavailable.of
            return of(str(said.get("model")), f"{reason}{_report(said)}")
        return LaneUnavailable(f"the {self._spoken} is not available: {reason}{_report(said)}", retry_after=5)


class SocketCall:
    """See LaneCall."""

    def __init__(self, lane: SocketLane, call: Call, deadline: float, in_pieces: bool) -> None:
        self._lane = lane
        self._call = call
        self._keeps = isinstance(call, EmbedCall)
        self._texts = len(call.texts) if isinstance(call, EmbedCall) else 0
        self._began = time.monotonic()
        self._deadline = deadline
        self._in_pieces = in_pieces
        self._request = framing.encode(Request(call, deadline, keep=self._keeps))
        self._connection: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._generation: int | None = None  # of the process that has begun with it
        self._pieces: list[Piece] = []
        self._deaths: set[int] = set()  # the generations of the processes that died while they served it
        self._died: int | None = None  # the generation whose death ends the call, once its report is there
        self._report_due = 0.0
        self._failure: CallError | None = None
        self._ask_at = self._retry_at = self._due = 0.0
        self._closed = self._answered = False

    @property
    def watched(self) -> socket.socket | None:
        """See LaneCall."""
        return self._connection

    @property
    def sending(self) -> bool:
        """See LaneCall."""
        return bool(self._unsent)

    @property
    def due(self) -> float:
        """See LaneCall."""
        return self._due

    @property
    def begun(self) -> bool:
        """Whether a process has it."""
        return self._generation is not None

    def advance(self, now: float) -> list[Item]:
        """See LaneCall."""
        if self._failure is not None:
            raise self._failure
        if self._died is not None:
            self._end_of_death(self._died, now)
            return []
        self._check(now)
        items: list[Item] = []
        if self._connection is not None or (now >= self._retry_at and self._connect(now)):
            try:
                self._send()
                self._receive(items)
            except (OSError, framing.FrameError):
                self._lost(now)
        if self._failure is not None and not items:
            raise self._failure
        pause = self._deadline if self._generation is not None else now + _LOOK
        if self._connection is None or self._failure is not None:
            pause = self._retry_at
        self._due = min(pause, self._deadline)
        return items

    def close(self) -> None:
        """See LaneCall."""
        if self._closed:
            return
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._keeps and self._answered and self._generation is not None and not self._received:
                self._lane.keep(connection, self._generation)
            else:
                # However the call has ended - this tells the worker.
                connection.close()
        self._lane.count(calls=-1, active=-(self._generation is not None))

    # -- ways to a worker -------------------------------------------------------------------------------------

    def _connect(self, now: float) -> bool:
        """Connect and have the request sent; False if that has to be tried again."""
        while self._keeps and (kept := self._lane.kept_connection()) is not None:
            self._take(kept[0])
            # Nothing tells that such a call has begun: its process is known.
            self._begin(kept[1])
            with contextlib.suppress(OSError):
                self._send()
                return True
            # Its process has gone since.
            self._drop()
        connection = self._lane.connect(self._call, in_pieces=self._in_pieces)
        if connection is None:
            self._retry_at = now + _TRY_AGAIN
            if now >= self._ask_at:
                self._ask_at = now + _ASK_AGAIN
                self._lane.summon()
            return False
        self._take(connection)
        return True

    def _take(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unsent = memoryview(self._request)
        self._received.clear()
        self._pieces.clear()

    def _begin(self, generation: int) -> None:
        if self._generation is None:
            self._lane.count(active=1)
        self._generation = generation

    def _drop(self) -> None:
        """Leave the process, which is lost."""
        if self._generation is not None:
            self._lane.count(active=-1)
        self._generation = None
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._unsent = memoryview(b"")

    def _lost(self, now: float) -> None:
        generation = self._generation
        shown = self._in_pieces and bool(self._pieces)
        self._drop()
        if generation is None:
            # One that dies between taking a connection and reading the call costs nothing but time.
            self._retry_at = now + _TRY_AGAIN
            return
        self._lane.forget(generation)
        # One death may be met twice: by a connection that another call has kept meanwhile.
        self._deaths.add(generation)
        if len(self._deaths) >= self._lane.tries or shown:
            self._died = generation
            self._report_due = min(now + self._lane.report_patience, self._deadline)
        else:
            self._lane.count(retried=1)
        self._retry_at = now

    # -- what is said -----------------------------------------------------------------------------------------

    def _send(self) -> None:
        while self._unsent and self._connection is not None:
            try:
                sent = self._connection.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]

    def _receive(self, items: list[Item]) -> None:
        assert self._connection is not None
        for _ in range(_MOST_READS):
            try:
                part = self._connection.recv(_READ)
            except BlockingIOError:
                return
            if not part:
                if items:
                    return  # what has come is told first; the end stays there to be read
                raise ConnectionResetError("the process has closed the connection")
            self._received += part
            while (answer := framing.pop(self._received, Answer)) is not None:
                self._take_in(answer, items)
            if len(part) < _READ:
                return

    def _take_in(self, answer: Answer, items: list[Item]) -> None:
        if isinstance(answer, Began):
            self._begin(answer.generation)
        elif isinstance(answer, Failed):
            # What has come before it is told first.
            self._failure = answer.error()
        elif isinstance(answer, Piece):
            if not self._pieces:
                self._lane.note_first_token(time.monotonic() - self._began)
            self._pieces.append(answer)
            if self._in_pieces:
                items.append(answer)
        else:
            self._answered = True
            if isinstance(answer, Finished | Embeddings):
                self._lane.note(answer, self._texts)
            if isinstance(answer, Finished) and not self._in_pieces:
                items.append(Completion.of(self._pieces, answer))
            else:
                items.append(answer)

    # -- how it ends otherwise --------------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        """Raise what ends a call that isn't answered."""
        begun = self._generation is not None
        if begun and now < self._deadline:
            return
        said = self._lane.said()
        if now >= self._deadline:
            if not begun and said.get("state") != "ready":
                raise self._lane.unavailable(str(said.get("reason") or "it is loading"))
            raise DeadlinePassed.of(begun)
        if said.get("state") in ("failing", "off"):
            raise self._lane.unavailable(str(said.get("reason") or "its process fails to start"))
        if self._connection is not None and self._lane.leaves(self._connection):
            self._drop()
            self._retry_at = now

    def _end_of_death(self, generation: int, now: float) -> None:
        """Raise the error for a call whose process died for good, with the report's name if that comes in time."""
        said = self._lane.said()
        failure = said.get("last_failure") or {}
        if generation == failure.get("generation") or generation in failure.get("lost", ()) or now >= self._report_due:
            times = {1: "while it answered", 2: "twice on"}.get(len(self._deaths), f"{len(self._deaths)} times on")
            raise ModelCrashed(f"the {self._lane.server} died {times} this request{_report(said)}", retry_after=2)
        self._due = min(now + _TRY_AGAIN, self._report_due)


def _report(state: dict[str, Any]) -> str:
    report = (state.get("last_failure") or {}).get("report")
    return f" (report: {report})" if report else ""
