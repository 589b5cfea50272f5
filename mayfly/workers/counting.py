"""The working loop for tokens: takes many calls at once and gives each a step in turn.

A step is some milliseconds of tokenising, so a caller with one word doesn't wait for the megabytes of another; and
between two rounds of steps there is a moment for the heartbeat, deadlines and clients that left.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from mayfly.wire.calls import Request, TokenizeCall, Tokens
from mayfly.workers.accept import Gone, Line
from mayfly.workers.gathering import Caller, Gathering, LaneEnd
from mayfly.workers.vocabularies import Vocabularies


class _Caller(Caller):
    """One call, and what is done of it."""

    def __init__(self, line: Line, request: Request, call: TokenizeCall, vocabularies: Vocabularies) -> None:
        super().__init__(line, request)
        self.counts: list[int] = []
        self.ids = array("i")
        self.steps = self._tokenise(call, vocabularies)

    @property
    def tokens(self) -> int:
        return sum(self.counts)

    def _tokenise(self, call: TokenizeCall, vocabularies: Vocabularies) -> Iterator[None]:
        tokenize = vocabularies.of(call.model)
        for text in (*call.texts, *call.prompts):
            count = 0
            for ids in tokenize(text):
                count += len(ids)
                if not call.counted_only:
                    self.ids += ids
                yield
            self.counts.append(count)


class Counter(Gathering[_Caller]):
    """Serves the calls of the lane for tokens."""

    def __init__(self, vocabularies: Vocabularies, lane: LaneEnd) -> None:
        super().__init__(lane)
        self._vocabularies = vocabularies

    def _held(self, line: Line, request: Request) -> _Caller:
        if not isinstance(request.call, TokenizeCall):
            raise Gone
        return _Caller(line, request, request.call, self._vocabularies)

    def step(self) -> None:
        """Take what has come and give each call a step; wait up to a tick if there is nothing to do."""
        self._gather()
        for caller in list(self._callers):
            with self._ending(caller):
                if next(caller.steps, self) is self:
                    self._finish(caller, Tokens(tuple(caller.counts), caller.ids.tobytes()))
        self._rest()
