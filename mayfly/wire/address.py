"""Where the processes of a lane are called."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from mayfly.compat.process import WINDOWS
from mayfly.compat.sockets import BACKLOG, bind_public

# The kernel's limit on a Unix socket's path is 108 bytes with its final NUL on Linux, 104 on macOS.
_LONGEST_SOCKET_PATH = 100


class LaneAddress:
    """Where a lane's socket is, in a form that travels as JSON: a Unix path, or a port with a token."""

    @staticmethod
    def bind(path: Path) -> tuple[socket.socket, dict[str, Any]]:
        """Bind a lane's listening socket.

        Returns:
            The socket, and the address that `connect` takes.
        """
        if not hasattr(socket, "AF_UNIX") or WINDOWS:
            sock = bind_public("127.0.0.1", 0)
            return sock, {"port": sock.getsockname()[1], "token": secrets.token_hex(32)}
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
        return sock, {"path": str(path)}

    @staticmethod
    def connect(address: dict[str, Any], timeout: float) -> socket.socket:
        """Connect to a lane; where the lane is a TCP port, show its token first.

        Raises:
            OSError: the lane isn't there.
        """
        if "port" in address:
            sock = socket.create_connection(("127.0.0.1", address["port"]), timeout=timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(LaneAddress.token(address))
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(_short_path(address["path"]))
        except OSError:
            sock.close()
            raise
        return sock

    @staticmethod
    def token(address: dict[str, Any]) -> bytes:
        """Return what a caller of the lane shows first; b"" for Unix sockets, whose file's mode says who may call."""
        return str(address.get("token", "")).encode()


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
