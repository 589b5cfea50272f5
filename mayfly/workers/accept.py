"""Waiting for calls on a lane's listening socket, beating meanwhile."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from mayfly.compat import LaneAddress, hung_up, readable

# How long one wait may take; between two waits there is a beat.
TICK = 0.25


def take_call(listener: socket.socket, address: dict[str, Any]) -> socket.socket | None:
    """Accept the next call that is still wanted, without waiting; None if there is none.

    The listening socket is shared by processes, so another one may have been faster.
    """
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None
        connection.setblocking(True)
        connection.settimeout(5.0)
        try:
            wanted = LaneAddress.check_token(address, connection) and not hung_up(connection)
        except OSError:
            wanted = False
        if wanted:
            return connection
        connection.close()


def call_waits(listener: socket.socket) -> bool:
    """Wait up to one tick for a call; tell whether there is one."""
    return readable(listener, TICK)


def wait_for_call(listener: socket.socket, address: dict[str, Any]) -> socket.socket | None:
    """Wait up to one tick for a call, and take it."""
    return take_call(listener, address) if call_waits(listener) else None


class ModelFile:
    """A model file as it was when it was loaded.

    gpt4all maps the file into memory: if it is overwritten in place, vectors go silently wrong or the process dies
    of SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded = self._look()

    def changed(self) -> bool:
        """Tell whether another file is there now, or the same one written to."""
        return self._look() != self._loaded

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
