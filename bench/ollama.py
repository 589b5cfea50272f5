"""What Ollama's form of a chat costs over OpenAI's: the same completion, in turn, pair by pair.

    python bench/ollama.py [--pairs 40] [--tokens 32]

A real model answers a fixed conversation greedily, whole and as a stream, over kept connections. Which of both is asked
first changes from pair to pair. Bar: /api/chat takes at most 2 % longer than /v1/chat/completions, pair by pair, at the
median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import requests  # noqa: E402
import results  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import load_settings  # noqa: E402

TURNS = [{"role": "system", "content": "You are Ada, a lighthouse keeper."},
         {"role": "user", "content": "Tell me of the harbour at night."}]


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--pairs", type=int, default=40)
    arguments.add_argument("--tokens", type=int, default=32, help="of each answer")
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        service = Service(Path(name), {"MODEL_PATH": settings.model_path, "MODEL_NAME": settings.model_name,
                                       "EMBED_MODEL": "none"})
        service.wait_ready()
        try:
            for stream in (False, True):
                times = measure(service, chosen.pairs, chosen.tokens, stream)
                ratios = [other / openai for openai, other in times]
                rows.append(("a stream" if stream else "whole",
                             *(results.spread([1000 * pair[place] for pair in times], 1) for place in (0, 1)),
                             results.spread(ratios)))
        finally:
            service.stop()
    results.keep("Ollama's form of a chat (ollama.py)",
                 f"{described}; {settings.model_name}, {chosen.tokens} tokens, {chosen.pairs} pairs of each,",
                 results.table(("ms, median (min to max)", "/v1/chat/completions", "/api/chat", "pair by pair"), rows)
                 + "\n\nBar: 1.02, pair by pair at the median.")


def measure(service: Service, pairs: int, tokens: int, stream: bool) -> list[tuple[float, float]]:
    """Return what each pair took, OpenAI's form and Ollama's, in seconds."""
    openai = {"messages": TURNS, "temperature": 0, "max_tokens": tokens, "stream": stream}
    ollama = {"model": "llama3.2", "messages": TURNS, "stream": stream,
              "options": {"temperature": 0, "top_k": 0, "top_p": 1.0, "num_predict": tokens}}
    session = requests.Session()
    session.trust_env = False

    def ask(path: str, body: dict[str, object]) -> float:
        began = time.perf_counter()
        answer = session.post(service.url + path, json=body, timeout=300)
        taken = time.perf_counter() - began
        assert answer.status_code == 200, answer.text
        return taken

    asked = [("/v1/chat/completions", openai), ("/api/chat", ollama)]
    found = []
    with session:
        for number in range(-2, pairs):
            order = asked if number % 2 else asked[::-1]
            taken = {path: ask(path, body) for path, body in order}
            if number >= 0:
                found.append((taken["/v1/chat/completions"], taken["/api/chat"]))
    return found


if __name__ == "__main__":
    main()
