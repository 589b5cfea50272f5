"""One call over one connection: read it, compute, answer. What workers for completions and tokens do with a connection;
those for embeddings hold several (`embedding.py`).

The working loop is here, so the heartbeat, the deadline, the look at the client and the thread budget are here too:
at every prompt batch and token.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mayfly.compat import hung_up
from mayfly.engines.base import CompletionEngine
from mayfly.errors import CallError, DeadlinePassed
from mayfly.lanes import framing
from mayfly.lanes.calls import CompletionCall, TokenizeCall
from mayfly.supervision.sentinel import Sentinel
from mayfly.workers.budget import Budget
from mayfly.workers.text import TextFilter
from mayfly.workers.vocabularies import Vocabularies

Outcome = Literal["answered", "refused", "cancelled"]

# The web process is on this machine and reads at once; if it doesn't for this long, it is gone.
_IO_TIMEOUT = 10.0
# A look at the client costs two system calls: not at every token of a fast model.
_LOOK_INTERVAL = 0.05

_KINDS: dict[str, type[CompletionCall] | type[TokenizeCall]] = {"complete": CompletionCall, "tokenize": TokenizeCall}


@dataclass
class Served:
    """What became of one call.

    `tokens` are those sampled (completions) or counted.
    """

    outcome: Outcome
    seconds: float
    tokens: int


class _Cancelled(Exception):
    """Nobody waits for this answer any more."""


class _Call:
    """The connection of one call, and the checks between two steps of its work."""

    def __init__(self, connection: socket.socket, generation: int, sentinel: Sentinel, budget: Budget) -> None:
        connection.setblocking(True)
        connection.settimeout(_IO_TIMEOUT)
        self._connection = connection
        self._sentinel = sentinel
        self._budget = budget
        self._next_look = 0.0
        self._deadline = float("inf")
        self.generation = generation
        self.tokens = 0
        self.threads: int | None = None

    def begin(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Read the call, say that it has a process, and note in the sentinel what is being served."""
        try:
            frame = framing.receive(self._connection)
        except (OSError, framing.FrameError) as exc:
            raise _Cancelled from exc
        if frame is None:
            raise _Cancelled
        self.send({"event": "began", "generation": self.generation})
        request = frame[0]
        self._deadline = float(request["deadline"])
        name, kind = next((name, kind) for name, kind in _KINDS.items() if name in request)
        call = request[name]
        sizes = kind.from_wire(call).sizes()
        self._sentinel.write({**facts, "request": {"id": call.get("id"), **sizes}})
        self.threads = call.get("threads")
        return request

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        """Send a frame of the answer."""
        try:
            framing.send(self._connection, message, raw)
        except OSError as exc:
            raise _Cancelled from exc

    def step(self) -> None:
        """Between two steps: beat, share the threads, and see whether the call is still wanted."""
        self._sentinel.beat()
        self._budget.look()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL
        if now >= self._deadline:
            raise DeadlinePassed("the request was not finished when its deadline (REQUEST_TIMEOUT) passed")
        if hung_up(self._connection):
            raise _Cancelled


class _Work(Protocol):
    def __call__(self, call: _Call, request: dict[str, Any]) -> None: ...


def serve_completion(connection: socket.socket, engine: CompletionEngine, *, generation: int, sentinel: Sentinel,
                     budget: Budget, facts: dict[str, Any]) -> Served:
    """Answer one completion call and close its connection.

    Args:
        facts: what the sentinel says of this process; the request's id and sizes are added.
    """

    def work(call: _Call, request: dict[str, Any]) -> None:
        wanted = CompletionCall.from_wire(request["complete"])
        text = TextFilter([*wanted.sampling.stop, *engine.turn_marks(wanted)])

        def on_progress() -> bool:
            call.step()
            return True

        def on_token(piece: bytes) -> bool:
            call.tokens += 1
            call.step()
            shown = text.feed(piece)
            if shown:
                call.send({"event": "piece", "text": shown})
            return not text.stopped

        generated = engine.generate(engine.prompt(wanted), wanted.sampling, on_progress, on_token,
                                    wanted.prompt_batch)
        rest = text.finish()
        if rest:
            call.send({"event": "piece", "text": rest})
        limited = generated.reason == "limit" and not text.stopped
        call.send({
            "event": "done", "reason": "length" if limited else "stop", "model": engine.model,
            "generation": generation, "prompt_tokens": generated.prompt_tokens,
            "completion_tokens": generated.completion_tokens,
        })

    return _serve(connection, work, generation, sentinel, budget, facts)


def serve_tokens(connection: socket.socket, vocabularies: Vocabularies, *, generation: int, sentinel: Sentinel,
                 budget: Budget, facts: dict[str, Any]) -> Served:
    """Answer one call for the tokens of texts and close its connection."""

    def work(call: _Call, request: dict[str, Any]) -> None:
        wanted = TokenizeCall.from_wire(request["tokenize"])
        tokenize = vocabularies.of(wanted.model)
        counts, parts = [], []
        for text in wanted.texts:
            call.step()
            ids = tokenize(text)
            counts.append(len(ids))
            parts.append(struct.pack(f"<{len(ids)}i", *ids))
        call.tokens = sum(counts)
        call.send({"event": "done", "counts": counts, "generation": generation}, b"".join(parts))

    return _serve(connection, work, generation, sentinel, budget, facts)


def _serve(connection: socket.socket, work: _Work, generation: int, sentinel: Sentinel, budget: Budget,
           facts: dict[str, Any]) -> Served:
    started = time.monotonic()
    call = _Call(connection, generation, sentinel, budget)
    outcome: Outcome = "answered"
    with connection:
        try:
            request = call.begin(facts)
            budget.enter(call.threads)
            try:
                work(call, request)
            finally:
                budget.leave()
        except CallError as exc:
            outcome = "refused"
            try:
                call.send({"event": "error", "error": exc.to_wire()})
            except _Cancelled:
                outcome = "cancelled"
        except _Cancelled:
            outcome = "cancelled"
    return Served(outcome, time.monotonic() - started, call.tokens)
