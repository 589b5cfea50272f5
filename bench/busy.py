"""A completion while another program computes: the service, and bare gpt4all with all cores and with one thread.

    python bench/busy.py [--rounds 5]

A program that keeps one core busy runs all the time. In turn, in one run: 64 tokens of a tiny random llama through the
service with its default THREADS, and by gpt4all in a process of its own with as many threads as cores, and with one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
import tiny_llama  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import available_cores  # noqa: E402

TOKENS = 64
_BARE = """
import sys, time
from gpt4all import GPT4All
from pathlib import Path
path, threads = Path(sys.argv[1]), int(sys.argv[2])
model = GPT4All(path.name, model_path=path.parent, allow_download=False, n_threads=threads, device="cpu")
for line in sys.stdin:
    began = time.monotonic()
    model.generate("Hello there", max_tokens=TOKENS, temp=0)
    print(time.monotonic() - began, flush=True)
""".replace("TOKENS", str(TOKENS))


class Bare:
    """gpt4all in a process of its own, with a fixed number of threads."""

    def __init__(self, model: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BARE, str(model), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)

    def seconds(self) -> float:
        """Return the seconds of one completion."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    described = results.machine()
    cores = available_cores()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        model = tiny_llama.make(folder / "tiny.gguf")
        service = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": model.name, "EMBED_MODEL": "none",
                                               "THREADS": cores})
        all_cores, one = Bare(model, cores), Bare(model, 1)
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            service.wait_ready()
            times: dict[str, list[float]] = {"service": [], f"gpt4all, {cores} threads": [], "gpt4all, 1 thread": []}
            for turn in range(rounds + 1):
                began = time.monotonic()
                service.complete("Hello there", max_tokens=TOKENS, temperature=0)
                figures = (time.monotonic() - began, all_cores.seconds(), one.seconds())
                if turn:
                    for values, seconds in zip(times.values(), figures, strict=True):
                        values.append(seconds)
                    print(", ".join(f"{seconds:.3f} s" for seconds in figures), flush=True)
        finally:
            other.kill()
            other.wait()
            all_cores.end()
            one.end()
            service.stop()
    base = results.median(times["gpt4all, 1 thread"])
    rows = [(name, results.spread(values), f"{results.median(values) / base:.2f}") for name, values in times.items()]
    body = results.table((f"{TOKENS} tokens beside one busy core", "seconds, median (min to max)",
                          "against one thread"), rows)
    results.keep("A completion while another program computes (busy.py)", f"{described}; {rounds} rounds,", body)


if __name__ == "__main__":
    main()
