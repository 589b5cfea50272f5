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
import functools
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

from mayfly.engines.llamacpp.spinning import TURNS  # noqa: E402
from mayfly.settings import available_cores, load_settings  # noqa: E402

TOKENS = 32
SHORT = "Tell me about the river and the hill."
LONG = f"{SHORT} " * 40
# Documented: what libgomp takes where nothing is set.
_LIBGOMPS_OWN = 300_000
# What computes, and the prompt.
Contender = tuple[str, str]
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

    def __init__(self, model: Path, threads: int, spinning: int, prompt: str) -> None:
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
        bare: dict[Contender, Bare] = {}
        for prompt, turns in ((SHORT, (TURNS, 100, 1000, 10_000, _LIBGOMPS_OWN)), (LONG, (TURNS,))):
            bare["1 thread", prompt] = Bare(chosen.model, 1, TURNS, prompt)
            for spinning in turns:
                what = f"{cores} threads, GOMP_SPINCOUNT {spinning}"
                bare[what, prompt] = Bare(chosen.model, cores, spinning, prompt)

        def serve(prompt: str) -> float:
            began = time.monotonic()
            service.complete(prompt, max_tokens=TOKENS, temperature=0)
            return time.monotonic() - began

        try:
            service.wait_ready()
            takes: dict[Contender, Callable[[], float]] = {
                ("the service", prompt): functools.partial(serve, prompt) for prompt in (SHORT, LONG)}
            takes |= {contender: process.seconds for contender, process in bare.items()}
            alone = _measured(takes, chosen.rounds)
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                beside = _measured(takes, chosen.rounds)
            finally:
                other.kill()
                other.wait()
        finally:
            for process in bare.values():
                process.stop()
            service.stop()
    rows = [(what, len(prompt.split()), results.spread(alone[what, prompt]), results.spread(beside[what, prompt]),
             f"{results.median(alone['1 thread', prompt]) / results.median(beside[what, prompt]):.2f}")
            for what, prompt in sorted(alone, key=lambda contender: len(contender[1]))]
    body = results.table((f"{TOKENS} tokens, seconds, median (min to max)", "words of prompt", "alone",
                          "beside one busy core", "speed beside it / one thread alone"), rows)
    results.keep("A completion while another program computes (busy.py)",
                 f"{described}; {chosen.model.name} by llama.cpp, {chosen.rounds} rounds,",
                 body + "\n\nBar: 0.40 for the service.")


def _measured(takes: dict[Contender, Callable[[], float]], rounds: int) -> dict[Contender, list[float]]:
    """Return the seconds of each, measured in turn; a first round isn't counted."""
    times: dict[Contender, list[float]] = {contender: [] for contender in takes}
    for turn in range(rounds + 1):
        figures = {contender: take() for contender, take in takes.items()}
        if turn:
            for contender, seconds in figures.items():
                times[contender].append(seconds)
        print(", ".join(f"{seconds:.3f} s" for seconds in figures.values()), flush=True)
    return times


if __name__ == "__main__":
    main()
