"""Weights in pages of 2 MB: the service as it is against one whose allocator is told nothing, in turn, pair by pair.

    python bench/pages.py [--pairs 12] [--model FILE]

Each answers the same prompt; the time to its first token and that of the rest are compared. Which of both is asked
first changes from pair to pair. Without --model it is a llama of TinyLlama's shape with random weights, 1.1 B of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import random_llama  # noqa: E402
import results  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import available_cores  # noqa: E402

TOKENS = 32
NOTICED = 1.5
PROMPT = "Tell me about the river, the hill and the people who live there between the two."
# What a person may have set stays as it is; this says nothing of pages.
SMALL, HUGE = "small pages", "pages of 2 MB"
SETTINGS: dict[str, dict[str, object]] = {SMALL: {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, HUGE: {}}


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--pairs", type=int, default=12)
    arguments.add_argument("--model", type=Path, help="a completion model (default: random 1.1 B)")
    chosen = arguments.parse_args()
    described = results.machine()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name, ExitStack() as stack:
        model = chosen.model or random_llama.write(Path(name) / "random-1.1b.gguf")
        services = [(kind, stack.enter_context(running(Path(name) / kind.replace(" ", "-"), model.resolve(), settings)))
                    for kind, settings in SETTINGS.items()]
        for turn in range(chosen.pairs + 1):
            for kind, service in services if turn % 2 else reversed(services):
                times = answered(service)
                if turn:  # the first of each warms up
                    found[kind].append(times)
                    print(f"{kind:14} first token {times[0]:.3f} s, the rest {times[1]:.3f} s", flush=True)
        size = model.stat().st_size
    rows = []
    for part, label in enumerate((f"to the first token, {len(PROMPT.split())} words", f"{TOKENS - 1} more tokens")):
        small, huge = ([times[part] for times in found[kind]] for kind in (SMALL, HUGE))
        pairs = results.median([b / a for a, b in zip(small, huge, strict=True)])
        rows.append((label, results.spread(small), results.spread(huge), f"{pairs:.3f}"))
    results.keep("Weights in pages of 2 MB (pages.py)",
                 f"{described}; {size / 1e6:.0f} MB model, THREADS={available_cores()}, {chosen.pairs} pairs,",
                 results.table(("seconds, median (min to max)", SMALL, HUGE, "pair by pair"), rows))


@contextmanager
def running(folder: Path, model: Path, settings: dict[str, object]) -> Iterator[Service]:
    """Run a service for the length of a `with`."""
    service = Service(folder, {"MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "none",
                               "THREADS": available_cores(), "HANG_SECONDS": 60, "PREFIX_MEMORY": "none", **settings})
    yield service.wait_ready(within=300)
    service.stop()


def answered(service: Service) -> tuple[float, float]:
    """Return the seconds to the first token of an answer, and those of the rest."""
    # Cores on which the other service computes count as taken until the watchdog has looked again.
    time.sleep(NOTICED)
    began = time.monotonic()
    stream = service.stream(PROMPT, max_tokens=TOKENS, temperature=0.7)
    next(stream)
    first = time.monotonic()
    assert list(stream)[-1] == "[DONE]"
    return first - began, time.monotonic() - first


if __name__ == "__main__":
    main()
