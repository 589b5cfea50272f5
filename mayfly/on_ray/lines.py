"""A front's connections to the replicas of a lane: which one a call goes to, and those that are kept for the next."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from mayfly.on_ray.affinity import ranked
from mayfly.on_ray.door import hello, watch
from mayfly.wire.calls import MOST_CALLS_HELD

# When a connection breaks off others are asked first, for so long (s): Ray needs a while to see a death.
_SUSPECTED = 2.0


@dataclasses.dataclass(eq=False)
class Known:
    """A replica, as this front knows it: `told` by its door, under Serve's `name`.

    Attributes:
        calls: those that this front has there.
        kept: connections that rest.
        suspected: until when others are asked first.
    """

    name: str
    host: str
    port: int
    token: str
    number: int
    calls: int = 0
    kept: list[Line] = dataclasses.field(default_factory=list)
    suspected: float = 0.0


class Line(socket.socket):
    """A connection to a replica, which says hello by itself; it may not be there yet.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, lines: Lines, known: Known, *, in_pieces: bool) -> None:
        super().__init__(socket.AF_INET6 if ":" in known.host else socket.AF_INET, socket.SOCK_STREAM)
        self.known = known
        self._lines = lines
        self._hello = hello(known.token, in_pieces=in_pieces)
        self._broken = False
        self.setblocking(False)
        watch(self)
        with contextlib.suppress(BlockingIOError):
            self.connect((known.host, known.port))

    def send(self, data: Any, flags: int = 0) -> int:
        """See socket."""
        with self._noting():
            while self._hello:
                self._hello = self._hello[super().send(self._hello):]
            return super().send(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """See socket."""
        with self._noting():
            part = super().recv(size, flags)
        self._broken = self._broken or not part
        return part

    def close(self) -> None:
        """See socket."""
        if self.fileno() >= 0:
            super().close()
            self._lines.ended(self.known, broken=self._broken)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise
        except OSError:
            self._broken = True
            raise


class Lines:
    """See the module. Its methods may be called by any thread.

    Args:
        at_once: calls that a replica serves at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._known: list[Known] = []
        self._turn = itertools.count()

    def names(self) -> set[str]:
        """Return which replicas are known."""
        return {known.name for known in self._known}

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Return where the known replicas are, by their names."""
        return {known.name: (known.host, known.port) for known in self._known}

    def change(self, new: Iterable[Known], gone: set[str]) -> None:
        """Take in what has changed."""
        with self._lock:
            left = [known for known in self._known if known.name in gone]
            self._known = [*(known for known in self._known if known.name not in gone), *new]
            resting = _emptied(left)
        for line in resting:
            line.close()

    def connect(self, key: str, *, in_pieces: bool) -> Line | None:
        """Return a new connection for a call; None if there is nobody to ask.

        Args:
            key: calls with the same one go to the same replica, as long as it has room; "" for any.
        """
        with self._lock:
            known = self._best(key)
            if known is None:
                return None
            known.calls += 1
        try:
            return Line(self, known, in_pieces=in_pieces)
        except OSError:
            self.ended(known, broken=True)
            return None

    def take(self) -> tuple[Line, int] | None:
        """Return a connection that rests, if whom a call goes to has one, and the replica's number."""
        with self._lock:
            known = self._best("")
            if known is None or not known.kept:
                return None
            known.calls += 1
            return known.kept.pop(), known.number

    def keep(self, line: Line) -> None:
        """Have a connection rest whose call is answered."""
        with self._lock:
            if line.known in self._known and len(line.known.kept) < MOST_CALLS_HELD:
                line.known.calls -= 1
                line.known.kept.append(line)
                return
        line.close()

    def forget(self, number: int) -> None:
        """Close the connections that rest at a replica."""
        with self._lock:
            resting = _emptied(known for known in self._known if known.number == number)
        for line in resting:
            line.close()

    def leaves(self, line: Line) -> bool:
        """Tell whether a call that hasn't begun had better be asked of another replica."""
        with self._lock:
            return line.known not in self._known or (
                line.known.calls > self._at_once
                and any(known.calls < self._at_once and known.suspected < time.monotonic() for known in self._known))

    def ended(self, known: Known, *, broken: bool) -> None:
        """Take note of the end of a call's connection, which the replica may have broken off."""
        with self._lock:
            known.calls -= 1
            if broken:
                known.suspected = time.monotonic() + _SUSPECTED

    def _best(self, key: str) -> Known | None:
        now = time.monotonic()
        asked = [known for known in self._known if known.suspected < now] or self._known
        if not asked:
            return None
        if key:
            asked = ranked(key, asked, lambda known: known.name)
            for known in asked:
                if known.calls < self._at_once:
                    return known
        else:
            first = next(self._turn) % len(asked)
            asked = asked[first:] + asked[:first]
        return min(asked, key=lambda known: known.calls)


def _emptied(left: Iterable[Known]) -> list[Line]:
    """Return the connections that rested at replicas, to be closed as if a call had them."""
    found = []
    for known in left:
        found += known.kept
        known.calls += len(known.kept)
        known.kept.clear()
    return found
