"""Whether a client that sends no more still reads its answer.

A program that shuts its sending side after its request (`nc -N`, a shell's pipe) waits for the answer; one that has
closed its connection does not, and what it asked for is wasted work. Both look the same until something is sent: the
system of the one that has closed answers with a reset. So such a client is sent what it gets anyhow, ahead of time:
the first bytes that all answers have, one after the other, and inside a stream of events comments.
"""

from __future__ import annotations

# Inside a stream of events: a comment, which readers skip.
PING = b": ping\n\n"
# What every answer begins with, in whichever version of HTTP/1.
_BEGINNING = b"HTTP/1."
# From one sign to the next (s) at first, and how much longer each further one waits: the beginning lasts two minutes.
_PAUSE = 0.25
_LONGER = 3.0


class Pulse:
    """The signs of one connection's answers."""

    def __init__(self) -> None:
        self._due = False

    def open(self) -> None:
        """Note that an answer is due; one that is due already goes on."""
        if not self._due:
            self._due = True
            self._begun = False
            self._unsaid = _BEGINNING
            self._comment = b""
            self._pause = _PAUSE
            self._next = 0.0

    def close(self) -> None:
        """Note that an answer is complete."""
        self._due = False

    def allow(self, comment: bytes) -> None:
        """Note that the answer is a stream, between whose events this may be sent."""
        self._comment = comment

    def sign(self, now: float) -> bytes:
        """Return what to send now, or nothing if it isn't time, or if there is nothing that could be sent."""
        if not self._due or now < self._next:
            return b""
        self._next = now + self._pause
        self._pause *= _LONGER
        if self._begun:
            return self._comment
        said, self._unsaid = self._unsaid[:1], self._unsaid[1:]
        return said

    def rest(self, data: bytes) -> bytes:
        """Return what remains of the next bytes of an answer: all, but for what was sent as signs."""
        if not self._due or self._begun:
            return data
        self._begun = True
        return data[len(_BEGINNING) - len(self._unsaid):]
