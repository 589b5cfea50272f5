"""Processes: their parents, signals and starts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded only where a process is started
    import subprocess

LINUX = sys.platform.startswith("linux")
WINDOWS = os.name == "nt"



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


def reap_orphans(own: Collection[int]) -> None:
    """Wait for exited processes that this one has inherited. The first process of a container inherits all whose parent
    has died, and nobody else would.

    Args:
        own: pids of those that are waited for elsewhere. One of them that has exited may hide orphans until then.
    """
    if LINUX:
        with contextlib.suppress(ChildProcessError):  # there are no children at all
            while (exited := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and exited.si_pid not in own:
                os.waitpid(exited.si_pid, 0)


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


def contain_native_code() -> None:
    """Have a failure of native code end this process and do nothing else.

    A failed assertion of gpt4all starts gdb where there is one: seconds of delay, and so many lines with the stack's
    contents that the assertion's own is lost. So no other program is found from here.
    """
    if not WINDOWS:
        os.environ["PATH"] = os.devnull


def take_stdout() -> int:
    """Take standard output over, and return its descriptor; whatever else prints there, as native code does, goes to
    standard error from now on."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


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



def open_standard_streams() -> None:
    """Open what is closed of descriptors 0 to 2, on nothing (`>&-` closes them): the next socket would get the number,
    and a child that it is handed to has a pipe of that number. What the terminal's encoding hasn't is written out."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def print_out(text: str = "", end: str = "\n") -> None:
    """Print on standard output at once. Where that can't be written this process ends: in one line, or without a word
    if who read it has left (`| head`)."""
    try:
        print(text, end=end, flush=True)
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer goes there at the end
        left = exc.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL: the same on Windows
        sys.exit(141 if left else f"mayfly: standard output can't be written: {exc.strerror}")


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


def wake_on_signal(handler: Callable[[], None]) -> None:
    """Call `handler` when the user or the system asks this process to stop (Ctrl-C, SIGTERM, a closed terminal).

    It may only queue: the loop acts.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda _number, _frame: handler())
