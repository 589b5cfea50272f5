"""The public address: what LISTEN_IP means, the sockets for it, their end, and the addresses by which it is called.

A program that is told `localhost` takes 127.0.0.1 or ::1, as its language and its machine like it, and some try only
one of them. So whoever may call by one loopback address may call by the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from mayfly.compat.process import LINUX, WINDOWS
from mayfly.compat.sockets import bind_public
from mayfly.errors import AddressTaken

# What is listened on together; of these, what a machine hasn't is left out (IPv6, or IPv4).
_TOGETHER = {"127.0.0.1": ("127.0.0.1", "::1"), "0.0.0.0": ("0.0.0.0", "::1"), "::": ("::", "0.0.0.0")}
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, socket.EAI_NONAME)
# For LISTEN_PORT=0: how many ports that are free on one address are tried on the next.
_TRIES = 50


def listen(ip: str, port: int, compat_port: int = 0) -> list[socket.socket]:
    """Bind and listen on every address that a LISTEN_IP means.

    Args:
        port: 0 is any port that is free on all of them.
        compat_port: that of OLLAMA_COMPAT_PORT, where the same is answered; 0 is none.

    Raises:
        AddressTaken: one of them is taken by another program, or none is this machine's.
    """
    addresses = _TOGETHER.get(ip, (ip,))
    with contextlib.ExitStack() as undo:
        sockets = list(map(undo.enter_context, _bind_any(addresses) if port == 0 else _bind(addresses, port)))
        if compat_port:
            sockets += _bind(addresses, compat_port, "OLLAMA_COMPAT_PORT")
        undo.pop_all()
        return sockets


def _bind_any(addresses: Sequence[str]) -> list[socket.socket]:
    for _ in range(_TRIES - 1):
        with contextlib.suppress(AddressTaken):
            return _bind(addresses, 0)
    return _bind(addresses, 0)


def _bind(addresses: Sequence[str], port: int, setting: str = "LISTEN_PORT") -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for address in addresses:
            try:
                sock = undo.enter_context(bind_public(address, port))
            except OSError as exc:
                if exc.errno not in _ABSENT:
                    raise AddressTaken(
                        f"{address} port {port} can't be used ({exc.strerror or exc}): stop the program that listens "
                        f"there, or set {setting} in .env to another port") from exc
                continue
            sockets.append(sock)
            port = port or sock.getsockname()[1]
        if not sockets:
            raise AddressTaken(f"{addresses[0]} isn't an address of this machine: set LISTEN_IP in .env to one that is")
        undo.pop_all()
        return sockets


def accept_no_newcomers(sock: socket.socket) -> None:
    """Have the system leave new callers of a listening TCP socket unanswered, so that those who wait can be accepted
    to the last one before it is closed: closing resets whoever still waits.

    The caller's system tries again a second later, and is refused then. Linux only: a socket filter that drops what
    opens a connection (SYN) before it is looked at. It holds for all processes that have the socket.
    """
    if not LINUX:
        return
    so_attach_filter = 26
    # In the classic BPF of linux/filter.h: load the byte with the flags of the TCP header; if SYN isn't set, skip one;
    # drop all of it; or take all of it.
    program = b"".join(struct.pack("HBBI", *step) for step in (
        (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)))
    steps = ctypes.create_string_buffer(program)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, struct.pack("HP", len(program) // 8,
                                                                         ctypes.addressof(steps)))


def accept_newcomers(sock: socket.socket) -> None:
    """Undo `accept_no_newcomers`: a process that was told to stop by itself has left the filter to the next one."""
    if LINUX:
        so_detach_filter = 27
        with contextlib.suppress(OSError):  # there is none
            sock.setsockopt(socket.SOL_SOCKET, so_detach_filter, 0)


def urls(sockets: Iterable[socket.socket]) -> tuple[list[str], list[str]]:
    """Return the URLs by which this machine's programs can call without a key, and those for everybody else."""
    own: list[str] = []
    others: list[str] = []
    for sock in sockets:
        # With the name of its interface, if it is a link-local one.
        address, port = socket.getnameinfo(sock.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        ip = ipaddress.ip_address(address)
        if ip.is_unspecified:
            loopback = "127.0.0.1" if ip.version == 4 else "::1"
            with contextlib.suppress(OSError):  # where IPv6 is switched off, :: can be bound all the same
                bind_public(loopback, 0).close()
                own.append(_url(loopback, port))
            others.extend(_url(one, port) for one in own_addresses() if (":" in one) == (ip.version == 6))
        else:
            (own if ip.is_loopback else others).append(_url(address, port))
    return list(dict.fromkeys(own)), others


def _url(address: str, port: str) -> str:
    host = f"[{address.replace('%', '%25')}]" if ":" in address else address
    return f"http://{host}:{port}"


def names(ip: str) -> frozenset[str]:
    """Return the addresses, besides the loopback ones, that a call may have in its Host where LISTEN_IP is this one.

    A system lets its own programs connect to 0.0.0.0, which reaches the loopback address.
    """
    return frozenset(("0.0.0.0", "::", *own_addresses()) if ip in ("0.0.0.0", "::") else (ip,))


def own_addresses() -> list[str]:
    """Return the addresses by which other machines can reach this one.

    IPv6's link-local ones are left out: they mean nothing without an interface of the caller's.
    """
    found = []
    for address in sorted(_interface_addresses(), key=lambda one: ":" in one):
        ip = ipaddress.ip_address(address)
        if not (ip.is_loopback or ip.is_unspecified or (ip.version == 6 and ip.is_link_local)):
            found.append(str(ip))
    return list(dict.fromkeys(found))


class _Interface(ctypes.Structure):
    """The beginning of getifaddrs' entries, which is the same on all systems that have it."""


_Interface._fields_ = [("next", ctypes.POINTER(_Interface)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
                       ("address", ctypes.c_void_p)]
_UP = 1


def _interface_addresses() -> Iterator[str]:
    if WINDOWS:
        with contextlib.suppress(OSError):
            yield from {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(socket.gethostname(), None)}
        return
    libc = ctypes.CDLL(None)
    first = ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        return
    try:
        entry = first
        while entry:
            if entry.contents.flags & _UP and entry.contents.address:
                # A sockaddr: its family (on BSD behind a byte with its length), a port, and for IPv6 a flow label.
                head = ctypes.string_at(entry.contents.address, 2)
                family = int.from_bytes(head, "little") if LINUX else head[1]
                if family in (socket.AF_INET, socket.AF_INET6):
                    begin, length = (4, 4) if family == socket.AF_INET else (8, 16)
                    yield socket.inet_ntop(family, ctypes.string_at(entry.contents.address + begin, length))
            entry = entry.contents.next
    finally:
        libc.freeifaddrs(first)
