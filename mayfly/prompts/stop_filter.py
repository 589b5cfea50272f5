"""From tokens to text: whole characters only, and never the beginning of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextFilter:
    """Turns the bytes of tokens into text that may be shown.

    A character whose bytes are spread over tokens is held back until it is whole. What may be the beginning of a
    stop string is held back until it is known not to be.

    Args:
        stop: stop strings, none of them empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Take a token's bytes; return what may be shown now. Nothing comes after a stop string."""
        return self._show(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, at the end of the completion."""
        shown = self._show(self._decoder.decode(b"", final=True))
        shown, self._held = shown + self._held, ""
        return shown

    def _show(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        ends = [position for position in (self._held.find(stop) for stop in self._stop) if position >= 0]
        if ends:
            shown, self._held, self.stopped = self._held[:min(ends)], "", True
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
