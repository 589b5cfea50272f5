"""The working loop for embeddings: takes many calls at once and answers each as soon as its texts are done.

While the lane is idle a call is computed as it comes; while it computes, what arrives is gathered for the next batch.
An engine without batches gets one part of a text at a time, of the callers in turn, or as many as it computes side by
side; then the next part takes the place of each that is done. A long text is made parts and tokens only as they are
needed. Between two batches or parts there is a moment for the heartbeat, the thread budget, deadlines and clients that
left.

A call that kills the process takes down those that are computed beside it, and all of them come once more. So a
process that follows another takes calls one by one until none waits: then whoever dies is the one to blame.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mayfly.engines.base import (
    BatchEmbeddingEngine,
    EmbeddingEngine,
    ParallelEmbeddingEngine,
    PartEmbeddingEngine,
)
from mayfly.errors import CallError, EngineFailed
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import GATHERED, Began, EmbedCall, Embeddings, LongText, Request, request_of
from mayfly.wire.sentinel import Sentinel
from mayfly.workers.accept import LOOK_INTERVAL, TICK, Door, Gone, Line, Outcome
from mayfly.workers.batches import Chunk, Part, Queue, Scheduler, Text, Turns
from mayfly.workers.budget import Budget


class _Caller:
    """One call, with the connection that has brought it, and its texts."""

    def __init__(self, line: Line, deadline: float, call: EmbedCall, *, keeps: bool) -> None:
        self.line = line
        self.deadline = deadline
        self.call = call
        self.keeps = keeps  # the connection, for the next call
        self.texts: list[Text] = []
        self.missing: set[Text] = set()
        self.queue = Queue([])
        self.since = time.monotonic()


class Embedder:
    """Serves the calls of one lane with one engine.

    Args:
        listener: the lane's socket, not blocking.
        address: the lane's.
        generation: of this process; one that follows another begins with calls one by one.
        facts: what the sentinel says of this process; the requests' ids and sizes are added.
        occupied: told that a call may be taken now (1), and that none is held any more (0).
        served: told of each call that ended: how, after how many seconds, with how many tokens.
        queue_limit: calls that may have waited for the process before this one.
    """

    def __init__(self, engine: EmbeddingEngine, listener: socket.socket, address: LaneAddress, *,
                 generation: int, sentinel: Sentinel, budget: Budget, facts: Mapping[str, Any],
                 occupied: Callable[[int], None] = lambda taken: None,
                 served: Callable[[Outcome, float, int], None] = lambda outcome, seconds, tokens: None,
                 queue_limit: int = 0) -> None:
        self._engine = engine
        self._scheduler = Scheduler(engine) if isinstance(engine, BatchEmbeddingEngine) else None
        self._door = Door(listener, address, Line.take, self._taking)
        self._generation = generation
        self._sentinel = sentinel
        self._budget = budget
        self._facts = facts
        self._occupied = occupied
        self._report = served
        self._callers: list[_Caller] = []
        # Calls that are still taken one by one: all that can have come before this process did.
        self._one_by_one = GATHERED + queue_limit if generation > 1 else 0
        self._texts: dict[tuple[str, LongText], Text] = {}
        self._busy = self._computing = False
        self._noted = True
        self._next_look = 0.0
        self._turns = Turns(engine)
        self._prepared = False
        self._accepting = True

    @property
    def idle(self) -> bool:
        """No call is held."""
        return not self._callers

    def step(self, accepting: bool = True) -> None:
        """Take what has come, compute one batch, answer what is done; wait up to a tick if there is nothing to do.

        Args:
            accepting: whether calls are taken from the lane's socket.
        """
        self._accepting = accepting
        ready = self._hear(0 if self._working() or (self._one_by_one and not self._callers) else TICK)
        if not ready and not self._callers:
            if not self._one_by_one and not self._prepared and isinstance(self._engine, BatchEmbeddingEngine):
                self._prepared = True
                self._engine.prepare()
            self._one_by_one = 0  # nobody waits: those that the last process took down with it are answered
        self._sentinel.beat()
        self._look()
        if self._working():
            if not self._noted:
                self._note()
            if self._computing:
                self._budget.look()
            else:
                self._computing = True
                self._budget.enter()
            self._compute()
        self._settle()

    def _hear(self, timeout: float) -> bool:
        """Take the calls that have come; wait so long for the first. True if there was any."""
        room = (1 if self._one_by_one else GATHERED) - len(self._callers)
        came = self._door.hear(timeout, room if self._accepting else 0)
        for line, request in came:
            self._begin(line, request)
        return bool(came)

    def _working(self) -> bool:
        return any(caller.missing for caller in self._callers)

    # -- calls --------------------------------------------------------------------------------------------------

    def _taking(self) -> None:
        self._busy = True
        self._occupied(1)

    def _begin(self, line: Line, request: Request) -> None:
        self._one_by_one = max(0, self._one_by_one - 1)
        if not isinstance(request.call, EmbedCall):
            line.connection.close()
            return
        caller = _Caller(line, request.deadline, request.call, keeps=request.keep)
        self._callers.append(caller)
        with self._ending(caller):
            if not line.kept:
                # Nothing tells the caller of a kept one: it knows which process it has sent its call to.
                line.send(Began(self._generation))
            self._take_texts(caller)

    def _take_texts(self, caller: _Caller) -> None:
        long_text = caller.call.long_text
        for sent in caller.call.texts:
            found = self._texts.get((sent, long_text))
            if found is None or found.error is not None:
                found = self._texts[sent, long_text] = Text(sent, long_text)
            caller.texts.append(found)
        for text in set(caller.texts):
            text.callers += 1
            if not text.done:
                caller.missing.add(text)
        caller.queue = Queue.of(list(caller.missing))
        self._noted = False

    def _note(self) -> None:
        """Write into the sentinel what is being served, for a report if this process dies of it."""
        self._noted = True
        self._sentinel.write({**self._facts, "request": request_of([caller.call for caller in self._callers])})

    @contextlib.contextmanager
    def _ending(self, caller: _Caller) -> Iterator[None]:
        """End a call that raises: with the error as its answer, or without one if nobody waits for it."""
        try:
            yield
        except CallError as exc:
            self._end(caller, caller.line.refuse(exc))
        except Gone:
            self._end(caller, "cancelled")

    def _end(self, caller: _Caller, outcome: Outcome) -> None:
        if outcome == "answered" and caller.keeps:
            self._door.keep(caller.line)
        else:
            caller.line.connection.close()
        self._callers.remove(caller)
        self._noted = False
        caller.missing.clear()
        for text in set(caller.texts):
            text.callers -= 1
            if not text.callers and self._texts.get((text.text, text.long_text)) is text:
                del self._texts[text.text, text.long_text]
        self._report(outcome, time.monotonic() - caller.since, sum(text.tokens for text in caller.texts))

    def _look(self) -> None:
        """End the calls whose deadline has passed or whose caller has left."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        for caller in list(self._callers):
            with self._ending(caller):
                caller.line.check(caller.deadline, now)

    def _settle(self) -> None:
        """Answer the calls that are done, and rest if none is held."""
        self._answer_those_done()
        if not self._callers and self._busy:
            self._busy = False
            if self._computing:
                self._computing = False
                self._budget.leave()
                self._sentinel.write(dict(self._facts))
            self._occupied(0)

    def _answer_those_done(self) -> None:
        for caller in list(self._callers):
            if not caller.missing:
                with self._ending(caller):
                    self._answer(caller)

    def _answer(self, caller: _Caller) -> None:
        vectors = []
        for index, text in enumerate(caller.texts):
            if text.error is not None:
                raise EngineFailed(text.error.message, param=f"input.{index}") from text.error
            if text.vector is not None:
                vectors.append(text.vector)
        caller.line.send(Embeddings(b"".join(vectors), self._engine.dimensions,
                                    sum(text.tokens for text in caller.texts), self._engine.model, self._generation))
        self._end(caller, "answered")

    # -- computing ----------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        if self._scheduler is not None:
            batch = self._scheduler.next_batch([caller.queue for caller in self._callers if caller.missing])
            self._compute_batch(batch)
            self._done({chunk.text for chunk in batch})
            return
        assert isinstance(self._engine, PartEmbeddingEngine)
        engine = self._engine
        parts: list[Part] = []
        places = engine.at_once if isinstance(engine, ParallelEmbeddingEngine) else 1
        # One more, so that no place is empty while an answer is sent.
        while len(parts) < (places + 1 if places > 1 else 1):
            part = self._next_part()
            if part is None:
                break
            parts.append(part)
        if isinstance(engine, ParallelEmbeddingEngine) and len(parts) > 1:
            self._compute_side_by_side(engine, parts, min(places, len(parts)))
        elif parts:
            self._compute_part(engine, parts[0])

    def _next_part(self) -> Part | None:
        return self._turns.next_part([caller.queue for caller in self._callers if caller.missing])

    def _done(self, texts: set[Text]) -> None:
        """Tell the callers which texts are done. A call that has a bad one ends with it."""
        done = {text for text in texts if text.done}
        bad = {text for text in done if text.error is not None}
        for caller in self._callers:
            if bad & caller.missing:
                caller.missing.clear()
            caller.missing -= done

    def _compute_part(self, engine: PartEmbeddingEngine, part: Part) -> None:
        made: tuple[bytes, int] | EngineFailed
        try:
            made = engine.embed(part.content, part.text.long_text)
        except EngineFailed as exc:
            made = exc
        self._take(part, made)

    def _take(self, part: Part, made: tuple[bytes, int] | EngineFailed) -> None:
        if isinstance(made, EngineFailed):
            part.text.error = made
        else:
            part.text.take_part(part.number, *made)
        self._done({part.text})

    def _compute_side_by_side(self, engine: ParallelEmbeddingEngine, parts: list[Part], places: int) -> None:
        """Compute parts at the same time, and others in their places, as long as all places are taken."""
        running = dict(enumerate(parts))
        ends = time.monotonic() + TICK

        def on_done(number: int, made: tuple[bytes, int] | EngineFailed) -> tuple[str, LongText] | None:
            self._take(running.pop(number), made)
            self._answer_those_done()
            self._sentinel.beat()
            self._budget.look()
            self._hear(0)
            self._look()
            # When places are free, or threads for more of them, all begin anew with as many threads as there are; and
            # whoever runs this loop has things to do as well.
            if len(running) + 1 < places or engine.at_once != places or time.monotonic() >= ends:
                return None
            following = self._next_part()
            if following is None:
                return None
            if not self._noted:
                self._note()
            running[len(parts)] = following
            parts.append(following)
            return following.content, following.text.long_text

        engine.embed_each([(part.content, part.text.long_text) for part in parts], on_done)

    def _compute_batch(self, batch: list[Chunk]) -> None:
        assert isinstance(self._engine, BatchEmbeddingEngine)
        if not batch:
            return
        try:
            rows = self._engine.embed_batch([chunk.ids for chunk in batch])
        except EngineFailed as exc:
            if len(batch) == 1:
                batch[0].text.error = exc
                return
            # One of them is to blame; the others go on.
            for chunk in batch:
                self._compute_batch([chunk])
            return
        for chunk, row in zip(batch, rows, strict=True):
            chunk.text.take(chunk.number, row)
