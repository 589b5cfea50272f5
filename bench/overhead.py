"""What HTTP and the lane add to the bare engine, for one text of 8 words; and where it goes.

    python bench/overhead.py [--seconds 20] [--engine auto|openvino|gpt4all] [--threads 1]

In turn, again and again in one run: the engine in this process; the lane (its socket, called from this process as the
server's loop does); a request for a path that there isn't (the HTTP server, a thread, Flask and the access rules, but
no lane); the whole request, which needs neither thread nor Flask (see mayfly.web.routes); and the same of a prototype
(peers/prototype.py) that does nothing else but Flask, waitress, a Unix socket and orjson. All requests go over kept
connections, by a client that does nothing but send them and read the answers: what Python's own takes (0.5 ms here)
isn't the service's. Bar: the whole takes at most 1.0 ms more than the engine, at the median.

One thread, because the service gives up threads while other programs compute, and the engine in this process is one.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
from contenders import PEERS, Server, free_port  # noqa: E402
from embedded import embed  # noqa: E402
from service import Service  # noqa: E402

from mayfly.engines import choose  # noqa: E402
from mayfly.lanes.client import SocketLane  # noqa: E402
from mayfly.settings import load_settings  # noqa: E402
from mayfly.wire.board import Board  # noqa: E402
from mayfly.wire.calls import EmbedCall  # noqa: E402

TEXT = "the keeper walked down to the old harbour"
ROUND = 20
WHOLE, LEAST = "whole request", "whole request, prototype"


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of the whole measurement")
    arguments.add_argument("--engine", default="auto", choices=["auto", "openvino", "gpt4all"])
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    path = settings.model_path / settings.embed_model
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        service = Service(Path(name), {"MODEL_PATH": settings.model_path, "EMBED_MODEL": settings.embed_model,
                                       "MODEL_NAME": "", "EMBED_ENGINE": chosen.engine, "THREADS": chosen.threads})
        service.wait_ready()
        port = free_port()
        prototype = Server([sys.executable, str(PEERS / "prototype.py"), str(path), str(port), chosen.engine,
                            str(chosen.threads)], "/embed", port, Path(name) / "prototype.log", chosen.threads)
        try:
            engine = choose.load_embeddings(path, chosen.threads, "m", engine=chosen.engine)
            times = measure(service, prototype, lambda: embed(engine, TEXT), chosen.seconds)
            facts = service.lane("embedding")
        finally:
            prototype.stop()
            service.stop()
    bare = results.median(times["engine"])
    rows = [(what, f"{1000 * results.median(values):.2f}", f"{1000 * sorted(values)[len(values) * 95 // 100]:.2f}",
             f"{1000 * (results.median(values) - (0 if 'no lane' in what else bare)):.2f}")
            for what, values in times.items()]
    results.keep(f"HTTP and lane over the bare engine (overhead.py, {facts['engine']})",
                 f"{described}; {facts['engine']} in {facts['precision']}, {chosen.threads} threads, 8 words,",
                 results.table(("", "median ms", "p95 ms", "over the engine, ms"), rows)
                 + "\n\nBar: the whole request 1.0 ms over the engine. It takes "
                 f"{(results.median(times[WHOLE]) - bare) / (results.median(times[LEAST]) - bare):.2f} times what the "
                 "prototype takes over it.")


def measure(service: Service, prototype: Server, compute: Callable[[], object], seconds: float
            ) -> dict[str, list[float]]:
    """Return the times of each step in seconds."""
    board = Board(service.run_folder / "state.json")
    lane = SocketLane("embedding", lambda: board.lane("embedding"), queue_limit=1)
    kept = {url: _connect(url) for url in (service.url, prototype.url)}
    body = json.dumps({"input": TEXT}).encode()

    def ask(url: str, path: str) -> None:
        connection = kept[url]
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1 << 16) or _broken_off()
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
        while len(rest) < length:
            rest += connection.recv(1 << 16) or _broken_off()

    def call_lane() -> None:
        call = lane.begin(EmbedCall("bench", (TEXT,)), time.monotonic() + 60)
        while not call.advance(time.monotonic()):
            assert call.watched is not None
            select.select([call.watched], [], [], 60)
        call.close()

    steps: dict[str, Callable[[], object]] = {
        "engine": compute,
        "engine and lane": call_lane,
        "HTTP, no lane (a path that isn't there)": lambda: ask(service.url, "/nowhere"),
        WHOLE: lambda: ask(service.url, "/embed"),
        LEAST: lambda: ask(prototype.url, "/embed"),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, step in steps.items():
            for _ in range(ROUND):
                began = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - began)
    return times


def _connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _broken_off() -> bytes:
    raise ConnectionError("the answer broke off")


if __name__ == "__main__":
    main()
