"""One completion over one connection: compute, answer. Those for embeddings and tokens are served several at a time
(`embedding.py`, `counting.py`).

The working loop is here, so the heartbeat, the deadline, the look at the client and the thread budget are here too:
at every prompt batch and token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mayfly.engines import backends
from mayfly.engines.base import CompletionEngine, Generated, OnToken
from mayfly.engines.prefixes import Prefixes
from mayfly.errors import CallError, ContextLengthExceeded, InvalidRequest
from mayfly.prompts.stop_filter import TextFilter
from mayfly.wire.calls import Began, CompletionCall, Finished, Piece, Request, ScoredToken, request_of
from mayfly.wire.events import Served
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import LOOK_INTERVAL, Gone, Line, Outcome
from mayfly.workers.budget import Budget
from mayfly.workers.dropping import without_oldest
from mayfly.workers.prefix_store import Lend


class Completer:
    """Serves completions with one engine.

    Args:
        generation: of this process.
        facts: what the sentinel says of this process; the request's id and sizes are added.
        lend: returns what a call may use of the prefix store, if there is one.
    """

    def __init__(self, engine: CompletionEngine, *, generation: int, sentinel: Sentinel, budget: Budget,
                 facts: Mapping[str, Any], lend: Lend | None = None) -> None:
        self._engine = engine
        self._generation = generation
        self._sentinel = sentinel
        self._budget = budget
        self._facts = facts
        self._lend = lend
        self._prefixes: Prefixes | None = None
        self._next_look = 0.0

    def serve(self, line: Line, request: Request) -> Served:
        """Answer one call and close its connection."""
        started = time.monotonic()
        outcome: Outcome = "cancelled"
        tokens, evaluated = 0, 0.0
        logprobs: list[float] = []

        def on_progress() -> bool:
            self._step(line, request.deadline)
            return True

        def on_token(piece: bytes | None, *scores: ScoredToken) -> bool:
            nonlocal tokens, evaluated
            self._step(line, request.deadline)
            if piece is None:
                line.send(Piece("", scores))
                return True
            evaluated = evaluated or time.monotonic()
            tokens += 1
            logprobs.extend(score.logprob or 0.0 for score in scores)
            if shown := text.feed(piece, *scores):
                line.send(Piece(shown, text.tokens()))
            return not text.stopped

        with line.connection:
            try:
                call = request.call
                if not isinstance(call, CompletionCall):
                    raise Gone
                self._require_features(call)
                line.send(Began(self._generation))
                self._sentinel.write({**self._facts, "request": request_of([call])})
                self._budget.enter(call.threads)
                try:
                    text = TextFilter([*call.sampling.stop, *self._engine.turn_marks(call)])
                    self._prefixes = self._lend(call.namespace) if self._lend is not None else None
                    made, dropped = self._generate(call, on_progress, on_token)
                    rest, left = text.finish(), text.tokens()
                    if rest or left:
                        line.send(Piece(rest, left))
                    limited = made.reason == "limit" and not text.stopped
                    now = time.monotonic()
                    line.send(Finished("length" if limited else "stop", self._engine.model, self._generation,
                                       made.prompt_tokens, made.completion_tokens,
                                       sum(logprobs) / len(logprobs) if logprobs else None, dropped,
                                       round((evaluated or now) - started, 6), round(now - (evaluated or now), 6),
                                       text.stopped if text.stopped in call.sampling.stop else ""))
                    outcome = "answered"
                finally:
                    self._budget.leave()
            except CallError as exc:
                outcome = line.refuse(exc)
            except Gone:
                pass
        return Served(self._generation, outcome, round(time.monotonic() - started, 4), tokens)

    def hand_back(self) -> None:
        """After a call, when its caller waits for nothing more: leave for later ones what it has evaluated."""
        if self._prefixes is not None:
            self._prefixes.hand_back()

    def _generate(self, call: CompletionCall, on_progress: Callable[[], bool], on_token: OnToken
                  ) -> tuple[Generated, int]:
        """Generate; return how that ended, and how many messages were left out for it.

        Raises:
            CallError: see CompletionEngine.
        """
        messages = call.messages
        while True:
            try:
                made = self._engine.generate(self._engine.prompt(replace(call, messages=messages)), call.sampling,
                                             on_progress, on_token, call.prompt_batch, self._prefixes)
            except ContextLengthExceeded as exc:
                fewer = without_oldest(messages, (exc.tokens or 0) - self._engine.context_length)
                if not call.drop_oldest or len(fewer) == len(messages):
                    raise
                messages = fewer
            else:
                return made, len(call.messages) - len(messages)

    def _require_features(self, call: CompletionCall) -> None:
        """Check what is asked for, once more: who asked may have expected another engine, before the model was loaded.

        Raises:
            InvalidRequest: the engine has nothing for a field of the request.
        """
        engine = self._engine.facts["engine"]
        name = backends.lacking(call.features, engine)
        if name is not None:
            raise InvalidRequest(f"'{name}' has to be left out: {engine}, which serves this model, has nothing for it.",
                                 param=name)

    def _step(self, line: Line, deadline: float) -> None:
        """Between two steps: beat, share the threads, and see whether the call is still wanted."""
        self._sentinel.beat()
        self._budget.adjust()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            line.check(deadline, now)
