"""How embeddings grow: with 1, 2, 4 ... 64 clients, and in memory over many texts; and one text beside a long call.

    python bench/growth.py [--seconds 4] [--texts 200000] [--requests 20000] [--engines openvino,gpt4all]

Bars: memory is flat (over the last tenth of the texts within 2 % of the second tenth); after 20,000 requests with texts
of all lengths, one to four at a time, the process that embeds has within 10 % of what it had after 2,000; one text
beside a running call of 2,000 texts takes at the 95th percentile at most 5 times as long as alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import load  # noqa: E402
import results  # noqa: E402
from service import Service  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mayfly.settings import available_cores, load_settings  # noqa: E402

PLOTS = Path(__file__).with_name("plots")
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
_SOME = ("keeper lighthouse walked harbour morning ships river garden letter winter candle bread window forest bridge "
         "silver paper island summer mountain")
WORDS = _SOME.split()
# Texts of one call of the memory's measurement.
PER_CALL = 200
# The requests of all lengths: texts of each and words of each text at most, and how often memory is looked at.
MOST_TEXTS, MOST_WORDS, LOOK_AFTER = 4, 256, 100


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    arguments.add_argument("--texts", type=int, default=200_000, help="for the memory; 0 leaves it out")
    arguments.add_argument("--requests", type=int, default=20_000, help="of all lengths, for the memory; 0: none")
    arguments.add_argument("--words", type=int, default=4, help="of a text, for the memory")
    arguments.add_argument("--engines", default="openvino,gpt4all", help="the first one's memory is measured")
    arguments.add_argument("--only-memory", action="store_true", help="no clients, no text beside a long call")
    arguments.add_argument("--threads", type=int, default=available_cores())
    arguments.add_argument("--no-results", action="store_true", help="only print")
    chosen = arguments.parse_args()
    if not chosen.no_results:
        import plots  # what is missing is missed now, and not when everything has been measured
    described = results.machine()
    engines = chosen.engines.split(",")
    rates: dict[str, list[float]] = {}
    p95: dict[str, list[float]] = {}
    fairness = []
    used: list[tuple[int, float]] = []
    varied: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        for engine in engines[:1] if chosen.only_memory else engines:
            service = _start(engine, chosen.threads, Path(name) / engine)
            try:
                if engine == engines[0] and chosen.requests:
                    # First, because what is measured later has its own shapes.
                    varied = _vary(service, chosen.requests)
                if not chosen.only_memory:
                    rates[engine], p95[engine] = _grow(service, engine, chosen.seconds)
                    fairness.append((engine, *_beside(service, chosen.seconds)))
                if engine == engines[0] and chosen.texts:
                    used = _remember(service, chosen.texts, chosen.words)
            finally:
                service.stop()
    memory = "\n\n".join([*([_flat(used)] if used else []), *([_steady(varied)] if varied else [])])
    if chosen.only_memory:
        print(memory)
        return
    rows = [(clients, *(f"{found[engine][at]:.1f}" for engine in engines for found in (rates, p95)))
            for at, clients in enumerate(CLIENTS)]
    body = results.table(("clients", *(f"{engine}: {what}" for engine in engines for what in ("texts/s", "p95 ms"))),
                         rows)
    body += "\n\n" + results.table(("one text", "p95 alone, ms", "p95 beside 2,000 texts, ms", "ratio (bar: 5)"), [
        (engine, f"{1000 * alone:.1f}", f"{1000 * beside:.1f}", f"{beside / alone:.1f}")
        for engine, alone, beside in fairness])
    if memory:
        body += "\n\n" + memory
    if chosen.no_results:
        print(body)
        return
    plots.growth(CLIENTS, rates, p95, PLOTS / "embeddings-growth.png", described)
    if used:
        plots.memory([texts for texts, _ in used], [size for _, size in used], PLOTS / "embeddings-memory.png",
                     described)
    results.keep("How embeddings grow (growth.py)", f"{described}; {chosen.threads} threads, single texts of 12 words,",
                 body)


def _start(engine: str, threads: int, folder: Path) -> Service:
    settings = load_settings()
    service = Service(folder, {"MODEL_PATH": settings.model_path, "EMBED_MODEL": settings.embed_model, "MODEL_NAME": "",
                               "EMBED_ENGINE": engine, "THREADS": threads})
    return service.wait_ready(120)


def _texts(count: int, words: int, seed: int) -> list[str]:
    chance = random.Random(f"{seed} {words}")
    return [f"{' '.join(chance.choices(WORDS, k=words - 1))} {chance.randrange(10_000)}" for _ in range(count)]


def _grow(service: Service, engine: str, seconds: float) -> tuple[list[float], list[float]]:
    rates, p95 = [], []
    for clients in CLIENTS:
        calls = [[text] for text in _texts(8 * clients, 12, clients)]
        found = load.run(service.url, "/embed", calls, clients, seconds)
        rates.append(found.rate)
        p95.append(1000 * found.at(0.95))
        print(f"{engine}, {clients} clients: {found.rate:.1f} texts/s, p95 {p95[-1]:.1f} ms, {found.failed} failed",
              flush=True)
    return rates, p95


def _beside(service: Service, seconds: float) -> tuple[float, float]:
    """Return the 95th percentile of a single text's time, alone and beside calls of 2,000 texts."""
    calls = [[text] for text in _texts(64, 8, 5)]
    alone = load.run(service.url, "/embed", calls, 1, seconds).at(0.95)
    over = threading.Event()

    def long_calls() -> None:
        number = 0
        while not over.is_set():
            number += 1
            load.ask(service.url, "/embed", _texts(2000, 20, 100 + number))

    thread = threading.Thread(target=long_calls)
    thread.start()
    time.sleep(1)
    beside = load.run(service.url, "/embed", calls, 1, seconds).at(0.95)
    over.set()
    thread.join()
    return alone, beside


