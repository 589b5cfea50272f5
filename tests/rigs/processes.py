"""Processes as the system shows them (/proc), and hitting exactly the one that is meant."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from service import Service


def runs(pid: int) -> bool:
    """Tell whether a process lives; a zombie doesn't."""
    return state(pid) not in ("", "Z", "X")


def state(pid: int) -> str:
    """Return the kernel's letter for a process (S, R, T, Z, ...), or "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous_memory(pid: int) -> int:
    """Return the bytes of a process's heap and stacks that are in memory: without mapped files, which others share."""
    return _status_size(pid, "RssAnon")


def resident_memory(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    return _status_size(pid, "VmRSS")


def _status_size(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


@dataclass(frozen=True)
class Busy:
    """A process that serves a request now, by what its sentinel says."""

    name: str
    pid: int
    request: str

    @property
    def lane(self) -> str:
        """The lane that it serves."""
        return self.name.partition("-")[0]


def busy(service: Service, name: str | None = None) -> list[Busy]:
    """Return the processes that serve a request now; with a name, that one alone."""
    found = []
    for file in service.sentinels():
        who = file.removesuffix(".watchdog")
        facts = service.sentinel(who)
        # A dead one's sentinel stays until the watchdog has seen it.
        if "request" in facts and name in (None, who) and runs(int(facts["pid"])):
            found.append(Busy(who, int(facts["pid"]), str(facts["request"].get("id"))))
    return found


def kill_while_busy(service: Service, target: Busy) -> bool:
    """Send SIGKILL to a process if it still serves the same request; tell whether it was sent.

    The pidfd is opened before the last look, so a process that took over a dead one's pid can't be hit.
    """
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        if target not in busy(service, target.name) or target.pid not in service.family():
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return True
        return False
    finally:
        os.close(pidfd)
