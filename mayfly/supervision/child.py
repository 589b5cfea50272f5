"""One process that the watchdog started, or a template: its OS side, and nothing of what is thought about it.

Two threads read its stdout (events, a JSON object a line) and stderr (for reports), so that a process that writes
much can't block, and a watchdog on any operating system can wait on one queue.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from mayfly.compat.process import WINDOWS, ProcessHandle, abort_signal, kill_signal, spawn
from mayfly.compat.sockets import unread_bytes
from mayfly.wire.codec import from_wire, plain
from mayfly.wire.events import Told
from mayfly.wire.spec import Spec, WebSpec

# With gdb installed, an abort of gpt4all puts some fifty lines of backtrace behind its assertion.
_TAIL_LINES = 150
_LONGEST_LINE = 2000
# Of the environment, what no child needs that it isn't told itself; and what the web process alone needs, which starts
# the one that asks Ray.
_SECRET, _OF_WEB = ("API_KEYS", "HF_TOKEN"), ("RAY_AUTH_TOKEN",)
_TAIL_PATIENCE = 0.25
_MOMENT = 0.005


class Handle:
    """A hold on a process, as the supervisor needs it. This is how it is of one that somebody else waits for."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it), or None while it runs or nobody knows."""
        return None

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def abort(self) -> None:
        """Make it write its stacks and die."""
        self._signal(kill_signal() if WINDOWS else abort_signal())

    def kill(self) -> None:
        """End it at once."""
        self._signal(kill_signal())

    def send(self, line: str) -> None:
        """Write a line to its stdin, if it is this process's to write to."""

    def tail(self) -> list[str]:
        """Return the last lines of its stderr."""
        return []

    def close(self) -> None:
        """Let go of it, once it has exited."""

    def _signal(self, number: int) -> None:
        """Send a signal; a process that is gone already is no error."""


class Fork(Handle):
    """A generation: a template's child, which reaps it and reports its end, and whose stderr it shares."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = ProcessHandle(pid)

    def close(self) -> None:
        """See Handle."""
        self._handle.close()

    def _signal(self, number: int) -> None:
        self._handle.signal(number)


class Child(Handle):
    """A child process.

    Args:
        argv: the command.
        cwd: where it runs.
        spec: what it is told on its first line of stdin.
        sockets: listening sockets that it inherits.
        descriptors: what else it inherits.
        on_event: called from a thread with each event.
        on_line: called from a thread with each line of its stderr.
        gather: after events were read, so long (s) those that follow wait in the pipe, to be read together.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path, spec: Spec | WebSpec, sockets: Sequence[socket.socket],
                 on_event: Callable[[Told], None], on_line: Callable[[str], None],
                 descriptors: Sequence[int] = (), gather: float = 0.0) -> None:
        self._process = spawn(argv, cwd=cwd, environ=_environment(spec), sockets=sockets, descriptors=descriptors)
        self.pid = self._process.pid
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._on_event = on_event
        self._on_line = on_line
        assert self._process.stdout is not None and self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._event, gather), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self._line), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.send(json.dumps(spec, default=plain))

    def poll(self) -> int | None:
        """See Handle."""
        code = self._process.poll()
        if code is not None:
            # What it wrote last belongs to its report. A process that outlives it could hold the pipe open.
            for thread in self._threads:
                thread.join(timeout=0.5)
        return code

    def send(self, line: str) -> None:
        """See Handle. A process that died meanwhile is noticed elsewhere."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def tail(self) -> list[str]:
        """See Handle. A fork of it may have died this moment: what is still in the pipe is read first."""
        assert self._process.stderr is not None
        patience = time.monotonic() + _TAIL_PATIENCE
        while True:
            unread = unread_bytes(self._process.stderr)
            # The thread that reads may also hold a line that it hasn't added yet.
            time.sleep(_MOMENT)
            if not unread or time.monotonic() >= patience:
                return list(self._tail)

    def close(self) -> None:
        """See Handle."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._process.send_signal(number)

    def _read(self, stream: IO[bytes], take: Callable[[bytes], None], gather: float = 0.0) -> None:
        rest = b""
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(stream.fileno(), 65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    take(line)
                if len(rest) > 1 << 20:  # native code may write without ever ending a line
                    take(rest)
                    rest = b""
                if gather:
                    time.sleep(gather)
        if rest:
            take(rest)

    def _event(self, line: bytes) -> None:
        try:
            told = from_wire(json.loads(line), Told)
        except (ValueError, RecursionError):
            self._line(line)
        else:
            self._on_event(told)

    def _line(self, line: bytes) -> None:
        text = printable(line[:_LONGEST_LINE].decode(errors="replace"))
        self._tail.append(text)
        self._on_line(text)


def _environment(spec: Spec | WebSpec) -> dict[str, str]:
    """Return the environment for a child: without keys, which travel in its spec alone."""
    secret = _SECRET if isinstance(spec, WebSpec) else _SECRET + _OF_WEB
    environ = {name: value for name, value in os.environ.items() if name not in secret}
    environ["PYTHONUNBUFFERED"] = "1"
    environ["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    # Large blocks of memory, such as weights, come in pages of 2 MB then (glibc 2.35 and later, where the kernel gives
    # them to who asks): a processor looks up fewer addresses, and a fork copies a smaller table of them. bench/pages.py
    # measures it.
    environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return environ


def printable(text: str) -> str:
    """Escape what could forge a log line or drive a terminal: control characters, escape codes, line breaks."""
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode("ascii")
        for char in text.rstrip("\r\n"))
