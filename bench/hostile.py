"""What one body of MAX_BODY does to its own answer and to everybody else's.

    python bench/hostile.py [--rounds 5] [--only WORD]

Each body is sent several times in a row, by one client, to a service with scripted models (they compute nothing),
while another client asks for /health again and again over a kept connection. Bar, on 2 cores: the answer within 0.5 s,
/health beside it within 0.2 s at the 95th percentile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
import scripts  # noqa: E402
from hostile_bodies import bodies  # noqa: E402
from load import memory_mb  # noqa: E402
from service import Service  # noqa: E402

SIZE = 8 << 20
# How long after one another /health is asked for (s).
_APART = 0.01


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5, help="how often each body is sent")
    arguments.add_argument("--only", default="", help="bodies whose path or name has this word")
    chosen = arguments.parse_args()
    described = results.machine()
    rows, worst_answer, worst_health, peak = [], 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        service = Service(folder, {
            "MODEL_PATH": folder, "MODEL_NAME": scripts.write(folder), "MAX_BODY": SIZE, "HANG_SECONDS": 600,
            "EMBED_MODEL": scripts.write(folder, name="vectors", kind="embedding")})
        try:
            service.wait_ready()
            # It is opened by its first call.
            service.post("/v1/tokenize", {"input": "Hi"})
            for path, what, make in bodies(SIZE):
                if chosen.only not in f"{path} {what}":
                    continue
                status, answers, healths = measure(service, path, make(), chosen.rounds)
                answer, health = max(answers), percentile(healths, 0.95)
                memory = memory_mb([service.pid("app")])
                worst_answer, worst_health = max(worst_answer, answer), max(worst_health, health)
                peak = max(peak, memory)
                rows.append((path, what, str(status), f"{answer:.2f}", f"{health:.3f}"))
                print(f"{path:22} {what:40} {status}  {answer:6.2f} s  /health {health:6.3f} s  {memory:5.0f} MB",
                      flush=True)
        finally:
            service.stop()
    longest = sorted(rows, key=lambda row: (-float(row[3]), -float(row[4])))[:10]
    results.keep("Bodies that are full of something (hostile.py)",
                 f"{described}; {len(rows)} bodies of {SIZE} bytes, each {chosen.rounds} times,",
                 results.table(("path", "the slowest bodies", "status", "longest answer, s", "/health p95, s"),
                               longest)
                 + f"\n\nBar: 0.5 s and 0.2 s. The longest answer took {worst_answer:.2f} s, the highest p95 of "
                   f"/health was {worst_health:.3f} s; the web process held {peak:.0f} MB at most after a body.")


def measure(service: Service, path: str, body: bytes, rounds: int) -> tuple[int, list[float], list[float]]:
    """Send a body in a row; return the status, the answers' times and those of /health meanwhile, in seconds."""
    over = threading.Event()
    healths: list[float] = []

    def watch() -> None:
        connection = connect(service)
        while not over.is_set():
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            took = time.perf_counter() - began
            # Others would have asked meanwhile, one each _APART, and waited for the rest of it.
            healths.extend(took - _APART * number for number in range(1 + int(took / _APART)))
            time.sleep(_APART)
        connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers, status = [], 0
    try:
        for _ in range(rounds):
            connection = connect(service)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            answers.append(time.perf_counter() - began)
            connection.close()
            status = answer.status
            if status >= 400:
                json.loads(said)["error"]
    finally:
        over.set()
        watcher.join()
    return status, answers, healths


def connect(service: Service) -> http.client.HTTPConnection:
    """Open a connection to the service."""
    return http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=600)


def percentile(times: list[float], part: float) -> float:
    """Return the time that this part of them didn't exceed."""
    return sorted(times)[min(len(times) - 1, int(part * len(times)))]


if __name__ == "__main__":
    main()
