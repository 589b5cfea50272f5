"""Embeddings beside a completion: what each keeps of the speed that it has alone.

    python bench/sharing.py [--seconds 20] [--model FILE.gguf]

The default models, and one service with the default thread budget. In turn, in one run: embeddings alone with one
thread, completions alone with one thread, both together. Bar: together, each keeps at least 40 % of what it has alone
with one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import requests  # noqa: E402
import results  # noqa: E402
from contenders import folder_of  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import available_cores, load_settings  # noqa: E402

TEXT = "The keeper of the lighthouse walked down to the harbour in the morning to see which ships had come. " * 2
PROMPT = "Tell me about the river and the hill."


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    settings = load_settings()
    arguments.add_argument("--model", type=Path, default=settings.model_path / settings.model_name,
                           help="a completion model (default: that of MODEL_NAME)")
    chosen = arguments.parse_args()
    described = results.machine()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        models = folder_of(folder, chosen.model, settings.model_path / settings.embed_model)
        figures = run(folder, models, chosen.model.name, settings.embed_model, chosen.seconds)
    rows = [(what, *(f"{figures[when][what]:.1f}" for when in ("alone, 1 thread", "alone", "together")),
             f"{figures['together'][what] / figures['alone, 1 thread'][what]:.2f}")
            for what in ("texts/s", "tokens/s")]
    body = results.table(("", "alone, 1 thread", f"alone, {available_cores()} threads", "together",
                          "together / alone with 1"), rows)
    results.keep("Embeddings beside a completion (sharing.py)",
                 f"{described}; {len(TEXT.split())}-word texts, one a call, and completions of {chosen.model.name}, "
                 f"{chosen.seconds:g} s each,", body + "\n\nBar: 0.40 for both.")


def run(folder: Path, models: Path, model: str, embedding: str, seconds: float) -> dict[str, dict[str, float]]:
    """Return {situation: {"texts/s": ..., "tokens/s": ...}}."""
    figures: dict[str, dict[str, float]] = {}
    for when, threads in (("alone, 1 thread", 1), ("alone", available_cores())):
        service = Service(folder / f"threads-{threads}", {
            "MODEL_PATH": models, "MODEL_NAME": model, "EMBED_MODEL": embedding, "THREADS": threads,
            "HANG_SECONDS": 60})
        service.wait_ready(within=300)
        try:
            figures[when] = {"texts/s": texts(service, seconds), "tokens/s": tokens(service, seconds)}
            print(when, figures[when], flush=True)
            if threads > 1:
                figures["together"] = together(service, seconds)
                print("together", figures["together"], flush=True)
        finally:
            service.stop()
    return figures


def texts(service: Service, seconds: float) -> float:
    """Return texts a second, one a call, one after the other."""
    session = requests.Session()
    count = 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        session.post(service.url + "/embed", json={"input": TEXT}, timeout=300).raise_for_status()
        count += 1
    return count / (time.monotonic() - began)


def tokens(service: Service, seconds: float) -> float:
    """Return tokens a second over streamed completions, counted while the clock runs."""
    count = 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        body = {"prompt": PROMPT, "max_tokens": 1000, "temperature": 0, "stream": True}
        with requests.post(service.url + "/gpt4all_api", json=body, stream=True, timeout=300) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                count += line.startswith(b'data: {"response"')
                if time.monotonic() - began >= seconds:
                    break
    return count / (time.monotonic() - began)


def together(service: Service, seconds: float) -> dict[str, float]:
    """Return both figures, measured at the same time."""
    found: dict[str, float] = {}
    threads = [threading.Thread(target=lambda: found.update({"texts/s": texts(service, seconds)})),
               threading.Thread(target=lambda: found.update({"tokens/s": tokens(service, seconds)}))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    main()
