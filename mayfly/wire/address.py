"""Where the processes of a lane are called."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from mayfly.compat.process import WINDOWS
from mayfly.compat.sockets import BACKLOG, bind_public

# The kernel's limit on a Unix socket's path is 108 bytes with its final NUL on Linux, 104 on macOS.
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True)
class LaneAddress:
    """Where a lane's socket is: a Unix path, or a port with a token.

    Attributes:
        token: what a caller shows first; "" for a Unix socket, whose file's mode says who may call.
    """

    path: str = ""
    port: int = 0
    token: str = ""

    @classmethod
    def bind(cls, path: Path) -> tuple[socket.socket, LaneAddress]:
        """Bind a lane's listening socket; return it and its address."""
        if not hasattr(socket, "AF_UNIX") or WINDOWS:
            sock = bind_public("127.0.0.1", 0)
            return sock, cls(port=sock.getsockname()[1], token=secrets.token_hex(32))
        name = _short_path(str(path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The folder is 0700 already; the mode closes the socket to others even if somebody opens the folder.
        before = os.umask(0o177)
        try:
            sock.bind(name)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        return sock, cls(str(path))

    def connect(self, timeout: float) -> socket.socket:
        """Connect to the lane; where it is a TCP port, show its token first.

        Raises:
            OSError: the lane isn't there.
        """
        if self.port:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(self.token.encode())
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(_short_path(self.path))
        except OSError:
            sock.close()
            raise
        return sock


@functools.lru_cache
def _short_path(path: str) -> str:
    """Return a name for a socket's path that fits the kernel's limit.

    Raises:
        OSError: neither the absolute nor the relative path is short enough.
    """
    name = path
    if len(os.fsencode(name)) > _LONGEST_SOCKET_PATH:
        with contextlib.suppress(ValueError):
            name = os.path.relpath(path)
    if len(os.fsencode(name)) > _LONGEST_SOCKET_PATH:
        raise OSError(errno.ENAMETOOLONG, f"the path is longer than {_LONGEST_SOCKET_PATH} bytes, the limit for a "
                      "socket", path)
    return name
