"""Sockets: to listen on, and to be looked at."""

from __future__ import annotations

import socket
from typing import IO

from mayfly.compat.process import WINDOWS

#: Connections that may wait in the kernel; far above QUEUE_LIMIT, so that connecting to a lane never blocks.
BACKLOG = 4096



def bind_public(host: str, port: int) -> socket.socket:
    """Bind and listen on a TCP address that nobody else listens on.

    Raises:
        OSError: the address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if WINDOWS:
            # There SO_REUSEADDR would let two programs share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Resolved first, because a link-local address has its interface behind a %.
        sock.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4])
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def readable(sock: socket.socket, timeout: float = 0.0) -> bool:
    """Wait at most so long (s) until bytes, or the peer's end, can be read from a socket; tell whether they can."""
    import select

    if hasattr(select, "poll"):  # no limit on descriptor numbers
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    return bool(select.select([sock], [], [], timeout)[0])


def writable(sock: socket.socket, timeout: float = 0.0) -> bool:
    """Wait at most so long (s) until a socket takes bytes, or its peer has ended; tell whether it does."""
    import select

    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        return bool(poll.poll(timeout * 1000))
    return bool(select.select([], [sock], [], timeout)[1])


def hung_up(sock: socket.socket) -> bool:
    """Tell, without reading, whether the peer of a socket has closed it (bytes may still wait)."""
    import select

    if hasattr(select, "poll"):
        flags = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
        poll = select.poll()
        poll.register(sock, flags)
        return any(event & flags for _, event in poll.poll(0))
    try:
        return bool(select.select([sock], [], [], 0)[0]) and sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def broken_off(sock: socket.socket) -> bool:
    """Tell, without reading, whether nothing can be sent to the peer of a socket any more: it has sent a reset.

    Where there is no poll() the next writing tells.
    """
    import select

    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def unread_bytes(pipe: IO[bytes] | socket.socket) -> int:
    """Return how many bytes wait in a pipe or socket; 0 if it is closed, or where the system doesn't tell."""
    if WINDOWS:
        return 0
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    try:
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    except (OSError, ValueError):
        return 0
    return count[0]


def inherited_socket(fileno: int) -> socket.socket:
    """Take over a socket that `spawn` passed on."""
    sock = socket.socket(fileno=fileno)
    sock.set_inheritable(False)
    return sock
