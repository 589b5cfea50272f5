"""From tokens to text: whole characters only, and never the beginning of a stop string."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from mayfly.prompts.call_patterns import overlap
from mayfly.wire.calls import ScoredToken


class TextFilter:
    """Turns the bytes of tokens into text that may be shown.

    A character whose bytes are spread over tokens is held back until it is whole. What may be the beginning of a
    stop string is held back until it is known not to be.

    Args:
        stop: stop strings, none of them empty.

    Attributes:
        stopped: the one that has ended the text; "" if none has.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self._shown = 0
        self._scored: deque[tuple[int, ScoredToken]] = deque()  # with the character that each begins in
        self._ended = False
        self.stopped = ""

    def feed(self, piece: bytes, *scores: ScoredToken) -> str:
        """Take a token's bytes; return what may be shown now. Nothing comes after a stop string.

        Args:
            scores: the token's, if it has one; see `tokens`.
        """
        self._scored.extend((self._shown + len(self._held), score) for score in scores)
        return self._show(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, at the end of the completion."""
        shown = self._show(self._decoder.decode(b"", final=True))
        shown, self._held = shown + self._held, ""
        self._ended = not self.stopped
        return shown

    def tokens(self) -> tuple[ScoredToken, ...]:
        """Return the scores of tokens whose text has begun to be shown, each once; at the end of a completion that no
        stop string has cut, all that are left."""
        found = []
        while self._scored and (self._ended or self._scored[0][0] < self._shown):
            found.append(self._scored.popleft()[1])
        return tuple(found)

    def _show(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        ends = [(position, stop) for stop in self._stop if (position := self._held.find(stop)) >= 0]
        if ends:
            end, self.stopped = min(ends)
            shown, self._held = self._held[:end], ""
            self._shown += len(shown)
            return shown
        keep = max((overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        self._shown += len(shown)
        return shown
