"""The calling side of a lane: the web process asks a worker process, and nothing that happens to it gets lost.

A call is one connection to the lane's socket, over which the request goes at once. It waits in the kernel's queue until
a worker takes it, so workers may die and be replaced meanwhile; what of a large request doesn't fit into the socket
follows as the worker reads. When it has the request, it says `began`; then come `piece` (text of a completion), `done`,
or `error`. A connection that ends without `done` or `error` means that the worker died.

Small calls for embeddings that are begun without a thread (`SocketLane.begin`) keep their connections: when one has
brought its answer, it takes the next call to the same process, which has nothing to say before `done` or `error`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from mayfly.compat import LaneAddress, readable, writable
from mayfly.errors import CallError, DeadlinePassed, LaneUnavailable, ModelCrashed, QueueFull
from mayfly.lanes import framing
from mayfly.lanes.board import Board
from mayfly.lanes.calls import (
    GATHERED,
    Begun,
    ClientGone,
    Completion,
    CompletionCall,
    EmbedCall,
    Embeddings,
    Finished,
    Interrupted,
    Piece,
    Place,
    TokenizeCall,
    Tokens,
    Waiting,
    Watch,
)

# How often a waiting call looks whether its client left, its deadline passed or its lane failed.
_TICK = 0.1
# A streaming caller hears something at least this often.
_SILENCE = 10.0
# How long a worker may take over one frame once it has begun to send it.
_FRAME_TIMEOUT = 10.0
# Bytes read at once from a call that isn't waited for.
_READ = 1 << 18
# How long to wait for the watchdog's report of a death before answering without its name.
_REPORT_PATIENCE = 3.0
# A lane that opens on demand is asked for this often while it isn't there.
_ASK_AGAIN = 1.0
# The board's facts that are for this process alone.
_NOT_SHOWN = ("address", "served_at_once")

Call = EmbedCall | CompletionCall | TokenizeCall
_KINDS = {EmbedCall: "embed", CompletionCall: "complete", TokenizeCall: "tokenize"}


class _WorkerDied(Exception):
    """The connection ended before the answer did."""

    def __init__(self, generation: int | None) -> None:
        super().__init__(generation)
        self.generation = generation


class SocketLane:
    """A lane served by supervised worker processes. See `mayfly.lanes.calls.Lane`.

    Args:
        name: "embed", "chat", or that of a lane that opens on demand.
        address: what `LaneAddress.bind` returned, or None when no model is configured.
        board: where the watchdog's word on the lane is read.
        queue_limit: calls that may wait, beside those being served, before QueueFull.
        served_at_once: calls that the lane serves at the same time.
        missing: what a call is told when no model is configured.
        summon: tells the watchdog that this lane is wanted, which opens on demand and may leave: its address is on the
            board then, as long as it is there.
    """

    def __init__(self, name: str, address: dict[str, Any] | None, board: Board, *, queue_limit: int,
                 served_at_once: int = 1, missing: str = "", summon: Callable[[], None] | None = None) -> None:
        self.name = name
        self._address = address
        self._board = board
        self._queue_limit = queue_limit
        self._served_at_once = served_at_once
        self._missing = missing
        self._summon = summon
        self._lock = threading.Lock()
        self._waiting = 0
        self._active = 0
        self._retried = 0
        # Connections of calls that were begun and are answered, the next calls' way to the same process; and which.
        self._kept: list[tuple[socket.socket, int]] = []

    # -- what /health shows -----------------------------------------------------------------------------------

    @property
    def model(self) -> str | None:
        """The name of the model that serves."""
        model = self._board.lane(self.name).get("model")
        return model if isinstance(model, str) else None

    def configured(self) -> bool:
        """Tell whether the lane has a model to serve."""
        return self._address is not None or self._summon is not None

    def ready(self) -> bool:
        """Tell whether a call would be served now."""
        return self.configured() and self._board.lane(self.name).get("state") == "ready"

    def status(self) -> dict[str, Any]:
        """Return the watchdog's word on the lane, with this process's queue and retries."""
        if not self.configured():
            return {"state": "off", "reason": self._missing}
        with self._lock:
            counts = {"queue": self._waiting, "active": self._active, "retried": self._retried}
        known = self._board.lane(self.name)
        return {**{name: fact for name, fact in known.items() if name not in _NOT_SHOWN}, **counts}

    # -- calls ------------------------------------------------------------------------------------------------

    def embed(self, call: EmbedCall, watch: Watch) -> Embeddings:
        """See Lane."""
        with contextlib.closing(self._answer(call, watch, until_piece=False)) as answer:
            for message, raw in answer:
                if message is not None and message["event"] == "done":
                    return _embeddings(message, raw)
        raise AssertionError("an answer ends with done, or by raising")

    def begin(self, call: EmbedCall, deadline: float) -> PendingEmbedding | None:
        """See PollableLane."""
        # Connecting to a port may take its time; and where the lane opens on demand, it may not be there.
        if self._address is None or "path" not in self._address or not self.ready():
            return None
        try:
            place = self._take_place()
        except QueueFull:
            return None
        request = framing.frame({**_request(call, deadline), "keep": True})
        while self._kept:
            connection, generation = self._kept.pop()
            if _send_now(connection, request):
                place.serve()
                return PendingEmbedding(self, connection, Begun(place, deadline), generation)
            # Its process has gone since.
        with contextlib.suppress(OSError):
            connection = LaneAddress.connect(self._address, timeout=0.0)
            if _send_now(connection, request):
                return PendingEmbedding(self, connection, Begun(place, deadline))
        place.leave()
        return None

    def complete(self, call: CompletionCall, watch: Watch) -> Completion:
        """See Lane."""
        pieces: list[str] = []
        with contextlib.closing(self._answer(call, watch, until_piece=False)) as answer:
            for message, _ in answer:
                if message is None:
                    continue
                if message["event"] == "began":
                    pieces.clear()  # a retry starts over
                elif message["event"] == "piece":
                    pieces.append(message["text"])
                elif message["event"] == "done":
                    return Completion("".join(pieces), _finished(message))
        raise AssertionError("an answer ends with done, or by raising")

    def tokenize(self, call: TokenizeCall, watch: Watch) -> Tokens:
        """See Lane."""
        with contextlib.closing(self._answer(call, watch, until_piece=False)) as answer:
            for message, raw in answer:
                if message is not None and message["event"] == "done":
                    return Tokens(tuple(message["counts"]), raw)
        raise AssertionError("an answer ends with done, or by raising")

    def stream(self, call: CompletionCall, watch: Watch) -> Iterator[Piece | Waiting | Finished]:
        """See Lane."""
        heard = time.monotonic()
        with contextlib.closing(self._answer(call, watch, until_piece=True)) as answer:
            for message, _ in answer:
                if message is not None and message["event"] == "piece":
                    yield Piece(message["text"])
                elif message is not None and message["event"] == "done":
                    yield _finished(message)
                elif time.monotonic() - heard >= _SILENCE:
                    yield Waiting()
                else:
                    continue
                heard = time.monotonic()

    def _answer(self, call: Call, watch: Watch, *, until_piece: bool
                ) -> Generator[tuple[dict[str, Any] | None, bytes], None, None]:
        """Yield the frames of an answer, and (None, b"") at every tick without one.

        A worker that dies is replaced by the watchdog, and the call goes once more; with `until_piece` not any more
        after the first piece, because that has reached the client.
        """
        if not self.configured():
            raise LaneUnavailable(self._missing, retry_after=60)
        crashes = watch.begun.crashes if watch.begun is not None else 0
        with self._place(watch.begun) as place:
            while True:
                shown = False
                try:
                    for message, raw in self._attempt(call, watch, place):
                        shown = shown or (message is not None and message["event"] == "piece")
                        yield message, raw
                        if message is not None and message["event"] == "done":
                            return
                except _WorkerDied as died:
                    if died.generation is None:
                        # One that dies between taking a connection and reading the call costs nothing but time.
                        self._pause(watch)
                        continue
                    crashes += 1
                    if crashes > 1 or (until_piece and shown):
                        raise self._crashed(died.generation, crashes, watch) from died
                    self._count_retried()

    def _attempt(self, call: Call, watch: Watch, place: Place
                 ) -> Iterator[tuple[dict[str, Any] | None, bytes]]:
        generation: int | None = None
        place.wait()
        yield from self._await_socket(watch)
        try:
            connection = self._connect(watch)
        except OSError as exc:
            raise _WorkerDied(None) from exc
        # However this ends - done, an error, a client that left - closing the connection tells the worker.
        with connection:
            try:
                yield from self._send(connection, framing.frame(_request(call, watch.deadline)), watch)
                while True:
                    self._check(watch, begun=generation is not None)
                    if not readable(connection, _TICK):
                        yield None, b""
                        continue
                    frame = framing.receive(connection)
                    if frame is None:
                        raise _WorkerDied(generation)
                    message, raw = frame
                    if message["event"] == "began":
                        generation = message["generation"]
                        place.serve()
                    elif message["event"] == "error":
                        raise CallError.from_wire(message["error"])
                    yield message, raw
            except (OSError, framing.FrameError) as exc:
                raise _WorkerDied(generation) from exc

    def _send(self, connection: socket.socket, request: bytes, watch: Watch) -> Iterator[tuple[None, bytes]]:
        """Send a request: at once what fits into the socket, the rest as it is read."""
        unsent = memoryview(request)[connection.send(request):]
        while unsent:
            self._check(watch, begun=False)
            if writable(connection, _TICK):
                unsent = unsent[connection.send(unsent):]
            else:
                yield None, b""

    def _await_socket(self, watch: Watch) -> Iterator[tuple[None, bytes]]:
        """Where the lane opens on demand: say that it is wanted, and wait until it is there."""
        if self._summon is None:
            return
        self._summon()
        ask_at = time.monotonic() + _ASK_AGAIN
        while self._where() is None:
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _ASK_AGAIN
                self._summon()
            self._check(watch, begun=False)
            time.sleep(_TICK / 4)
            yield None, b""

    def _where(self) -> dict[str, Any] | None:
        return self._address if self._summon is None else self._board.lane(self.name).get("address")

    def _connect(self, watch: Watch) -> socket.socket:
        self._check(watch, begun=False)
        address = self._where()
        if address is None:
            raise ConnectionRefusedError("the lane has left")
        connection = LaneAddress.connect(address, timeout=5.0)
        connection.settimeout(_FRAME_TIMEOUT)
        return connection

    def _check(self, watch: Watch, *, begun: bool) -> None:
        """Raise what ends a call that isn't answered yet."""
        if watch.client_gone():
            raise ClientGone
        if watch.stopping():
            raise LaneUnavailable("the service is stopping; try again when it is back", retry_after=2)
        state = self._board.lane(self.name)
        if time.monotonic() >= watch.deadline:
            if not begun and state.get("state") != "ready":
                raise self._unavailable(str(state.get("reason") or "it is loading"))
            waited = "was not finished" if begun else "still waited for its turn"
            raise DeadlinePassed(f"the request {waited} when its deadline (REQUEST_TIMEOUT) passed")
        if not begun and state.get("state") == "failing":
            raise self._unavailable(str(state.get("reason") or "its process fails to start"))

    def _unavailable(self, reason: str) -> LaneUnavailable:
        report = _report(self._board.lane(self.name))
        return LaneUnavailable(f"the {self._spoken()} is not available: {reason}{report}", retry_after=5)

    def _spoken(self) -> str:
        kind, _, model = self.name.partition(":")
        return f"model {model}" if model else f"{kind} model"

    def _crashed(self, generation: int, crashes: int, watch: Watch) -> ModelCrashed:
        """Return the error for a call whose worker died for good, with the report's name if it comes in time."""
        patience = min(time.monotonic() + _REPORT_PATIENCE, watch.deadline)
        while True:
            state = self._board.lane(self.name)
            failure = state.get("last_failure") or {}
            known = generation == failure.get("generation") or generation in failure.get("lost", ())
            if known or time.monotonic() >= patience:
                break
            time.sleep(_TICK)
        times = "twice on this request" if crashes > 1 else "while it answered this request"
        return ModelCrashed(f"the model process died {times}{_report(state)}", retry_after=2)

    def _pause(self, watch: Watch) -> None:
        """Wait a moment before the next connection, unless the call is over anyway."""
        self._check(watch, begun=False)
        time.sleep(_TICK)

    @contextlib.contextmanager
    def _place(self, begun: Begun | None) -> Iterator[Place]:
        """Hold a place: the one that the call has, or a new one."""
        place = begun.place if begun is not None else self._take_place()
        try:
            yield place
        finally:
            place.leave()

    def _take_place(self) -> Place:
        with self._lock:
            if self._waiting + self._active >= self._queue_limit + self._served_at_once:
                raise QueueFull(f"{self._queue_limit} requests wait for the {self._spoken()} already (QUEUE_LIMIT); "
                                "try again later", retry_after=1)
            self._waiting += 1
            return _Place(self)

    def _count_retried(self) -> None:
        with self._lock:
            self._retried += 1

    def _count(self, waiting: int, active: int) -> None:
        with self._lock:
            self._waiting += waiting
            self._active += active


