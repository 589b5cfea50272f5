"""The working loop for embeddings: takes many calls at once and answers each as soon as its texts are done.

While the lane is idle a call is computed as it comes; while it computes, what arrives is gathered for the next batch.
A long text is made tokens only as they are needed. Between two batches there is a moment for the heartbeat, the thread
budget, deadlines and clients that left.
"""

from __future__ import annotations

from mayfly.engines.base import EmbeddingEngine
from mayfly.errors import EngineFailed
from mayfly.wire.calls import EmbedCall, Embeddings, LongText, Request
from mayfly.workers.accept import Gone, Line
from mayfly.workers.batches import Chunk, Queue, Scheduler, Text
from mayfly.workers.budget import Budget
from mayfly.workers.gathering import Caller, Gathering, LaneEnd


class _Caller(Caller):
    """One call and its texts."""

    def __init__(self, line: Line, request: Request, texts: list[Text]) -> None:
        super().__init__(line, request)
        self.texts = texts
        self.missing = {text for text in texts if not text.done}
        self.queue = Queue.of(list(self.missing))

    @property
    def tokens(self) -> int:
        return sum(text.tokens for text in self.texts)


class Embedder(Gathering[_Caller]):
    """Serves the calls of one lane with one engine."""

    def __init__(self, engine: EmbeddingEngine, lane: LaneEnd, budget: Budget) -> None:
        super().__init__(lane)
        self._engine = engine
        self._budget = budget
        self._scheduler = Scheduler(engine)
        self._texts: dict[tuple[str, LongText], Text] = {}
        self._computing = self._prepared = False

    def _held(self, line: Line, request: Request) -> _Caller:
        call = request.call
        if not isinstance(call, EmbedCall):
            raise Gone
        texts = []
        for sent in call.texts:
            found = self._texts.get((sent, call.long_text))
            if found is None or found.error is not None:
                found = self._texts[sent, call.long_text] = Text(sent, call.long_text)
            texts.append(found)
        for text in set(texts):
            text.callers += 1
        return _Caller(line, request, texts)

    def _released(self, caller: _Caller) -> None:
        caller.missing.clear()
        for text in set(caller.texts):
            text.callers -= 1
            if not text.callers and self._texts.get((text.text, text.long_text)) is text:
                del self._texts[text.text, text.long_text]

    def step(self, accepting: bool = True) -> None:
        """Take what has come, compute one batch, answer what is done; wait up to a tick if there is nothing to do.

        Args:
            accepting: whether calls are taken from the lane's socket.
        """
        self._gather(accepting=accepting)
        if self._callers:
            if self._computing:
                self._budget.adjust()
            else:
                self._computing = True
                self._budget.enter()
            batch = self._scheduler.next_batch([caller.queue for caller in self._callers if caller.missing])
            self._compute(batch)
            self._settle({chunk.text for chunk in batch if chunk.text.done})
        elif not self._prepared:
            self._prepared = True
            self._engine.prepare()
        if self._computing and not self._callers:
            self._computing = False
            self._budget.leave()
        self._rest()

    def _compute(self, batch: list[Chunk]) -> None:
        if not batch:
            return
        try:
            rows = self._engine.compute([chunk.ids for chunk in batch])
        except EngineFailed as exc:
            if len(batch) == 1:
                batch[0].text.error = exc
                return
            # One of them is to blame; the others go on.
            for chunk in batch:
                self._compute([chunk])
            return
        for chunk, row in zip(batch, rows, strict=True):
            chunk.text.take(chunk.number, row)

    def _settle(self, done: set[Text]) -> None:
        """Answer the calls whose texts are all done, and those of which one can't be."""
        bad = {text for text in done if text.error is not None}
        for caller in list(self._callers):
            if bad & caller.missing:
                caller.missing.clear()
            caller.missing -= done
            if not caller.missing:
                with self._ending(caller):
                    self._answer(caller)

    def _answer(self, caller: _Caller) -> None:
        for index, text in enumerate(caller.texts):
            if text.error is not None:
                raise EngineFailed(text.error.message, param=f"input.{index}") from text.error
        vectors = b"".join(text.vector for text in caller.texts if text.vector is not None)
        self._finish(caller, Embeddings(vectors, self._engine.dimensions, caller.tokens, self._engine.model,
                                        self._lane.generation))
