"""One gpt4all model in a process of its own, with nothing around it: what `completions.py` compares the service with.

    python bench/bare_gpt4all.py MODEL.gguf THREADS N_CTX

Started by the benchmark. It says `{"ready": true}`; then each line of JSON on stdin - the arguments of
`GPT4All.generate` - is answered by a line with `first` and `last`: seconds from the call to the first and the last
token, and `tokens`, how many there were.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from gpt4all import GPT4All


def main() -> None:
    """Answer until stdin ends."""
    path, threads, n_ctx = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = GPT4All(path.name, model_path=path.parent, allow_download=False, n_threads=threads, n_ctx=n_ctx,
                    device="cpu")
    say({"ready": True})
    for line in sys.stdin:
        moments: list[float] = []

        def note(_token: int, _text: str, moments: list[float] = moments) -> bool:
            moments.append(time.perf_counter())
            return True

        started = time.perf_counter()
        model.generate(**json.loads(line), callback=note)
        say({"first": moments[0] - started, "last": moments[-1] - started, "tokens": len(moments)})


def say(message: dict[str, object]) -> None:
    """Write a line of JSON; gpt4all writes to stdout as well, so ours begin with a mark."""
    print("bare: " + json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
