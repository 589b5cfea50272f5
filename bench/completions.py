"""The service against bare gpt4all: evaluating prompts and generating, in tokens a second, in one run.

    python bench/completions.py [--rounds 6] [--model FILE.gguf]

The service and a process with nothing but a GPT4All run side by side and do the same in turn, so that what the machine
does meanwhile falls on both. Before that, bare gpt4all evaluates a prompt with one batch size after the other, several
times round: that is the sweep by which the service's own batch size was chosen. The default model is a random-weight
llama of 1.1 B parameters (22 layers, 2048 wide, Q4_0), made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import random_llama  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
from service import Service, until  # noqa: E402

from mayfly.settings import available_cores  # noqa: E402

WORDS = "You are the keeper of the old house by the river and you like the morning and the hill and people who ask . "
BATCHES = (8, 16, 32, 64, 128, 256, 512)
OURS = 128
PROMPT_TOKENS = 256
TOKENS = 64
N_CTX = 2048
# A random model would go on for ever with one token at temperature 0; what it draws doesn't matter.
SAMPLING = {"top_k": 40, "top_p": 0.4, "min_p": 0.0, "repeat_penalty": 1.18, "repeat_last_n": 64}


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=6, help="counted rounds")
    arguments.add_argument("--model", type=Path, help="a completion model (default: random 1.1 B)")
    chosen = arguments.parse_args()
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        model = chosen.model
        if model is None:
            print("making a random 1.1 B llama ...", flush=True)
            model = random_llama.write(folder / "random-1.1b.gguf")
        run(folder, model.resolve(), chosen.rounds, described)


def run(folder: Path, model: Path, rounds: int, described: str) -> None:
    """Measure with one model and keep the figures."""
    service = Service(folder / "service", {
        "MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "absent.gguf",
        "THREADS": available_cores(), "N_CTX": N_CTX, "HANG_SECONDS": 60})
    bare = Bare(model)
    try:
        service.wait_listening()
        until(lambda: service.lane("completion")["state"] == "ready", within=300, what="ready")
        prompt = of_tokens(service, PROMPT_TOKENS)
        sweep = swept(bare, prompt, max(2, rounds // 2))
        evaluated: dict[str, list[float]] = {"mayfly": [], "bare gpt4all": []}
        generated: dict[str, list[float]] = {"mayfly": [], "bare gpt4all": []}
        for turn in range(rounds + 1):
            for kind, ask in (("mayfly", lambda: through(service, prompt)), ("bare gpt4all", lambda: bare(prompt))):
                answer = ask()
                if turn:  # the first of each warms up
                    evaluated[kind].append(PROMPT_TOKENS / answer["first"])
                    generated[kind].append((answer["tokens"] - 1) / (answer["last"] - answer["first"]))
                    print(f"{kind:12} {evaluated[kind][-1]:.1f} prompt tokens/s, {generated[kind][-1]:.2f} tokens/s",
                          flush=True)
    finally:
        bare.close()
        service.stop()
    rows = []
    for what, figures in (("evaluation of the prompt", evaluated), ("generation", generated)):
        ratios = [a / b for a, b in zip(figures["mayfly"], figures["bare gpt4all"], strict=True)]
        rows.append((what, results.spread(figures["mayfly"], 2), results.spread(figures["bare gpt4all"], 2),
                     f"{results.median(figures['mayfly']) / results.median(figures['bare gpt4all']):.3f}",
                     results.spread(ratios)))
    body = results.table(("tokens/s, median (min to max)", "mayfly over HTTP", "bare gpt4all, one process",
                          "ratio of medians", "pair by pair"), rows)
    body += "\n\n(bar for generation: 0.97)\n\n" + results.table(
        ("n_batch of bare gpt4all", "prompt tokens/s, median (min to max)", "against the service's own size"),
        [(f"{size}{' (the service)' if size == OURS else ''}", results.spread(sweep[size], 1),
          f"{results.median(sweep[size]) / results.median(sweep[OURS]):.2f}") for size in BATCHES])
    results.keep("Completions against bare gpt4all (completions.py)",
                 f"{described}; {model.stat().st_size / 1e6:.0f} MB model, THREADS={available_cores()}, a prompt of "
                 f"{PROMPT_TOKENS} tokens, {TOKENS} tokens generated, {rounds} rounds,", body)


class Bare:
    """A process with nothing but a GPT4All; a call of it is one completion."""

    def __init__(self, model: Path) -> None:
        command = [PROJECT / "bench" / "bare_gpt4all.py", model, available_cores(), N_CTX]
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._hear()

    def __call__(self, prompt: str, *, n_batch: int = OURS, max_tokens: int = TOKENS) -> dict[str, Any]:
        """Return `first`, `last` and `tokens` of one completion."""
        assert self._process.stdin is not None
        wanted = {"prompt": prompt, "max_tokens": max_tokens, "temp": 0.7, "n_batch": n_batch, **SAMPLING}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("bare: "):
                return dict(json.loads(line[6:]))
        raise AssertionError("bare gpt4all has ended")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def swept(bare: Bare, prompt: str, rounds: int) -> dict[int, list[float]]:
    """Return prompt tokens a second by batch size, each measured so many times in turn."""
    found: dict[int, list[float]] = {size: [] for size in BATCHES}
    bare(prompt, max_tokens=1)
    for _ in range(rounds):
        for size in BATCHES:
            found[size].append(PROMPT_TOKENS / bare(prompt, n_batch=size, max_tokens=1)["first"])
            print(f"n_batch {size:4} {found[size][-1]:.1f} prompt tokens/s", flush=True)
    return found


def of_tokens(service: Service, tokens: int) -> str:
    """Return a text of about so many tokens by the model's own vocabulary."""
    words = (WORDS * tokens).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        answer = service.post("/v1/tokenize", {"input": " ".join(words[:middle])})
        answer.raise_for_status()
        if answer.json()["data"][0]["count"] < tokens:
            low = middle + 1
        else:
            high = middle
    return " ".join(words[:low])


def through(service: Service, prompt: str) -> dict[str, Any]:
    """Return the same of a completion through the service, as its client sees it."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0.7, "stream": True,
            "stream_options": {"include_usage": True}, **SAMPLING}
    moments = []
    tokens = 0
    started = time.perf_counter()
    with requests.post(service.url + "/v1/completions", json=body, stream=True, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines(chunk_size=1):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if any(choice["text"] for choice in event["choices"]):
                moments.append(time.perf_counter() - started)
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    return {"first": moments[0], "last": moments[-1], "tokens": tokens}


if __name__ == "__main__":
    main()