class PendingEmbedding:
    """See Pending."""

    def __init__(self, lane: SocketLane, connection: socket.socket, begun: Begun, generation: int | None = None
                 ) -> None:
        self.begun = begun
        self._lane = lane
        self._connection = connection
        self._received = bytearray()
        self._answered = False
        self._generation = generation

    def fileno(self) -> int:
        """See Pending."""
        return self._connection.fileno()

    def take(self) -> Embeddings | None:
        """See Pending."""
        try:
            part = self._connection.recv(_READ)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        if not part:
            raise self._interrupted()
        self._received += part
        try:
            while (frame := framing.pop(self._received)) is not None:
                message, raw = frame
                if message["event"] == "began":
                    self._generation = message["generation"]
                    self.begun.place.serve()
                elif message["event"] == "done":
                    self._answered = not self._received
                    return _embeddings(message, raw)
                elif message["event"] == "error":
                    raise CallError.from_wire(message["error"])
        except framing.FrameError:
            raise self._interrupted() from None
        return None

    def failing(self) -> bool:
        """See Pending."""
        return self._generation is None and self._lane.status().get("state") == "failing"

    def close(self) -> None:
        """See Pending."""
        kept = self._lane._kept
        if self._answered and self._generation is not None and len(kept) < GATHERED:
            kept.append((self._connection, self._generation))
        else:
            self._connection.close()

    def _interrupted(self) -> Interrupted:
        # Calls that were only on their way count as well; of two deaths in a row a call at fault was in both.
        if self._generation is not None:
            self.begun.crashes += 1
            self._lane._count_retried()
        return Interrupted()


