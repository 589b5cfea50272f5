"""Every difference between operating systems, in one place.

Linux has everything. macOS has no parent-death signal and no pidfd; Windows has neither, nor Unix sockets that
Python can use, nor fork. There, the same promises are kept by slower means.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded only where a process is started
    import subprocess

LINUX = sys.platform.startswith("linux")
WINDOWS = os.name == "nt"

# The kernel's limit on a Unix socket's path is 108 bytes with its final NUL on Linux, 104 on macOS.
_LONGEST_SOCKET_PATH = 100
# Connections that may wait in the kernel; far above QUEUE_LIMIT, so that connecting to a lane never blocks.
_BACKLOG = 4096


# -- a process and its parent ---------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """End this process when its parent dies, even if the parent was killed.

    Linux: the kernel does it (PR_SET_PDEATHSIG, which a fork clears: call it again in the child). Elsewhere a
    thread looks four times a second; there no process forks, so a thread does no harm.

    Args:
        parent: pid that the caller was told is its parent; if it has died already, this process ends at once.
    """
    if LINUX:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXIT_ORPHANED)
        return

    def look() -> None:
        while process_exists(parent) and (WINDOWS or os.getppid() == parent):
            time.sleep(0.25)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=look, name="parent", daemon=True).start()


EXIT_ORPHANED = 14


def forbid_core_dumps() -> None:
    """Keep what is in this process's memory, keys and prompts, out of files, should it crash; a fork inherits it.

    Linux: the limit stops the files, and the flag the programs that the system may hand a dump to, which don't have to
    keep to the limit. With the flag other programs of the same user can't look into the memory either.
    """
    if WINDOWS:
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if LINUX:
        pr_set_dumpable = 4
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_dumpable, 0, 0, 0, 0)


def process_exists(pid: int) -> bool:
    """Tell whether a process with this pid runs."""
    if WINDOWS:
        kernel32 = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
        synchronize, timed_out = 0x00100000, 0x102
        handle = kernel32.OpenProcess(synchronize, False, pid)
        if not handle:
            return False
        alive: bool = kernel32.WaitForSingleObject(handle, 0) == timed_out
        kernel32.CloseHandle(handle)
        return alive
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class ProcessHandle:
    """A hold on a process that isn't our child. On Linux a pidfd: it can't hit a reused pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._fd = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        """Send a signal; a process that is gone already is no error."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)  # type: ignore[attr-defined,unused-ignore]
            else:
                os.kill(self.pid, number)

    def close(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def abort_signal() -> int:
    """Return the signal that makes a hung process write its stacks (faulthandler) and die."""
    return signal.SIGABRT


def kill_signal() -> int:
    """Return the signal that no process can refuse."""
    return signal.SIGTERM if WINDOWS else signal.SIGKILL


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# -- starting processes that inherit sockets ------------------------------------------------------------------


def open_standard_streams() -> None:
    """Open what is closed of descriptors 0 to 2, on nothing (`>&-` closes them): the next socket would get the number,
    and a child that it is handed to has a pipe of that number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def spawn(argv: Sequence[str], *, cwd: Path, environ: dict[str, str], sockets: Sequence[socket.socket],
          descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own (so that Ctrl-C reaches the watchdog alone), with its three
    standard streams as pipes and the given sockets and descriptors inherited (Windows: the sockets alone)."""
    import subprocess

    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if WINDOWS:
        for sock in sockets:
            sock.set_inheritable(True)
        try:
            flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            return subprocess.Popen(argv, cwd=cwd, env=environ, close_fds=False, creationflags=flags, **streams)
        finally:
            for sock in sockets:
                sock.set_inheritable(False)
    return subprocess.Popen(argv, cwd=cwd, env=environ, pass_fds=[*(sock.fileno() for sock in sockets), *descriptors],
                            start_new_session=True, **streams)


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


# -- the public socket and the lanes' sockets -----------------------------------------------------------------


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
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


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
        sock.listen(_BACKLOG)
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


# -- memory ---------------------------------------------------------------------------------------------------


def memory_size() -> int:
    """Return the memory in bytes that this machine has, or that its container may use."""
    if WINDOWS:
        return _windows_memory_size()
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            size = min(size, int(Path(file).read_text()))
    return size


def shared_memory(size: int) -> tuple[mmap.mmap, int | str]:
    """Make memory, all zeros, that this process's children can have as well.

    It is no file in a folder: nobody can remove it, or cut it short, which would end (SIGBUS) all who have it.

    Args:
        size: in bytes.

    Returns:
        The memory, and what `join_memory` takes in a child: a descriptor that has to be inherited, or a name (Windows).

    Raises:
        OSError: there is no room for it.
    """
    if WINDOWS:
        name = f"mayfly-{secrets.token_hex(16)}"
        return mmap.mmap(-1, size, tagname=name), name  # type: ignore[call-arg,unused-ignore]
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mayfly")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    # Written, because a file that is only made so long takes its room when it is used, and there may be none.
    if os.write(descriptor, bytes(size)) < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return mmap.mmap(descriptor, size), descriptor


def join_memory(handle: int | str, size: int) -> mmap.mmap:
    """Return the memory that a parent has made by `shared_memory`."""
    if isinstance(handle, str):
        return mmap.mmap(-1, size, tagname=handle)  # type: ignore[call-arg,unused-ignore]
    try:
        return mmap.mmap(handle, size)
    finally:
        os.close(handle)


def _windows_memory_size() -> int:
    class Status(ctypes.Structure):
        # MEMORYSTATUSEX of sysinfoapi.h
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32),
                    *((name, ctypes.c_uint64) for name in ("total", "free", "total_page", "free_page", "total_virtual",
                                                           "free_virtual", "free_extended"))]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.total)


# -- files ----------------------------------------------------------------------------------------------------


def open_new(path: Path, mode: int = 0o600) -> int:
    """Create a file that wasn't there, following no symlink; return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, mode)


def lock_file(path: Path) -> IO[str] | None:
    """Take an exclusive lock that ends with this process; None if another process has it.

    The file holds the holder's pid for people to read, if there is room for it.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        lock = os.fdopen(os.open(path, flags, 0o600), "r+", encoding="ascii", errors="replace")
        if not lock_now(lock):
            lock.close()
            return None
        if names_this_file(path, lock):
            break
        lock.close()  # somebody removed it in the very moment: others would lock the next one
    with contextlib.suppress(OSError):
        lock.truncate(0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())
    return lock


def names_this_file(path: Path, file: IO[Any] | int) -> bool:
    """Tell whether a name leads to an open file still."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file if isinstance(file, int) else file.fileno()))
    except OSError:
        return False


def lock_now(file: IO[Any], *, wait: bool = False) -> bool:
    """Take an exclusive lock on an open file, which ends when it is closed; tell whether nobody else has it.

    Args:
        wait: until others have let go of it.
    """
    try:
        if WINDOWS:
            import msvcrt

            # Locks one byte far behind the content, so that others can read that.
            position = file.tell()
            file.seek(1 << 62)
            try:
                # Its waiting mode gives up after 10 s.
                mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined,unused-ignore]
                msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined,unused-ignore]
            finally:
                file.seek(position)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def raise_descriptor_limit(wanted: int) -> None:
    """Raise this process's soft limit of open descriptors as far as the hard limit allows."""
    if WINDOWS:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < ceiling:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))


def wake_on_signal(handler: Callable[[], None]) -> None:
    """Call `handler` when the user or the system asks this process to stop (Ctrl-C, SIGTERM, a closed terminal).

    It may only queue: the loop acts.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda _number, _frame: handler())
