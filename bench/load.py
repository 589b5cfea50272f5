"""HTTP load in closed loops: so many clients, each sending its next call when it has the answer to the last."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Measured:
    """What one cell gave; times in seconds."""

    texts: int = 0
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds if self.seconds else 0.0

    def add(self, other: Measured) -> None:
        """Add what another round of the same gave."""
        self.texts += other.texts
        self.seconds += other.seconds
        self.times += other.times
        self.failed += other.failed

    def at(self, part: float) -> float:
        """Return the time that this part of the calls didn't exceed."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def run(url: str, path: str, calls: Sequence[Sequence[str]], clients: int, seconds: float,
        fields: dict[str, str] | None = None) -> Measured:
    """Send calls for so many seconds, and wait for the last answers at most three times as long.

    Args:
        calls: the texts of each; each client has its own, if their number is a multiple of that of the clients.
        fields: what a body has beside the texts.
    """
    host, port = url.removeprefix("http://").split(":")
    bodies = [json.dumps({"input": list(call), "model": "m", **(fields or {})}).encode() for call in calls]
    found = Measured()
    lock = threading.Lock()
    begin = threading.Barrier(clients + 1)
    ends = [0.0]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=max(10.0, 3 * seconds))
        begin.wait()
        at = number
        while time.perf_counter() < ends[0]:
            began = time.perf_counter()
            try:
                connection.request("POST", path, bodies[at % len(bodies)], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                good = False
            now = time.perf_counter()
            with lock:
                if good:
                    found.texts += len(calls[at % len(calls)])
                    found.times.append(now - began)
                    found.seconds = now - started
                else:
                    found.failed += 1
            at += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    ends[0] = started + seconds
    begin.wait()
    for thread in threads:
        thread.join()
    return found


def ask(url: str, path: str, texts: Sequence[str], fields: dict[str, str] | None = None) -> list[list[float]]:
    """Return the vectors of some texts."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    body = json.dumps({"input": list(texts), "model": "m", **(fields or {})})
    connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {said[:300]!r}")
    return [entry["embedding"] for entry in sorted(json.loads(said)["data"], key=lambda entry: entry["index"])]


def memory_mb(pids: Sequence[int]) -> float:
    """Return what processes hold in memory: what is private to each, and the most that one of them shares with others,
    as forks share a model; 0 where /proc doesn't tell."""
    private, shared = 0, 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        sizes = [(line.split("_")[0], int(line.split()[1])) for line in text.splitlines()
                 if line.startswith(("Private_Clean", "Private_Dirty", "Shared_Clean", "Shared_Dirty"))]
        private += sum(size for kind, size in sizes if kind == "Private")
        shared = max(shared, sum(size for kind, size in sizes if kind == "Shared"))
    return (private + shared) / 1024


class Peak:
    """Looks at the memory of processes a few times a second, while a `with` lasts.

    Args:
        pids: tells which.
    """

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self.most = 0.0

    def _look(self) -> None:
        while True:
            self.most = max(self.most, memory_mb(self._pids()))
            if self._over.wait(0.5):
                return

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
