"""Which texts an embedding engine computes next, of all that callers wait for.

Texts of one length are computed side by side, because shorter ones would be padded; so a call's texts are taken in
the order of their lengths. Of several calls the one with the least left goes first, and the one that has waited
longest has every second batch: a caller with one text doesn't wait for the 2,000 of another, and the 2,000 are
finished too. While short calls come and go, what long ones have computed in between is kept small.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mayfly.engines import long_texts
from mayfly.engines.base import EmbeddingEngine, Part
from mayfly.errors import CallError
from mayfly.wire.calls import LongText

if TYPE_CHECKING:  # the engine that needs it loads it
    import numpy as np
    import numpy.typing as npt

# A call with fewer bytes of text is short: it takes milliseconds.
_SHORT = 2_000
# Padded tokens of long calls that are computed at once while short ones come: some 2 to 3 times a short call's work.
_TOKENS_BESIDE_SHORT = 64
# Bytes of text that are made tokens before somebody else has a turn: some milliseconds.
_BYTES_AT_ONCE = 16_000
# How long after a short call the next one is expected.
_MORE_EXPECTED = 1.0
# A batch of several lengths may be padded by this part of itself.
_MOST_PADDING = 0.25


class Text:
    """A text that is to be embedded, for all calls of the moment that have it.

    A long one is taken part by part, so that nobody waits for all of it to be made tokens.

    Attributes:
        text, long_text: see `EmbeddingEngine.plan`.
        size: in bytes.
        left: those of them, roughly, that no part has been made of.
        whole: all parts have been taken.
        vector, tokens: what is made of it; None and 0 until then.
        error: why nothing is.
        callers: how many calls have it.
        chunks: those of the parts until now that no batch has had, by their numbers.
        chunked: how many there have been.
    """

    __slots__ = ("_counts", "_lengths", "_made", "_plan", "callers", "chunked", "chunks", "error", "left", "long_text",
                 "size", "text", "tokens", "vector", "whole")

    def __init__(self, text: str, long_text: LongText) -> None:
        self.text = text
        self.long_text: LongText = long_text
        self.size = self.left = len(text) if text.isascii() else len(text.encode())
        self.vector: bytes | None = None
        self.tokens = 0
        self.error: CallError | None = None
        self.callers = 0
        self.whole = False
        self.chunks: dict[int, Chunk] = {}
        self.chunked = 0
        self._plan: Iterator[Part | None] | None = None
        # Of each part: its chunks and its tokens.
        self._lengths: list[int] = []
        self._counts: list[int] = []
        # The vectors of chunks, by their numbers.
        self._made: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def done(self) -> bool:
        """It is embedded, or can't be."""
        return self.vector is not None or self.error is not None

    def tokenize(self, engine: EmbeddingEngine) -> None:
        """Take the chunks of the next part, if that doesn't need another step."""
        if self._plan is None:
            self._plan = engine.plan(self.text, self.long_text)
        part = next(self._plan)
        if part is None:
            return
        self.left, self.whole = part.left, not part.left
        self._lengths.append(len(part.chunks))
        self._counts.append(part.count)
        self.tokens += part.count
        for ids in part.chunks:
            self.chunks[self.chunked] = Chunk(self, self.chunked, ids)
            self.chunked += 1

    def take(self, number: int, row: npt.NDArray[np.float32]) -> None:
        """Take the vector of a chunk; after the last one the text is done."""
        self._made[number] = row
        if self.whole and len(self._made) == self.chunked:
            rows = [self._made[at] for at in range(self.chunked)]
            self.vector = long_texts.join(self._lengths, self._counts, rows)
            self._made = {}


@dataclass(frozen=True, eq=False)
class Chunk:
    """What is computed at once of a text."""

    text: Text
    number: int
    ids: Sequence[int]

    @property
    def wanted(self) -> bool:
        """No batch has had it, of this call or another, and its text isn't given up."""
        return self.number in self.text.chunks and not self.text.done


