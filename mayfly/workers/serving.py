"""One completion over one connection: compute, answer. Those for embeddings and tokens are served several at a time
(`embedding.py`, `counting.py`).

The working loop is here, so the heartbeat, the deadline, the look at the client and the thread budget are here too:
at every prompt batch and token.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mayfly.engines import backends
from mayfly.engines.base import CompletionEngine, Generated
from mayfly.engines.prefixes import Prefixes
from mayfly.errors import CallError, ContextLengthExceeded, InvalidRequest
from mayfly.prompts.answer_reader import AnswerReader, Read
from mayfly.prompts.chat import Answering
from mayfly.prompts.stop_filter import TextFilter
from mayfly.wire.calls import (
    Began,
    CompletionCall,
    Finished,
    FinishReason,
    Message,
    Piece,
    Request,
    ScoredToken,
    request_of,
)
from mayfly.wire.events import Served
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import LOOK_INTERVAL, Gone, Line, Outcome
from mayfly.workers.budget import Budget
from mayfly.workers.dropping import without_oldest
from mayfly.workers.prefix_store import Lend

# Tokens that come sooner after the last part was sent (s) are sent with the next one: each part wakes the web process
# and the client, on cores that the model computes with.
_TOGETHER = 0.04


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
        self._said = ""
        self._next_look = 0.0

    def serve(self, line: Line, request: Request) -> Served:
        """Answer one call and close its connection."""
        started, done = time.monotonic(), 0.0
        outcome: Outcome = "cancelled"
        answer = _Answer(line, lambda: self._step(line, request.deadline))
        with line.connection:
            try:
                call = request.call
                if not isinstance(call, CompletionCall):
                    raise Gone
                self._require_features(call)
                line.send(Began(self._generation))
                self._sentinel.write({**self._facts, "request": request_of([call])})
                self._budget.enter(call.threads, look=True)
                try:
                    self._prefixes = self._lend(call.namespace) if self._lend is not None else None
                    made, dropped = self._generate(call, answer)
                    reason = answer.finish(made)
                    self._said = answer.said() if not dropped and reason != "tool_calls" else ""
                    done = time.monotonic()
                    evaluated = answer.began or done
                    line.send(Finished(reason, self._engine.model, self._generation, made.prompt_tokens,
                                       made.completion_tokens, answer.mean_logprob(), dropped,
                                       round(evaluated - started, 6), round(done - evaluated, 6),
                                       answer.stopped if answer.stopped in call.sampling.stop else ""))
                    outcome = "answered"
                finally:
                    self._budget.leave()
            except CallError as exc:
                with contextlib.suppress(Gone):
                    answer.show()
                outcome = line.refuse(exc)
            except Gone:
                pass
        return Served(self._generation, outcome, round(time.monotonic() - started, 4), answer.tokens, when=done)

    def hand_back(self) -> None:
        """After a call, when its caller waits for nothing more: leave for later ones what it has evaluated."""
        if self._prefixes is not None:
            self._prefixes.hand_back()

    def look_ahead(self, call: CompletionCall, on_progress: Callable[[], bool]) -> None:
        """After a turn of a conversation, in an idle moment: evaluate the answer, since the next turn begins with it.

        It was generated token by token, whose numbers aren't to the last bit those of a prompt's. People read an answer
        before they go on, so that takes nobody's time. The first answer may be the only one.

        Raises:
            EngineFailed: the engine reported an error.
        """
        if self._prefixes is None or not self._said or not any(turn.role == "assistant" for turn in call.messages):
            return
        turns = (*call.messages, Message("assistant", self._said))
        prompts = [self._engine.prompt(replace(call, messages=(*turns, Message("user", text)))) for text in ("a", "b")]
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*prompts, strict=False))
        self._engine.evaluate_ahead([segment for segment, _ in alike], on_progress, self._prefixes)
        self._prefixes.hand_back()

    def _generate(self, call: CompletionCall, answer: _Answer) -> tuple[Generated, int]:
        """Generate; return how that ended, and how many messages were left out for it.

        Raises:
            CallError: see CompletionEngine.
        """
        messages = call.messages
        while True:
            try:
                segments = self._engine.prompt(replace(call, messages=messages))
                answering = self._engine.answering(call, segments)
                answer.expect(answering)
                made = self._engine.generate(segments, answering.sampling, answer.on_progress, answer.on_token,
                                             call.prompt_batch, self._prefixes,
                                             self._budget.full if call.sampling.repeatable else None)
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


class _Answer:
    """What is sent of a completion while it is made.

    Args:
        step: is called between two steps of the engine.

    Attributes:
        tokens: how many have come.
        began: when the first of them did; 0 until then.
    """

    def __init__(self, line: Line, step: Callable[[], None]) -> None:
        self._line = line
        self._step = step
        self._text = TextFilter(())
        self._reader = AnswerReader()
        self._held = ""
        self._shown = 0.0
        self._logprobs: list[float] = []
        self._texts: list[str] = []
        self.tokens = 0
        self.began = 0.0

    def expect(self, answering: Answering) -> None:
        """Begin with the answer to a prompt."""
        self._text = TextFilter([*answering.sampling.stop, *answering.turn_marks])
        self._reader = answering.reader

    def on_progress(self) -> bool:
        """See CompletionEngine."""
        self._step()
        return True

    def on_token(self, piece: bytes | None, *scores: ScoredToken) -> bool:
        """See OnToken."""
        self._step()
        if piece is None:
            self._line.send(Piece("", scores))
            return True
        self.began = self.began or time.monotonic()
        self.tokens += 1
        self._logprobs.extend(score.logprob or 0.0 for score in scores)
        self._held += self._text.feed(piece, *scores)
        if time.monotonic() - self._shown >= _TOGETHER:
            self.show()
        return not self._text.stopped

    def show(self) -> None:
        """Send what has come since the last part."""
        held, self._held = self._held, ""
        self._send(self._reader.feed(held))

    def finish(self, made: Generated) -> FinishReason:
        """Send what was held back; return why it ended."""
        self._held += self._text.finish()
        self.show()
        self._send(self._reader.finish())
        if made.reason == "limit" and not self._text.stopped:
            return "length"
        return "tool_calls" if self._reader.called else "stop"

    def said(self) -> str:
        """Return the text that was sent of it."""
        return "".join(self._texts)

    @property
    def stopped(self) -> str:
        """The text that has ended it; "" if none has."""
        return self._text.stopped

    def mean_logprob(self) -> float | None:
        """Return that of all tokens, if they have any."""
        return sum(self._logprobs) / len(self._logprobs) if self._logprobs else None

    def _send(self, read: Read) -> None:
        tokens = self._text.tokens()
        self._texts.append(read.text)
        if read or tokens:
            self._shown = time.monotonic()
            self._line.send(Piece(read.text, tokens, read.reasoning, tuple(read.calls)))
