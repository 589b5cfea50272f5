"""A completion alone, and while another program computes: the service, and bare llama.cpp with other ways to wait.

    python bench/busy.py [--rounds 3] [--model FILE.gguf]

In turn, in one run: 32 tokens of the default model through the service with its default THREADS, and by llama.cpp in a
process of its own with one thread, and with one for each core and GOMP_SPINCOUNT - how long its threads spin while
they wait for one another - as the workers have it, less, more, and as libgomp has it by itself. Then the same while a
program keeps one core busy. And both with a prompt after which an answer has the same bytes only with the same number
of threads. Bar: beside the program the service is at least 0.40 times as fast as one thread alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
from contenders import Piped, folder_of  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import available_cores, load_settings  # noqa: E402

TOKENS = 32
SHORT = "Tell me about the river and the hill."
LONG = f"{SHORT} " * 40
# What the workers set (mayfly.engines.llamacpp.spinning), and what libgomp takes where nothing is set, as documented.
_WORKERS, _LIBGOMPS_OWN = 3000, 300_000
_SERVICE, _AFTER_LONG = "the service", f", {len(LONG.split())} words of prompt"
_BARE = """
import json, sys, time
from pathlib import Path
from mayfly.engines.llamacpp.completions import LlamaCompletions
from mayfly.wire.calls import CompletionCall, Message, Sampling
engine = LlamaCompletions(Path(sys.argv[1]), int(sys.argv[2]), 1024, "cpu", "bare")
segments = engine.prompt(CompletionCall("bare", (Message("user", sys.argv[3]),)))
print("{}", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    engine.generate(segments, Sampling(int(sys.argv[4]), temperature=0.0), lambda: True, lambda piece: True)
    print(json.dumps({"seconds": time.monotonic() - began}), flush=True)
"""


class Bare(Piped):
    """llama.cpp in a process of its own, with a fixed number of threads."""

    def __init__(self, model: Path, threads: int, spinning: int, prompt: str = SHORT) -> None:
        super().__init__([sys.executable, "-c", _BARE, model, threads, prompt, TOKENS],
                         {"GOMP_SPINCOUNT": str(spinning)})

    def seconds(self) -> float:
        """Return the seconds of one completion."""
        return float(self.ask()["seconds"])


def main() -> None:
    """Run the benchmark."""
    settings = load_settings()
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--model", type=Path, default=settings.model_path / settings.model_name)
    chosen = arguments.parse_args()
    described = results.machine()
    cores = available_cores()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        models = folder_of(Path(name), chosen.model)
        service = Service(Path(name) / "service", {
            "MODEL_PATH": models, "MODEL_NAME": chosen.model.name, "EMBED_MODEL": "none", "THREADS": cores,
            "PREFIX_MEMORY": 0})  # or the second call's prompt would cost nothing
        bare = {"1 thread": Bare(chosen.model, 1, _WORKERS)} | {
            f"{cores} threads, GOMP_SPINCOUNT {spinning}": Bare(chosen.model, cores, spinning)
            for spinning in (_WORKERS, 100, 1000, 10_000, _LIBGOMPS_OWN)} | {
            f"1 thread{_AFTER_LONG}": Bare(chosen.model, 1, _WORKERS, LONG),
            f"{cores} threads, GOMP_SPINCOUNT {_WORKERS}{_AFTER_LONG}": Bare(chosen.model, cores, _WORKERS, LONG)}

        def serve(prompt: str) -> float:
            began = time.monotonic()
            service.complete(prompt, max_tokens=TOKENS, temperature=0)
            return time.monotonic() - began

        try:
            service.wait_ready()
            turns: dict[str, Callable[[], float]] = {
                _SERVICE: lambda: serve(SHORT), f"{_SERVICE}{_AFTER_LONG}": lambda: serve(LONG)}
            turns |= {what: process.seconds for what, process in bare.items()}
            alone = _measured(turns, chosen.rounds)
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                beside = _measured(turns, chosen.rounds)
            finally:
                other.kill()
                other.wait()
        finally:
            for process in bare.values():
                process.stop()
            service.stop()
    rows = [(what, results.spread(alone[what]), results.spread(beside[what]),
             f"{results.median(alone[_base(what)]) / results.median(beside[what]):.2f}") for what in sorted(
                 alone, key=lambda what: what.endswith(_AFTER_LONG))]
    body = results.table((f"{TOKENS} tokens, seconds, median (min to max)", "alone", "beside one busy core",
                          "speed beside it / one thread alone"), rows)
    results.keep("A completion while another program computes (busy.py)",
                 f"{described}; {chosen.model.name} by llama.cpp, {chosen.rounds} rounds,",
                 body + "\n\nBar: 0.40 for the service.")


def _base(what: str) -> str:
    return f"1 thread{_AFTER_LONG}" if what.endswith(_AFTER_LONG) else "1 thread"


def _measured(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, measured in turn; a first round isn't counted."""
    times: dict[str, list[float]] = {what: [] for what in turns}
    for turn in range(rounds + 1):
        figures = {what: take() for what, take in turns.items()}
        if turn:
            for what, seconds in figures.items():
                times[what].append(seconds)
        print(", ".join(f"{seconds:.3f} s" for seconds in figures.values()), flush=True)
    return times


if __name__ == "__main__":
    main()
