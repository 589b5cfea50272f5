"""The prefix store: states of windows, kept by a process that outlives the calls (`mayfly.engines.prefixes`).

The template keeps it for its generations, which ask over their channels; it looks at no state and at no prompt, only at
digests. A process that serves all calls keeps it for itself.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mayfly.compat.memory import CAN_SEAL, sealed_size
from mayfly.compat.sockets import readable
from mayfly.engines.prefixes import DIGEST_SIZE, Found, Prefixes
from mayfly.wire.events import Remembered

#: How messages begin by which a generation asks for a state, and hands one back.
ASK, KEEP = b"?", b"k"

# Each takes a descriptor.
_MOST_STATES = 256
_MOST_SEEN = 4096
# Digests of a question: the longest beginnings of a prompt.
_MOST_ASKED = 1000
#: A message of a generation is no longer than this.
LONGEST = 1 + _MOST_ASKED * DIGEST_SIZE
# How long a generation waits for an answer (s); it evaluates the prompt then.
_PATIENCE = 1.0

_FOUND = struct.Struct("<HH")
_TOKENS = struct.Struct("<I")

#: Returns what a call of a namespace may use.
Lend = Callable[[str], Prefixes]


@dataclass(frozen=True)
class _State:
    descriptor: int
    size: int
    tokens: int


class PrefixStore:
    """See the module. The state that was used least recently leaves for the next.

    Args:
        limit: bytes of all states together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[bytes, _State] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._told = Remembered()
        self._bytes = self._hits = self._misses = self._saved = 0

    @classmethod
    def of(cls, limit: int) -> PrefixStore | None:
        """Return a store; None if the limit is 0, or this system can't make memory that nobody changes any more."""
        return cls(limit) if limit and CAN_SEAL else None

    def news(self) -> list[Remembered]:
        """Return what people may want to know of it, if that has changed since it was told last."""
        told, self._told = self._told, Remembered(self._hits, self._misses, self._saved, len(self._states), self._bytes)
        return [self._told] if self._told != told else []

    def find(self, digests: Sequence[bytes]) -> Found:
        """Return the longest state and the longest beginning of a prompt that was asked for before."""
        held = self._longest(digests, self._states)
        seen = self._longest(digests, self._seen)
        for digest in digests:
            self._seen[digest] = None
            self._seen.move_to_end(digest)
        while len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        if not held:
            self._misses += 1
            return Found(0, seen)
        state = self._states[digests[held - 1]]
        self._states.move_to_end(digests[held - 1])
        self._hits += 1
        self._saved += state.tokens
        return Found(held, seen, state.descriptor)

    def keep(self, digest: bytes, tokens: int, descriptor: int) -> None:
        """Take a state, if it is whole and there is room; its descriptor is the store's from now on."""
        size = sealed_size(descriptor)
        if not size or size > self._limit or digest in self._states:
            os.close(descriptor)
            return
        self._states[digest] = _State(descriptor, size, tokens)
        self._bytes += size
        while self._bytes > self._limit or len(self._states) > _MOST_STATES:
            _, left = self._states.popitem(last=False)
            self._bytes -= left.size
            os.close(left.descriptor)

    def hear(self, channel: socket.socket, said: bytes, descriptors: Sequence[int]) -> None:
        """Do what a generation says with ASK or KEEP.

        Raises:
            OSError: it has died.
        """
        kind, body = said[:1], said[1:]
        if kind == ASK:
            digests = [body[at:at + DIGEST_SIZE] for at in range(0, len(body), DIGEST_SIZE)]
            found = self.find(digests)
            given = [] if found.state is None else [found.state]
            socket.send_fds(channel, [_FOUND.pack(found.held, found.seen)], given)
        elif descriptors:
            (tokens,) = _TOKENS.unpack(body[DIGEST_SIZE:])
            self.keep(body[:DIGEST_SIZE], tokens, descriptors[0])

    def lend(self, namespace: str) -> Prefixes:
        """Return what a call in this process may use."""
        return Prefixes(namespace, self._limit, self.find, self.keep)

    def close(self) -> None:
        """Let go of all states, in a fork that has nothing to do with them."""
        for state in self._states.values():
            os.close(state.descriptor)
        self._states.clear()

    @staticmethod
    def _longest(digests: Sequence[bytes], among: Collection[bytes]) -> int:
        return next((count for count in range(len(digests), 0, -1) if digests[count - 1] in among), 0)


def lent(channel: socket.socket, most: int, namespace: str) -> Prefixes:
    """Return what a generation's call may use of its parent's store.

    Args:
        channel: to the parent.
        most: PREFIX_MEMORY, in bytes.
    """
    return Prefixes(namespace, most, functools.partial(_ask, channel), functools.partial(_hand_over, channel))


def _ask(channel: socket.socket, digests: Sequence[bytes]) -> Found:
    left_out = max(0, len(digests) - _MOST_ASKED)
    channel.send(ASK + b"".join(digests[left_out:]))
    if not readable(channel, _PATIENCE):
        return Found()
    message, descriptors, _, _ = socket.recv_fds(channel, _FOUND.size, 1)
    held, seen = _FOUND.unpack(message)
    return Found(held and held + left_out, seen and seen + left_out, descriptors[0] if descriptors else None)


def _hand_over(channel: socket.socket, digest: bytes, tokens: int, descriptor: int) -> None:
    socket.send_fds(channel, [KEEP + digest + _TOKENS.pack(tokens)], [descriptor])
    os.close(descriptor)
