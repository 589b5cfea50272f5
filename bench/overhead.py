"""What HTTP and the lane add to the bare engine, for one text of 8 words; and where it goes.

    python bench/overhead.py [--seconds 6] [--engine auto|openvino|gpt4all]

In turn, again and again in one run: the engine in this process; the lane (its socket, called from this process); a
request for a path that there isn't (the HTTP server, Flask and the access rules, but no lane); the whole request. All
requests go over one kept connection. Bar: the whole takes at most 1.0 ms more than the engine, at the median.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "bench")]

import results  # noqa: E402
from service import Service  # noqa: E402

from mayfly import engines  # noqa: E402
from mayfly.lanes.board import Board  # noqa: E402
from mayfly.lanes.calls import EmbedCall, Watch  # noqa: E402
from mayfly.lanes.client import SocketLane  # noqa: E402
from mayfly.settings import available_cores, load_settings  # noqa: E402

TEXT = "the keeper walked down to the old harbour"
ROUND = 20


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=6.0, help="length of the whole measurement")
    arguments.add_argument("--engine", default="auto", choices=["auto", "openvino", "gpt4all"])
    arguments.add_argument("--threads", type=int, default=available_cores())
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    path = settings.model_path / settings.embed_model
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        service = Service(Path(name), {"MODEL_PATH": settings.model_path, "EMBED_MODEL": settings.embed_model,
                                       "MODEL_NAME": "", "EMBED_ENGINE": chosen.engine, "THREADS": chosen.threads})
        service.wait_ready()
        try:
            engine = engines.load_embeddings(path, chosen.threads, "m", engine=chosen.engine)
            times = measure(service, lambda: engine.embed(TEXT, "mean", lambda: None), chosen.seconds)
            facts = service.lane("embed")
        finally:
            service.stop()
    bare = results.median(times["engine"])
    rows = [(what, f"{1000 * results.median(values):.2f}", f"{1000 * sorted(values)[len(values) * 95 // 100]:.2f}",
             f"{1000 * (results.median(values) - (0 if 'no lane' in what else bare)):.2f}")
            for what, values in times.items()]
    results.keep(f"HTTP and lane over the bare engine (overhead.py, {facts['engine']})",
                 f"{described}; {facts['engine']} in {facts['precision']}, {chosen.threads} threads, 8 words,",
                 results.table(("", "median ms", "p95 ms", "over the engine, ms"), rows)
                 + "\n\nBar: the whole request 1.0 ms over the engine.")


def measure(service: Service, compute: Callable[[], object], seconds: float) -> dict[str, list[float]]:
    """Return the times of each step in seconds."""
    board = Board(service.run_folder / "state.json")
    lane = SocketLane("embed", board.lane("embed")["address"], board, queue_limit=1)
    host, port = service.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    body = json.dumps({"input": TEXT})
    headers = {"Content-Type": "application/json"}

    def ask(path: str) -> None:
        connection.request("POST", path, body, headers)
        connection.getresponse().read()

    steps: dict[str, Callable[[], object]] = {
        "engine": compute,
        "engine and lane": lambda: lane.embed(EmbedCall("bench", (TEXT,)), Watch(time.monotonic() + 60)),
        "HTTP, no lane (a path that isn't there)": lambda: ask("/nowhere"),
        "whole request": lambda: ask("/embed"),
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


if __name__ == "__main__":
    main()
