"""mayfly's completions beside what people would use instead: servers over HTTP, and the libraries in process.

    python bench/completions.py [--rounds 3] [--models smollm2,gemma,random] [--clients 1,4] [--quick] [--no-results]

One run, one machine, all contenders in turn for each cell, and that several times. Prompts of 32, 512 and 2,000 tokens,
64 tokens generated, by 1 and 4 clients; no two prompts begin alike, so nobody's cache has anything to give. Models:
SmolLM2-135M, Gemma 3 270M, and a llama of TinyLlama's shape (1.1 B) with random weights, the only one of them that
gpt4all loads. The naive server is the one with a watchdog that loads its model anew for each request: it doesn't
stream, so its first token is its last. It writes a section of RESULTS.md and bench/plots/completions.png, and all
figures to a JSON file beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import load  # noqa: E402
import random_llama  # noqa: E402
import real_models  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
from bare import TEMPERATURE, TOP_K, TOP_P  # noqa: E402
from contenders import PEERS, Piped, Server, Words, free_port  # noqa: E402
from service import Service  # noqa: E402

from mayfly.models.defaults import SMOLLM2  # noqa: E402
from mayfly.settings import available_cores, load_settings  # noqa: E402

PLOTS = Path(__file__).with_name("plots")
OWN, OWN_GPT4ALL, SERVER = "mayfly", "mayfly on gpt4all", "llama.cpp's server"
BARE, BARE_GPT4ALL, NAIVE = "llama.cpp, in process", "gpt4all, in process", "naive Flask, reloads"
TOKENS = 64
N_CTX = 2304
Cell = tuple[int, int]  # prompt tokens, clients
Found = dict[str, dict[Cell, dict[str, Any]]]


class Http:
    """A contender that streams, or doesn't, over OpenAI's route."""

    def __init__(self, url: str, pids: Callable[[], Sequence[int]], stop: Callable[[], None]) -> None:
        self.url = url
        self.pids = pids
        self.stop = stop

    def __call__(self, prompt: str) -> dict[str, float]:
        """Return `first`, `last` (seconds) and `tokens`, `prompt_tokens` of one completion."""
        body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P,
                "min_p": 0.0, "stream": True, "stream_options": {"include_usage": True}, "model": "gpt-3.5-turbo"}
        moments, usage = [], {}
        started = time.perf_counter()
        with requests.post(self.url + "/v1/completions", json=body, stream=True, timeout=1800) as answer:
            answer.raise_for_status()
            if not answer.headers["Content-Type"].startswith("text/event-stream"):
                usage = answer.json()["usage"]
                moments = [time.perf_counter() - started]
            else:
                for line in answer.iter_lines(chunk_size=1):
                    if line.startswith(b"data: {"):
                        event = json.loads(line[6:])
                        if any(choice["text"] for choice in event["choices"]):
                            moments.append(time.perf_counter() - started)
                        usage = event.get("usage") or usage
        return {"first": moments[0], "last": moments[-1], "tokens": usage["completion_tokens"],
                "prompt_tokens": usage["prompt_tokens"]}


class Bare(Piped):
    """A process with nothing but a library; see bare.py."""

    def __init__(self, engine: str, model: Path, threads: int) -> None:
        super().__init__([sys.executable, PROJECT / "bench" / "bare.py", engine, model, threads, N_CTX])

    def __call__(self, prompt: str) -> dict[str, float]:
        """Return `first`, `last` (seconds) and `tokens`, `prompt_tokens` of one completion."""
        return self.ask(prompt=prompt, max_tokens=TOKENS)


Contender = Http | Bare


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=3, help="counted rounds of each cell")
    arguments.add_argument("--models", default="smollm2,gemma,random")
    arguments.add_argument("--clients", default="1,4", help="how many at once, in turn")
    arguments.add_argument("--quick", action="store_true", help="one round of the short prompts: a look, no result")
    arguments.add_argument("--threads", type=int, default=available_cores())
    arguments.add_argument("--no-results", action="store_true", help="only print")
    chosen = arguments.parse_args()
    drawn = not (chosen.no_results or chosen.quick)
    if drawn:
        import plots  # what is missing is missed now, and not when everything has been measured
    described = results.machine()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        for kind in chosen.models.split(","):
            title, model = _model(kind, folder)
            found[title] = measure(model, folder / kind, chosen)
    body = report(found)
    if not drawn:
        print(body)
        return
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / "completions.json").write_text(json.dumps(
        {title: {name: [[*cell, figures] for cell, figures in cells.items()] for name, cells in each.items()}
         for title, each in found.items()}) + "\n")
    plots.completions(found, PLOTS / "completions.png", OWN, described)
    results.keep("Completions beside others (completions.py)",
                 f"{described}; {chosen.threads} threads, {TOKENS} tokens generated, {chosen.rounds} rounds,", body)


def _model(kind: str, folder: Path) -> tuple[str, Path]:
    if kind == "smollm2":
        return "SmolLM2 135M", (load_settings().model_path / SMOLLM2.file_name).resolve()
    if kind == "gemma":
        return "Gemma 3 270M", real_models.gemma()
    print("making a random 1.1 B llama ...", flush=True)
    return "1.1 B, random weights", random_llama.write(folder / "random-1.1b.gguf", context=N_CTX)


def measure(model: Path, folder: Path, chosen: argparse.Namespace) -> Found:
    """Measure all contenders with one model."""
    folder.mkdir()
    loadable = model.name.startswith("random")  # by gpt4all
    starts: dict[str, Callable[[], Contender]] = {
        OWN: lambda: _mayfly(model, folder / "own", "llamacpp", chosen.threads),
        SERVER: lambda: _server("llama_cpp_server.py", model, folder, chosen.threads),
        BARE: lambda: Bare("llamacpp", model, chosen.threads)}
    if loadable:
        starts |= {
            OWN_GPT4ALL: lambda: _mayfly(model, folder / "gpt4all", "gpt4all", chosen.threads),
            BARE_GPT4ALL: lambda: Bare("gpt4all", model, chosen.threads),
            NAIVE: lambda: _server("naive_completions.py", model, folder, chosen.threads)}
    contenders: dict[str, Contender] = {}
    found: Found = {name: {} for name in starts}
    with contextlib.ExitStack() as running:
        for name, start in starts.items():
            contenders[name] = start()
            running.callback(contenders[name].stop)
        own = contenders[OWN]
        assert isinstance(own, Http)
        words = Words(own.url)
        for cell in itertools.product((32,) if chosen.quick else (32, 512, 2000), map(int, chosen.clients.split(","))):
            _measure_cell(cell, words, contenders, 1 if chosen.quick else chosen.rounds, found)
    return found


def _measure_cell(cell: Cell, words: Words, contenders: Mapping[str, Contender], rounds: int, found: Found) -> None:
    length, clients = cell
    for name, contender in contenders.items():
        if isinstance(contender, Bare) and clients > 1:
            continue
        found[name][cell] = {"first": [], "rate": [], "prompt": [], "whole": [], "throughput": [], "mb": 0.0}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            figures = found[name].get(cell)
            if figures is None:
                continue
            prompts = [words(length) for _ in range(clients)]
            # To look at the memory of many processes takes a core for a while, so that is done while it warms up.
            looking = load.Peak(contender.pids) if not turn else contextlib.nullcontext()
            with ThreadPoolExecutor(clients) as pool, looking:
                began = time.perf_counter()
                answers = list(pool.map(contender, prompts))
                seconds = time.perf_counter() - began
            if isinstance(looking, load.Peak):
                figures["mb"] = looking.most
                continue
            figures["throughput"].append(sum(answer["tokens"] for answer in answers) / seconds)
            for answer in answers:
                figures["first"].append(answer["first"])
                figures["whole"].append(answer["last"])
                figures["prompt"].append((answer["prompt_tokens"] or length) / answer["first"])
                if answer["last"] > answer["first"]:
                    figures["rate"].append((answer["tokens"] - 1) / (answer["last"] - answer["first"]))
            print(f"{time.strftime('%H:%M:%S')} {length} tokens, {clients} clients, {name}: first token "
                  f"{results.median(figures['first']):.3f} s, {figures['throughput'][-1]:.1f} tokens/s in all",
                  flush=True)


def _mayfly(model: Path, folder: Path, engine: str, threads: int) -> Http:
    service = Service(folder, {"MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "none",
                               "CHAT_ENGINE": engine, "THREADS": threads, "N_CTX": N_CTX, "REQUEST_TIMEOUT": 1800})
    service.wait_ready(300)
    return Http(service.url, lambda: [service.process.pid, *service.family()], service.stop)


def _server(script: str, model: Path, folder: Path, threads: int) -> Http:
    port = free_port()

    def probe(url: str, path: str) -> None:
        # Any answer of the server's own will do: the naive one would load its model for a whole one.
        requests.get(url + path, timeout=10)

    command = [sys.executable, *map(str, (PEERS / script, model, port, threads, N_CTX))]
    server = Server(command, "/v1/completions", port, folder / f"{script}.log", threads, probe=probe)
    return Http(server.url, server.pids, server.stop)


def report(found: Mapping[str, Found]) -> str:
    """Return the tables of all models."""
    parts = []
    for title, each in found.items():
        rows = []
        cells = sorted({cell for figures in each.values() for cell in figures})
        for cell in cells:
            for name, figures in each.items():
                if cell in figures:
                    rows.append((f"{cell[0]} x {cell[1]}", name, *_row(figures[cell])))
        parts.append(f"### {title}\n\n" + results.table(
            ("prompt tokens x clients", "", "first token, s", "prompt tokens/s", "tokens/s of each", "tokens/s in all",
             "p95 of a call, s", "MB"), rows) + "\n\n" + _ratios(each, cells))
    return "\n\n".join(parts)


def _row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    whole = sorted(figures["whole"])
    return (results.spread(figures["first"]), f"{results.median(figures['prompt']):.1f}",
            results.spread(figures["rate"], 1) if figures["rate"] else "-",
            f"{results.median(figures['throughput']):.1f}",
            f"{whole[min(len(whole) - 1, int(0.95 * len(whole)))]:.2f}", f"{figures['mb']:.0f}")


def _ratios(each: Found, cells: Sequence[Cell]) -> str:
    """Return what the bars ask for: one client's rates against the library and against llama.cpp's own server."""
    rows, figures = [], ("prompt", "rate", "throughput")
    for own, other in ((OWN, BARE), (OWN, SERVER), (OWN_GPT4ALL, BARE_GPT4ALL), (OWN_GPT4ALL, NAIVE)):
        for cell in cells:
            if cell[1] == 1 and own in each and other in each:
                rows.append((f"{own} / {other}", cell[0], *(
                    _ratio(each[own][cell][what], each[other][cell][what]) for what in figures)))
    return results.table(
        ("one client, pair by pair", "prompt tokens", "prompt tokens/s", "tokens/s", "whole call"), rows)


def _ratio(own: Sequence[float], other: Sequence[float]) -> str:
    # The naive server doesn't stream, so it has no rate.
    return f"{results.median([a / b for a, b in zip(own, other, strict=True)]):.3f}" if own and other else "-"


if __name__ == "__main__":
    main()
