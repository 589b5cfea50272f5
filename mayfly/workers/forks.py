"""Forked children: each has a channel to its parent, and its end is the channel's end.

The parent is single-threaded, and so is the child: a fork beside threads is how deadlocks are made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from mayfly.compat.process import die_with_parent
from mayfly.errors import FileUnusable, ModelUnavailable
from mayfly.wire import exits

_LONGEST = 1 << 15
# What a message begins with whose error is a FileUnusable.
_UNUSABLE = b"\0"


@dataclass(eq=False)
class Fork:
    """A forked process, as its parent sees it."""

    number: int
    pid: int
    channel: socket.socket
    ready: bool = False
    place: int | None = None  # in the thread budget, while it serves

    def fileno(self) -> int:
        """Return the descriptor that is readable when it says something, or has ended."""
        return self.channel.fileno()

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the next message of the child and the descriptors that came with it; b"" if its channel has ended."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self.channel, _LONGEST, 1)
        except OSError:
            return b"", []
        return message, descriptors

    def reap(self) -> int:
        """Take note of its end and return its exit code. Its channel closes as it dies, so this wait is short."""
        _, status = os.waitpid(self.pid, 0)
        self.channel.close()
        return os.waitstatus_to_exitcode(status)


def start(number: int, live: Callable[[socket.socket], int], let_go: Callable[[], None]) -> Fork:
    """Fork a child.

    Args:
        live: what it does, with its end of the channel (messages arrive whole); returns its exit code.
        let_go: closes in it what only the parent may hold, or a call's caller would not see its process's end.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        mine.close()
        _become(parent, live, theirs, let_go)
    theirs.close()
    return Fork(number, pid, mine)


def see_through(work: Callable[[], None]) -> None:
    """Do something in a child, for a process that never computes.

    If native code ends the child, this process ends in the same way, so that what is reported is what happened.

    Raises:
        ModelUnavailable: the work did.
    """
    def live(channel: socket.socket) -> int:
        try:
            work()
        except ModelUnavailable as exc:
            channel.send((_UNUSABLE if isinstance(exc, FileUnusable) else b"") + str(exc).encode()[:_LONGEST])
        return exits.DONE

    fork = start(0, live, lambda: None)
    said = fork.channel.recv(_LONGEST)
    code = fork.reap()
    if said.startswith(_UNUSABLE):
        raise FileUnusable(said.removeprefix(_UNUSABLE).decode(errors="replace"))
    if said:
        raise ModelUnavailable(said.decode(errors="replace"))
    if code < 0:
        with contextlib.suppress(OSError):  # nobody can handle SIGKILL, nor say that it won't
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        raise ModelUnavailable("its self-test ended with a failure")


def _become(parent: int, live: Callable[[socket.socket], int], channel: socket.socket, let_go: Callable[[], None]
            ) -> NoReturn:
    """Be the child. Never returns into the parent's loop."""
    code = 1
    try:
        die_with_parent(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        let_go()
        code = live(channel)
    except BaseException:
        # The outermost boundary of this process: what is written here is in the failure report.
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
