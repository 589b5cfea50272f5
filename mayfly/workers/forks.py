"""Forked children: each has a channel to its parent, and its end is the channel's end.

The parent is single-threaded, and so is the child: a fork beside threads is how deadlocks are made.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from mayfly.compat.process import die_with_parent


@dataclass(eq=False)
class Fork:
    """A forked process, as its parent sees it."""

    number: int
    pid: int
    channel: socket.socket
    ready: bool = False
    place: int | None = None  # in the thread budget, while it serves

    def hear(self) -> bytes:
        """Return the next message of the child, or b"" if its channel has ended."""
        try:
            return self.channel.recv(64)
        except OSError:
            return b""


class Forks:
    """The living children of this process.

    Args:
        let_go: closes in a child what only the parent may hold, or a call's caller would not see its process's end.
    """

    def __init__(self, let_go: Callable[[], None]) -> None:
        self._let_go = let_go
        self._forks: dict[int, Fork] = {}  # by the channel's descriptor

    def __len__(self) -> int:
        return len(self._forks)

    def __iter__(self) -> Iterator[Fork]:
        return iter(self._forks.values())

    def descriptors(self) -> list[int]:
        """Return what to wait on."""
        return list(self._forks)

    def of(self, descriptor: int) -> Fork | None:
        """Return the child with this channel."""
        return self._forks.get(descriptor)

    def start(self, number: int, live: Callable[[socket.socket], int]) -> Fork:
        """Fork a child.

        Args:
            live: what it does, with its end of the channel (messages arrive whole); returns its exit code.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._become(parent, live, theirs)
        theirs.close()
        fork = Fork(number, pid, mine)
        self._forks[mine.fileno()] = fork
        return fork

    def reap(self, fork: Fork) -> int:
        """Take note of a child's end and return its exit code. Its channel closes as it dies, so this wait is short."""
        _, status = os.waitpid(fork.pid, 0)
        del self._forks[fork.channel.fileno()]
        fork.channel.close()
        return os.waitstatus_to_exitcode(status)

    def _become(self, parent: int, live: Callable[[socket.socket], int], channel: socket.socket) -> NoReturn:
        """Be the child. Never returns into the parent's loop."""
        code = 1
        try:
            die_with_parent(parent)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for other in self._forks.values():
                other.channel.close()
            self._let_go()
            code = live(channel)
        except BaseException:
            # The outermost boundary of this process: what is written here is in the failure report.
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
