"""How soon a client that leaves frees its process: hung up on while some 4,000 tokens of a prompt are evaluated.

    python bench/leaving.py [--rounds 10] [--model FILE.gguf]

The service with its default settings and model. Each time the client hangs up at another moment of the evaluation; what
is measured is the time from then until the watchdog counts the generation as spent, asked for every 5 ms. Bar: 1 s.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
from contenders import folder_of  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import load_settings  # noqa: E402

TOKENS = 4000
# Evaluating takes seconds; the client leaves at these, one after another.
_LEAVES_AFTER = (0.3, 0.6, 0.9, 1.2)


def main() -> None:
    """Run the benchmark."""
    settings = load_settings()
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--model", type=Path, default=settings.model_path / settings.model_name)
    chosen = arguments.parse_args()
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        models = folder_of(Path(name), chosen.model)
        service = Service(Path(name) / "service", {
            "MODEL_PATH": models, "MODEL_NAME": chosen.model.name, "EMBED_MODEL": "none"})
        try:
            service.wait_ready()
            engine = service.lane("completion")["engine"]
            counted = service.post("/v1/tokenize", {"input": _prompt()}).json()["data"][0]["count"]
            times = [_leave(service, _LEAVES_AFTER[turn % len(_LEAVES_AFTER)]) for turn in range(chosen.rounds)]
        finally:
            service.stop()
    results.keep("A client that leaves during a long prompt (leaving.py)",
                 f"{described}; {counted} tokens, {chosen.model.name} by {engine}, {chosen.rounds} rounds,",
                 results.table(("", "seconds, median (min to max)"),
                               [("from the hanging up to the process's end", results.spread(times))])
                 + "\n\nBar: 1 s.")


def _prompt() -> str:
    return "the river and the hill " * (TOKENS // 5)


def _leave(service: Service, after: float) -> float:
    """Hang up on a request so many seconds after its evaluation has begun; return how long its process takes to end."""
    spent = service.lane("completion")["restarts"]["spent"]
    # No two are the same, so that nothing which was evaluated before can help.
    body = json.dumps({"prompt": f"{time.time_ns()} {_prompt()}", "max_tokens": 1}).encode()
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /gpt4all_api HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while not service.lane("completion")["active"]:
            time.sleep(0.005)
        time.sleep(after)
        assert service.lane("completion")["restarts"]["spent"] == spent, "it was evaluated before the client left"
    left = time.monotonic()
    while service.lane("completion")["restarts"]["spent"] == spent:
        time.sleep(0.005)
    seconds = time.monotonic() - left
    print(f"left {after} s into it: {seconds:.3f} s", flush=True)
    return seconds


if __name__ == "__main__":
    main()
