"""How long a second start takes until the first answer.

    python bench/startup.py [--starts 5]

Runs `start.sh` as a user does, in this checkout, on a free port and with folders of its own, and asks for one vector
and one completion at once as soon as the port is open. The first start is not counted: it may have something to set up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "bench")]

import requests  # noqa: E402
import results  # noqa: E402


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--starts", type=int, default=5)
    count = arguments.parse_args().starts
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as folder:
        first = start(Path(folder))
        print(f"not counted: {max(first):.2f} s", flush=True)
        times = [start(Path(folder)) for _ in range(count)]
    rows = [(what, results.spread([each[place] for each in times], 2))
            for place, what in enumerate(("port open", "first vector", "first token of a completion"))]
    body = results.table(("from `python3 start.sh` to", "seconds, median (min to max)"), rows)
    results.keep("A second start (startup.py)", f"{described}; {count} starts,", body + "\n\nBar: 3 s for both.")


def start(folder: Path) -> tuple[float, float, float]:
    """Start, ask, stop; return the seconds until the port was open, and until the first vector and the first token were
    there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "LISTEN_PORT": str(port), "RUN_FOLDER_NAME": str(folder / "run"),
               "LOG_FOLDER_NAME": str(folder / "logs")}
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, str(PROJECT / "start.sh")], env=environ, stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise SystemExit(f"start.sh ended with {process.returncode}")
            time.sleep(0.005)
        opened = time.monotonic() - began

        def ask(path: str, body: dict[str, object]) -> float:
            requests.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=300).raise_for_status()
            return time.monotonic() - began

        with ThreadPoolExecutor() as pool:
            vector = pool.submit(ask, "/embed", {"input": "Good morning."})
            token = pool.submit(ask, "/gpt4all_api", {"prompt": "Good morning.", "max_tokens": 1})
            return opened, vector.result(), token.result()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    main()
