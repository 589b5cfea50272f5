"""What was evaluated for earlier prompts: states of the engine's window, by digests of how those prompts began.

An engine that can take its state out of a window and put it back asks here for what a prompt begins with, and offers
what it has evaluated itself. A state is put back only where it is what would be evaluated, number for number: a prompt
is evaluated in pieces, whether there are states or not, and a digest is one of all pieces up to its own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DIGEST_SIZE = 16


@dataclass(frozen=True)
class Found:
    """What there is for a prompt.

    Attributes:
        held: how many of its pieces the longest state covers; 0 if there is none.
        seen: how many of its pieces an earlier prompt began with, of the same caller.
        state: the descriptor of the sealed memory that holds it, if there is one.
    """

    held: int = 0
    seen: int = 0
    state: int | None = None


class Prefixes:
    """The states that one call may use, and what it leaves for later ones.

    Args:
        namespace: whose states they are. Nobody else's are found, so nobody can measure what another one has asked.
        most: the size of a state at most, in bytes.
        find: returns what there is, by the digests of a prompt's pieces.
        keep: takes a state: its digest, how many tokens it covers, and its descriptor.
    """

    def __init__(self, namespace: str, most: int, find: Callable[[Sequence[bytes]], Found],
                 keep: Callable[[bytes, int, int], None]) -> None:
        self._namespace = namespace
        self.most = most
        self.find = find
        self._keep = keep
        self._offers: list[tuple[bytes, int, Callable[[], int | None]]] = []

    def digests(self, pieces: Sequence[array[int]]) -> list[bytes]:
        """Return a digest for each piece, of it and all before it."""
        digest = hashlib.blake2b(self._namespace.encode(), digest_size=DIGEST_SIZE)
        found = []
        for piece in pieces:
            digest.update(len(piece).to_bytes(4, "little") + piece.tobytes())
            found.append(digest.digest())
        return found

    def offer(self, digest: bytes, tokens: int, take: Callable[[], int | None]) -> None:
        """Leave a state for later calls, a longer one than before.

        Args:
            take: returns its descriptor, or None if it can't be had. Called when the answer is out, for the longest
                state first.
        """
        self._offers.append((digest, tokens, take))

    def hand_back(self) -> None:
        """Take what was offered."""
        while self._offers:
            digest, tokens, take = self._offers.pop()
            state = take()
            if state is not None:
                self._keep(digest, tokens, state)
