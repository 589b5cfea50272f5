"""Small requests beside one of megabytes: how long a small text and /health take meanwhile.

    python bench/small_beside_large.py [--size 8000000] [--seconds 20] [--engine auto|openvino|gpt4all] [--pre qwen2]

For each route in turn: a small text and /health alone, one after the other; then the same while one caller's word of so
many bytes is served there again and again (a text that isn't answered in the time is given up). A small text asks
the same route. The vocabulary of /v1/tokenize is byte-level BPE with qwen2's expression, which recurses; with --pre ""
it is a SentencePiece one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import requests  # noqa: E402
import results  # noqa: E402
import tiny_llama  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import load_settings  # noqa: E402

ROUTES = {
    "/embed": {"input": "the light"},
    "/v1/embeddings": {"input": "the light"},
    "/v1/tokenize": {"input": "the light"},
}
_PAUSE = 0.02


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--size", type=int, default=8_000_000, help="bytes of the word")
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    arguments.add_argument("--engine", default="auto", choices=["auto", "openvino", "gpt4all"])
    arguments.add_argument("--pre", default="qwen2", help="pre-tokenizer of the vocabulary for /v1/tokenize")
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        model = tiny_llama.make(models / "tiny.gguf", pre=chosen.pre)
        (models / settings.embed_model).write_bytes((settings.model_path / settings.embed_model).read_bytes())
        service = Service(folder / "service", {
            "MODEL_PATH": models, "MODEL_NAME": model.name, "EMBED_MODEL": settings.embed_model, "THREADS": None,
            "EMBED_ENGINE": chosen.engine, "HANG_SECONDS": 60, "MAX_BODY": chosen.size + 1_000})
        try:
            service.wait_ready()
            for route, small in ROUTES.items():
                alone = latencies(service, route, small, chosen.seconds / 4)
                with large(service, route, chosen.size, chosen.seconds):
                    time.sleep(0.2)
                    beside = latencies(service, route, small, chosen.seconds)
                for what in ("small text", "/health"):
                    rows.append((route, what, *(f"{1000 * p95(found[what]):.0f} ms, {1000 * max(found[what]):.0f} ms"
                                                for found in (alone, beside))))
                    print(*rows[-1], sep="  ", flush=True)
            reports = len(service.reports())
        finally:
            service.stop()
    body = results.table(("route", "", "alone: p95, most", "beside: p95, most"), rows)
    results.keep(f"Small requests beside a word of {chosen.size / 1e6:g} MB (small_beside_large.py, {chosen.engine})",
                 f"{described}; {chosen.seconds:g} s each, {reports} failure reports,", body)


def latencies(service: Service, route: str, small: dict[str, str], seconds: float) -> dict[str, list[float]]:
    """Return the seconds that each small request took, with a short pause between them."""
    found: dict[str, list[float]] = {"small text": [], "/health": []}
    ends = time.monotonic() + seconds

    def repeat(what: str, path: str, body: dict[str, str] | None) -> None:
        with requests.Session() as session:
            while time.monotonic() < ends:
                began = time.monotonic()
                session.request("POST" if body else "GET", service.url + path, json=body, timeout=300
                                ).raise_for_status()
                found[what].append(time.monotonic() - began)
                time.sleep(_PAUSE)

    threads = [threading.Thread(target=repeat, args=("small text", route, small)),
               threading.Thread(target=repeat, args=("/health", "/health", None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextlib.contextmanager
def large(service: Service, route: str, size: int, seconds: float):  # type: ignore[no-untyped-def]
    """Have a large word served, again and again, for the length of the block."""
    over = threading.Event()
    ends = time.monotonic() + seconds
    body = b'{"input": "' + b"a" * size + b'"}'

    def repeat() -> None:
        while not over.is_set() and time.monotonic() < ends:
            with contextlib.suppress(requests.RequestException):
                requests.post(service.url + route, data=body, headers={"Content-Type": "application/json"},
                              timeout=max(1.0, ends - time.monotonic()))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return sorted(values)[len(values) * 95 // 100]


if __name__ == "__main__":
    main()
