"""One call over one connection: compute, answer. What workers for completions do with a request that has come; those
for embeddings and tokens hold several (`embedding.py`, `counting.py`).

The working loop is here, so the heartbeat, the deadline, the look at the client and the thread budget are here too:
at every prompt batch and token.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mayfly.compat.sockets import hung_up
from mayfly.engines.base import CompletionEngine
from mayfly.errors import CallError, DeadlinePassed
from mayfly.prompts.stop_filter import TextFilter
from mayfly.wire import framing
from mayfly.wire.calls import CompletionCall
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import Gone, read_request
from mayfly.workers.budget import Budget

Outcome = Literal["answered", "refused", "cancelled"]

# The web process is on this machine and reads at once; if it doesn't for this long, it is gone.
_IO_TIMEOUT = 10.0
# A look at the client costs two system calls: not at every token of a fast model.
_LOOK_INTERVAL = 0.05


@dataclass
class Served:
    """What became of one call.

    `tokens` are those sampled (completions) or counted.
    """

    outcome: Outcome
    seconds: float
    tokens: int


class _Call:
    """The connection of one call, and the checks between two steps of its work."""

    def __init__(self, connection: socket.socket, generation: int, sentinel: Sentinel, budget: Budget) -> None:
        connection.settimeout(_IO_TIMEOUT)
        self.connection = connection
        self._sentinel = sentinel
        self.budget = budget
        self._next_look = 0.0
        self._deadline = float("inf")
        self.generation = generation
        self.tokens = 0

    def begin(self, wanted: CompletionCall, deadline: float, facts: dict[str, Any]) -> None:
        """Say that the call has a process, and note in the sentinel what is being served."""
        self._deadline = deadline
        self.send({"event": "began", "generation": self.generation})
        self._sentinel.write({**facts, "request": {"id": wanted.id, **wanted.sizes()}})

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        """Send a frame of the answer."""
        try:
            framing.send(self.connection, message, raw)
        except OSError as exc:
            raise Gone from exc

    def step(self) -> None:
        """Between two steps: beat, share the threads, and see whether the call is still wanted."""
        self._sentinel.beat()
        self.budget.look()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL
        if now >= self._deadline:
            raise DeadlinePassed("the request was not finished when its deadline (REQUEST_TIMEOUT) passed")
        if hung_up(self.connection):
            raise Gone


def serve_completion(connection: socket.socket, request: dict[str, Any], engine: CompletionEngine, *, generation: int,
                     sentinel: Sentinel, budget: Budget, facts: dict[str, Any]) -> Served:
    """Answer one completion call and close its connection.

    Args:
        request: what it has brought.
        facts: what the sentinel says of this process; the request's id and sizes are added.
    """

    def work(call: _Call, wanted: CompletionCall) -> None:
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

    call = _Call(connection, generation, sentinel, budget)
    return _serve(call, request, work, facts)


def _serve(call: _Call, request: dict[str, Any], work: Callable[[_Call, CompletionCall], None], facts: dict[str, Any]
           ) -> Served:
    started = time.monotonic()
    outcome: Outcome = "answered"
    with call.connection:
        try:
            deadline, wanted = read_request(request, "complete", CompletionCall.from_wire)
            call.begin(wanted, deadline, facts)
            call.budget.enter(wanted.threads)
            try:
                work(call, wanted)
            finally:
                call.budget.leave()
        except CallError as exc:
            outcome = "refused"
            try:
                call.send({"event": "error", "error": exc.to_wire()})
            except Gone:
                outcome = "cancelled"
        except Gone:
            outcome = "cancelled"
    return Served(outcome, time.monotonic() - started, call.tokens)
