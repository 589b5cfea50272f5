"""Forked children: each has a channel to its parent, and its end is the channel's end.

The parent is single-threaded, and so is the child: a fork beside threads is how deadlocks are made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from mayfly.compat.pages import Span, written_by
from mayfly.compat.process import die_with_parent
from mayfly.errors import FileUnusable, ModelUnavailable
from mayfly.wire import exits

_LONGEST = 1 << 15
# What a child's message begins with in `see_through`: that it is done, or a model's error.
_DONE, _UNUSABLE, _UNAVAILABLE = b"d", b"u", b"m"
_SPAN = struct.Struct("<QQ")


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


def see_through(work: Callable[[], None]) -> list[Span]:
    """Do something in a child, for a process that never computes.

    If native code ends the child, this process ends in the same way, so that what is reported is what happened.

    Returns:
        What the child has written meanwhile of the memory that it had of this process, the largest parts first; see
        `written_by`.

    Raises:
        ModelUnavailable: the work did.
    """
    def live(channel: socket.socket) -> int:
        try:
            written = sorted(written_by(work), key=lambda span: span[1], reverse=True)
        except ModelUnavailable as exc:
            kind = _UNUSABLE if isinstance(exc, FileUnusable) else _UNAVAILABLE
            channel.send((kind + str(exc).encode())[:_LONGEST])
        else:
            channel.send((_DONE + b"".join(_SPAN.pack(*span) for span in written))[:_LONGEST])
        return exits.DONE

    fork = start(0, live, lambda: None)
    said = fork.channel.recv(_LONGEST)
    code = fork.reap()
    kind, told = said[:1], said[1:]
    if kind in (_UNUSABLE, _UNAVAILABLE):
        raise (FileUnusable if kind == _UNUSABLE else ModelUnavailable)(told.decode(errors="replace"))
    if code < 0:
        with contextlib.suppress(OSError):  # nobody can handle SIGKILL, nor say that it won't
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        raise ModelUnavailable("its self-test ended with a failure")
    return list(_SPAN.iter_unpack(told[:len(told) // _SPAN.size * _SPAN.size]))


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
