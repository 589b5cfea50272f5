"""What the supervised web process tells the watchdog: each request, which model's lane it wants, what belongs into the
log, and that it drains; a JSON line each through its standard output.

The watchdog may be slow or hung, and no request waits for it: a line that doesn't fit into the pipe at once is
dropped and counted, and the next line that fits says how many were. A wish is repeated by whoever waits for it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from typing import Any, TextIO

# A line has to fit into one atomic write to the pipe; a character may take 6 bytes there.
_LONGEST_LINE = 600


class Events:
    """The way to the watchdog: one JSON object a line, each in one write (forks share the pipe)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def on_stdout(cls) -> Events:
        """Put the real stdout aside for events and make descriptor 1 a second stderr."""
        sys.stdout.flush()
        descriptor = os.dup(1)
        os.dup2(2, 1)
        return cls(descriptor)

    def send(self, event: str, **facts: Any) -> None:
        """Tell the watchdog, and when it was: it reads the pipes of several processes in any order.

        Lines stay far under PIPE_BUF, so those of several processes don't mix.
        """
        line = json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n"
        try:
            os.write(self._descriptor, line.encode())
        except BrokenPipeError:
            # The watchdog is gone, and this process with it in a moment.
            return


class EventPipe:
    """The pipe, as the private copy of a descriptor. May be used by several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._dropped = 0
        self._lock = threading.Lock()
        if hasattr(os, "set_blocking"):  # Windows: since Python 3.12
            os.set_blocking(descriptor, False)

    @classmethod
    def instead_of_stdout(cls) -> EventPipe:
        """Take standard output over; whatever else prints there goes to standard error from now on."""
        sys.stdout.flush()
        descriptor = os.dup(1)
        os.dup2(2, 1)
        return cls(descriptor)

    def access(self, line: str) -> None:
        """Send an access line."""
        self._send({"event": "access", "line": line})

    def want(self, model: str) -> None:
        """Ask for the lane of a model, by the model's id."""
        self._send({"event": "want", "model": model, "at": time.monotonic()})

    def log(self, line: str) -> None:
        """Send a line for the log."""
        self._send({"event": "log", "line": line[:_LONGEST_LINE]})

    def draining(self) -> None:
        """Say that this process stops, and answers whoever still comes."""
        self._send({"event": "draining"})

    def _send(self, event: dict[str, object]) -> None:
        with self._lock:
            if self._dropped:
                event["dropped"] = self._dropped
            data = json.dumps(event).encode() + b"\n"
            try:
                # Up to PIPE_BUF (4096) bytes a write is whole or not at all.
                os.write(self._descriptor, data)
                self._dropped = 0
            except OSError:
                self._dropped += 1


class LoggedStream(io.TextIOBase):
    """Standard error as Python writes it: each line goes to the log too. May be used by several threads.

    Args:
        stream: standard error as it was, of which the watchdog keeps the last lines for a report.
    """

    def __init__(self, events: EventPipe, stream: TextIO) -> None:
        self._events = events
        self._stream = stream
        self._begun = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write; a line is logged when it has ended."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._events.log(line)
        return self._stream.write(text)

    def flush(self) -> None:
        """Write what is kept."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the descriptor of standard error."""
        return self._stream.fileno()
