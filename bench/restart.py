"""What a fresh process for each completion costs: ISOLATION=fork and respawn against none, in one run.

    python bench/restart.py [--completions 12] [--model FILE.gguf] [--engine llamacpp]

Two services run side by side, one forking and one not, and answer the same prompt in turn, so that what the machine
does meanwhile falls on both. Then the gap is measured at the lane itself: with a second call waiting in the queue,
the time from one answer's last frame to the moment the next generation has the waiting call. Respawn runs last and
alone, because loading the next process would disturb the others. The default model is a random-weight llama of
1.1 B parameters (22 layers, 2048 wide, Q4_0), made in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import random_llama  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import available_cores  # noqa: E402
from mayfly.wire import framing  # noqa: E402
from mayfly.wire.address import LaneAddress  # noqa: E402
from mayfly.wire.calls import (  # noqa: E402
    Answer,
    CompletionCall,
    Failed,
    Finished,
    Message,
    Request,
    Sampling,
)

TOKENS = 32
NOTICED = 1.5
PROMPT = "Tell me about the river, the hill and the people who live there between the two."


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--completions", type=int, default=12, help="counted completions of each kind")
    arguments.add_argument("--model", type=Path, help="a completion model (default: random 1.1 B)")
    arguments.add_argument("--engine", default="llamacpp", help="CHAT_ENGINE (default: %(default)s)")
    chosen = arguments.parse_args()
    os.environ["CHAT_ENGINE"] = chosen.engine
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        model = chosen.model
        if model is None:
            print("making a random 1.1 B llama ...", flush=True)
            model = random_llama.write(folder / "random-1.1b.gguf")
        run(folder, model.resolve(), chosen.engine, chosen.completions, described)


def run(folder: Path, model: Path, engine: str, count: int, described: str) -> None:
    """Measure with one model and keep the figures."""
    with Running(folder, model, "fork") as fork, Running(folder, model, "none") as none:
        times: dict[str, list[float]] = {"fork": [], "none": []}
        for turn in range(count + 1):
            for name, service in (("fork", fork), ("none", none)):
                seconds = completion(service)
                if turn:  # the first of each warms up
                    times[name].append(seconds)
                    print(f"{name:8} {seconds:.3f} s", flush=True)
        gaps = [gap(fork) for _ in range(count)]
        print("gaps:", ", ".join(f"{seconds * 1000:.1f}" for seconds in gaps), "ms", flush=True)
    with Running(folder, model, "respawn") as respawn:
        completion(respawn)
        times["respawn"] = [completion(respawn) for _ in range(max(3, count // 2))]
        print("respawn", ", ".join(f"{seconds:.3f}" for seconds in times["respawn"]), "s", flush=True)
    ratios = [a / b for a, b in zip(times["fork"], times["none"], strict=True)]
    rows = [(f"ISOLATION={name}", results.spread(times[name]),
             f"{results.median(times[name]) / results.median(times['none']):.3f}") for name in
            ("none", "fork", "respawn")]
    body = results.table((f"{TOKENS}-token completion", "seconds, median (min to max)", "against none"), rows)
    body += (f"\n\nfork/none, pair by pair: median {results.median(ratios):.3f} (bar: 1.03). From one answer's end to "
             f"the next generation at work on a waiting call: {results.spread([g * 1000 for g in gaps], 1)} ms "
             "(bar: 15).")
    results.keep(f"A fresh process for each completion, by {engine} (restart.py)",
                 f"{described}; {model.stat().st_size / 1e6:.0f} MB model, THREADS={available_cores()}, "
                 f"{count} completions of each,", body)


class Running:
    """A service that runs for the length of a `with`."""

    def __init__(self, folder: Path, model: Path, isolation: str) -> None:
        self.service = Service(folder / isolation, {
            "MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "absent.gguf",
            "ISOLATION": isolation, "THREADS": available_cores(), "HANG_SECONDS": 60})

    def __enter__(self) -> Service:
        return self.service.wait_ready(within=300)

    def __exit__(self, *_: object) -> None:
        self.service.stop()


def completion(service: Service) -> float:
    """Return the seconds of one completion over HTTP."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0.7}
    # Cores on which the other service computes count as taken until the watchdog has looked again.
    time.sleep(NOTICED)
    started = time.monotonic()
    answer = requests.post(service.url + "/gpt4all_api", json=body, timeout=600)
    seconds = time.monotonic() - started
    answer.raise_for_status()
    assert answer.json()["usage"]["completion_tokens"] == TOKENS
    return seconds


def gap(service: Service) -> float:
    """Return the seconds between one answer's end and the next generation's beginning on a waiting call."""
    address = LaneAddress(str(service.run_folder / "completion.sock"))
    moments: dict[str, float] = {}

    def call(name: str, tokens: int) -> None:
        wanted = CompletionCall(id=name, messages=(Message("user", PROMPT),), sampling=Sampling(max_tokens=tokens))
        with address.connect(60) as connection:
            connection.settimeout(600)
            connection.sendall(framing.encode(Request(wanted, time.monotonic() + 600)))
            received = bytearray()
            while part := connection.recv(1 << 16):
                received += part
                while (answer := framing.pop(received, Answer)) is not None:
                    moments[f"{name} {type(answer).__name__}"] = time.monotonic()
                    if isinstance(answer, Finished | Failed):
                        return

    first = threading.Thread(target=call, args=("first", 8))
    first.start()
    while "first Began" not in moments:
        time.sleep(0.001)
    second = threading.Thread(target=call, args=("second", 1))
    second.start()
    first.join()
    second.join()
    return moments["second Began"] - moments["first Finished"]


if __name__ == "__main__":
    main()