class _Place:
    """A call's place in its lane: waiting, or being served."""

    def __init__(self, lane: SocketLane) -> None:
        self._lane = lane
        self._waits, self._served = True, False

    def wait(self) -> None:
        self._move(waits=True, served=False)

    def serve(self) -> None:
        self._move(waits=False, served=True)

    def leave(self) -> None:
        self._move(waits=False, served=False)

    def _move(self, *, waits: bool, served: bool) -> None:
        self._lane._count(waits - self._waits, served - self._served)
        self._waits, self._served = waits, served


def _send_now(connection: socket.socket, request: bytes) -> bool:
    """Send a whole request without waiting; if that can't be done, close the connection and return False."""
    try:
        if connection.send(request) == len(request):
            return True
    except OSError:
        pass
    connection.close()
    return False


def _request(call: Call, deadline: float) -> dict[str, Any]:
    return {"deadline": deadline, _KINDS[type(call)]: call.to_wire()}


def _embeddings(message: dict[str, Any], raw: bytes) -> Embeddings:
    return Embeddings(raw, message["dimensions"], message["prompt_tokens"], message["model"], message["generation"])


def _finished(message: dict[str, Any]) -> Finished:
    return Finished(message["reason"], message["model"], message["generation"], message["prompt_tokens"],
                    message["completion_tokens"])


def _report(state: dict[str, Any]) -> str:
    report = (state.get("last_failure") or {}).get("report")
    return f" (report: {report})" if report else ""


def socket_lanes(spec: dict[str, Any]) -> dict[str, SocketLane]:
    """Build both lanes from what the watchdog handed to the web process.

    Args:
        spec: `board` (path), `queue_limit`, and `lanes`: {name: {"address": ... or None, "served_at_once": int,
            "missing": str}}.
    """
    board = Board(Path(spec["board"]))
    return {
        name: SocketLane(name, lane["address"], board, queue_limit=spec["queue_limit"],
                         served_at_once=lane.get("served_at_once", 1), missing=lane.get("missing", ""))
        for name, lane in spec["lanes"].items()
    }