def _remember(service: Service, texts: int, words: int) -> list[tuple[int, float]]:
    """Embed many texts, all of them different; return (texts so far, MB of all processes)."""
    pids = [service.process.pid, *service.family()]
    used = []
    for number in tqdm(range(0, texts, PER_CALL), unit_scale=PER_CALL, unit="text"):
        load.ask(service.url, "/embed", _texts(PER_CALL, words, number))
        used.append((number + PER_CALL, load.memory_mb(pids)))
    return used


def _vary(service: Service, requests: int) -> list[tuple[int, float]]:
    """Embed texts of all lengths, few words more often than many; return (requests so far, MB of the process that
    embeds)."""
    pid = service.lane("embedding")["pid"]
    chance = random.Random("all lengths")
    found = []
    for number in tqdm(range(1, requests + 1), unit="request"):
        texts = chance.randint(1, MOST_TEXTS)
        lengths = [round(MOST_WORDS ** chance.random()) for _ in range(texts)]
        load.ask(service.url, "/embed", [" ".join(chance.choices(WORDS, k=words)) for words in lengths])
        if number % LOOK_AFTER == 0:
            found.append((number, load.memory_mb([pid])))
    if service.lane("embedding")["pid"] != pid:
        raise RuntimeError("the process that embeds was replaced, and its memory with it")
    return found


def _steady(varied: list[tuple[int, float]]) -> str:
    tenth = max(1, len(varied) // 10)
    (early, before), (last, after) = varied[tenth - 1], varied[-1]
    return (f"Memory of the process that embeds, texts of 1 to {MOST_WORDS} words: {varied[0][1]:.1f} MB after "
            f"{varied[0][0]} requests, {before:.1f} MB after {early}, {after:.1f} MB after {last}: "
            f"{100 * (after / before - 1):+.2f} % (bar: 10 %); {max(size for _, size in varied):.1f} MB at most.")


def _flat(used: list[tuple[int, float]]) -> str:
    tenth = max(1, len(used) // 10)
    second = statistics.mean(size for _, size in used[tenth:2 * tenth])
    last = statistics.mean(size for _, size in used[-tenth:])
    return (f"Memory over {used[-1][0]} texts: {second:.1f} MB in the second tenth, {last:.1f} MB in the last: "
            f"{100 * (last / second - 1):+.2f} % (bar: 2 %).")


if __name__ == "__main__":
    main()
