"""What a persona snapshot saves: the time to the first token with one, without, and with ISOLATION=none, in one run.

    python bench/snapshots.py [--calls 8] [--persona-tokens 300] [--model FILE.gguf]

Three services run side by side and are asked the same in turn, so that what the machine does meanwhile falls on all of
them: one with snapshots, one with SNAPSHOTS=0, one with ISOLATION=none. Each call has the same persona and a prompt of
20 tokens; the first calls, with which the snapshot is made, are not counted. The default model is a random-weight llama
of 1.1 B parameters (22 layers, 2048 wide, Q4_0), made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "bench")]

import random_llama  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
from service import Service, until  # noqa: E402

from mayfly.settings import available_cores  # noqa: E402

WORDS = "You are the keeper of the old house by the river and you like the morning and the hill and people who ask . "
PROMPT_TOKENS = 20
KINDS = {"with snapshot": {}, "without": {"SNAPSHOTS": 0}, "ISOLATION=none": {"ISOLATION": "none"}}


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--calls", type=int, default=8, help="counted calls of each kind")
    arguments.add_argument("--persona-tokens", type=int, default=300)
    arguments.add_argument("--model", type=Path, help="a completion model (default: random 1.1 B)")
    chosen = arguments.parse_args()
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        model = chosen.model
        if model is None:
            print("making a random 1.1 B llama ...", flush=True)
            model = random_llama.write(folder / "random-1.1b.gguf")
        run(folder, model.resolve(), chosen.calls, chosen.persona_tokens, described)


def run(folder: Path, model: Path, count: int, persona_tokens: int, described: str) -> None:
    """Measure with one model and keep the figures."""
    services = {kind: Service(folder / kind.replace("=", " "), {
        "MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "absent.gguf",
        "THREADS": available_cores(), "HANG_SECONDS": 60, **settings}) for kind, settings in KINDS.items()}
    try:
        for service in services.values():
            service.wait_listening()
            until(lambda service=service: service.lane("chat")["state"] == "ready", within=300, what="ready")
        any_service = services["without"]
        persona = of_tokens(any_service, persona_tokens)
        prompt = of_tokens(any_service, PROMPT_TOKENS)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for turn in range(count + 2):
            for kind, service in services.items():
                seconds = first_token(service, persona, prompt)
                print(f"{kind:16} {seconds:.3f} s{'' if turn > 1 else ' (not counted)'}", flush=True)
                if turn > 1:  # the second one makes the snapshot
                    times[kind].append(seconds)
        found = services["with snapshot"].lane("chat")["snapshots"]
        assert found["hits"] == count, found
    finally:
        for service in services.values():
            service.stop()
    ratios = [ours / plain for ours, plain in zip(times["with snapshot"], times["without"], strict=True)]
    body = results.table(
        ("time to the first token", "seconds, median (min to max)", "against without"),
        [(kind, results.spread(times[kind]), f"{results.median(times[kind]) / results.median(times['without']):.3f}")
         for kind in KINDS])
    (kept,) = found["living"]
    body += (f"\n\nwith/without, pair by pair: median {results.median(ratios):.3f} (bar: 0.25). The snapshot keeps "
             f"{kept['tokens']} tokens and takes {kept['memory_bytes'] / 1e6:.0f} MB that it shares with no other "
             "process.")
    results.keep("Persona snapshots (snapshots.py)",
                 f"{described}; {model.stat().st_size / 1e6:.0f} MB model, THREADS={available_cores()}, a persona of "
                 f"{persona_tokens} tokens, a prompt of {PROMPT_TOKENS}, {count} calls of each,", body)


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


def first_token(service: Service, persona: str, prompt: str) -> float:
    """Return the seconds from a request to the first piece of its answer."""
    body = {"prompt": prompt, "persona": persona, "max_tokens": 2, "temperature": 0, "stream": True}
    started = time.monotonic()
    with requests.post(service.url + "/gpt4all_api", json=body, stream=True, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"data: {") and "error" not in json.loads(line[6:]):
                seconds = time.monotonic() - started
                for _ in answer.iter_lines():
                    pass  # to the end, so that the next call finds a free place
                return seconds
    raise AssertionError("an answer without a token")


if __name__ == "__main__":
    main()
