"""How many streams can be open at once, and what that costs everybody else.

    python bench/streams.py [--streams 2000] [--looks 100]

The web process as the watchdog starts it, with a lane that is played by this process: each call gets a token a second.
Bar: with 2,000 open streams at most 16 threads in the web process, and /health in under 100 ms at the median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import many_streams  # noqa: E402
import results  # noqa: E402


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--streams", type=int, default=2000)
    arguments.add_argument("--looks", type=int, default=100)
    chosen = arguments.parse_args()
    described = results.machine()
    rows = []
    for streams in sorted({1, chosen.streams // 4, chosen.streams}):
        with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
            seen = many_streams.watch(Path(name), streams, chosen.looks)
        health = sorted(seen.health)
        rows.append((str(streams), str(seen.threads), f"{1000 * seen.median():.1f}",
                     f"{1000 * health[len(health) * 95 // 100]:.1f}"))
    results.keep("Open streams (streams.py)", f"{described}; a token a second each,",
                 results.table(("streams", "threads", "/health, median ms", "p95 ms"), rows))


if __name__ == "__main__":
    main()