@dataclass(eq=False)
class Queue:
    """The texts of one call that aren't computed yet.

    Attributes:
        texts: the longest first: they are taken from the end.
        chunks: those of texts that have been tokenised, the longest first.
        begun: how many chunks of the last text are among them, or have been.
        left: bytes of the texts but for the last, of which no part has been taken; their order is that of the work.
    """

    texts: list[Text]
    chunks: list[Chunk] = field(default_factory=list)
    begun: int = 0
    left: int = 0
    short: bool = False
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, texts: Sequence[Text]) -> Queue:
        """Return the queue of a call's texts."""
        size = sum(text.size for text in texts)
        queue = cls(sorted(texts, key=lambda text: text.size, reverse=True), left=size, short=size < _SHORT)
        queue._count_last()
        return queue

    def empty(self) -> bool:
        """Tell whether everything has been taken."""
        while self.chunks and not self.chunks[-1].wanted:
            self.chunks.pop()
        while self.texts and (self.texts[-1].done or (self.texts[-1].whole and self.begun == self.texts[-1].chunked)):
            self.texts.pop()
            self.begun = 0
            self._count_last()
        return not self.chunks and not self.texts

    def _count_last(self) -> None:
        if self.texts:
            self.left -= self.texts[-1].size

    def fill(self, engine: EmbeddingEngine, tokens: int) -> None:
        """Tokenise texts until there is enough for a batch or some milliseconds have passed, and put their chunks in
        order."""
        self.chunks = [chunk for chunk in self.chunks if chunk.wanted]
        ready = sum(len(chunk.ids) for chunk in self.chunks)
        if ready >= tokens:
            return
        size = 0
        # More than one batch, so that neighbours in length are found.
        while ready < 2 * tokens and size < _BYTES_AT_ONCE and not (self.empty() or not self.texts):
            text = self.texts[-1]
            if self.begun == text.chunked:
                text.tokenize(engine)
                size += min(text.size, _BYTES_AT_ONCE)
            fresh = [text.chunks[number] for number in range(self.begun, text.chunked) if number in text.chunks]
            self.begun = text.chunked
            self.chunks += fresh
            ready += sum(len(chunk.ids) for chunk in fresh)
        self.chunks.sort(key=lambda chunk: len(chunk.ids), reverse=True)

    def work(self) -> int:
        """Return a number that grows with what is left to compute."""
        last = self.texts[-1].left if self.texts else 0
        return self.left + last + 4 * sum(len(chunk.ids) for chunk in self.chunks)


class Scheduler:
    """Chooses batches for an engine.

    Args:
        engine: what computes.
    """

    def __init__(self, engine: EmbeddingEngine) -> None:
        self._engine = engine
        self._short_seen = float("-inf")
        self._served: set[Queue] = set()

    def next_batch(self, queues: Sequence[Queue]) -> list[Chunk]:
        """Take the chunks that are to be computed now; [] if nothing is left in any queue."""
        waiting = [queue for queue in queues if not queue.empty()]
        if not waiting:
            return []
        now = time.monotonic()
        if any(queue.short for queue in waiting):
            self._short_seen = now
        beside_short = now - self._short_seen < _MORE_EXPECTED
        oldest = min(waiting, key=lambda queue: queue.since)
        order = sorted(waiting, key=lambda queue: (queue is not oldest or oldest in self._served, queue.work()))
        batch: list[Chunk] = []
        self._served = set()
        for queue in order:
            limit = self._engine.batch_tokens
            if beside_short and not queue.short:
                if batch:
                    break
                limit = min(limit, _TOKENS_BESIDE_SHORT)
            if self._take(queue, batch, limit):
                self._served.add(queue)
        return batch

    def _take(self, queue: Queue, batch: list[Chunk], limit: int) -> bool:
        """Move chunks from a queue into a batch as long as they fit; tell whether any did."""
        queue.fill(self._engine, limit)
        width = max((len(chunk.ids) for chunk in batch), default=0)
        tokens = sum(len(chunk.ids) for chunk in batch)
        before = len(batch)
        while queue.chunks:
            length = len(queue.chunks[-1].ids)
            padded = (len(batch) + 1) * max(width, length)
            if batch and (padded > limit or tokens + length < (1 - _MOST_PADDING) * padded):
                break
            chunk = queue.chunks.pop()
            if chunk.wanted:
                del chunk.text.chunks[chunk.number]
                batch.append(chunk)
                width = max(width, length)
                tokens += length
        return len(batch) > before
