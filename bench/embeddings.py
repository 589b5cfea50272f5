"""mayfly's embeddings beside what people would use instead: servers over HTTP, and engines against libraries.

    python bench/embeddings.py [--quick] [--minutes 22] [--cache FOLDER] [--only NAME,...] [--threads N] [--compile]

One run, one machine, all contenders in turn for each cell, and that twice: what else the machine does changes within
minutes. Each is warmed up before its turn, because the one before it has used the processor until then. Each runs in an
environment of its own (made in the cache folder, which may be kept between runs). Texts of 8, 40, 120 and 400 words and
a mix; 1, 8 and 32 texts a call; 1, 8 and 32 clients. A cell of more than --most-words words in flight is left out,
because one round of it takes too long. What is longer than the model's window is cut there by everybody but gpt4all in
the naive server. It writes a section of RESULTS.md and bench/plots/*.png, and all figures to a JSON file beside them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import load  # noqa: E402
import results  # noqa: E402
from contenders import (  # noqa: E402
    PEERS,
    Library,
    Mayfly,
    Server,
    Unavailable,
    environment,
    free_port,
    hugging_face_folder,
)

from mayfly.settings import available_cores, load_settings  # noqa: E402

PLOTS = Path(__file__).with_name("plots")
MIX = 0
FAST, PLAIN, NAIVE = "mayfly", "mayfly on gpt4all", "naive Flask"
ENGINE, BARE = "mayfly's engine", "Embed4All"
_COMMON = ("the of and to in a is that for it as was with be by on not he his but at are this have from or had an they "
           "which one you were all her she there would their we him been has when who will no more if out so up said "
           "what its about than into them can only other time new some could these two may first then do any like my "
           "now over such our man me even most made after also well did many must before back through years where much "
           "your way down should because long each just state those people too world still own see work here get")
_WORDS = _COMMON.split()

# Turns of each contender in each cell, and how long each is warmed up (s): mayfly notices in half a second that nobody
# else computes any more.
_ROUNDS, _WARM = 2, 0.6

Cell = tuple[int, int, int]  # words a text, texts a call, clients
Opened = TypeVar("Opened")


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="few cells, a second each: a look, no result")
    arguments.add_argument("--minutes", type=float, default=22.0, help="about how long the measuring takes")
    arguments.add_argument("--cache", type=Path, help="keeps the peers' environments (default: a temporary folder)")
    arguments.add_argument("--only", default="", help="contenders by name, separated by commas")
    arguments.add_argument("--compile", action="store_true", help="also llama-cpp-python, which has to be compiled")
    arguments.add_argument("--threads", type=int, default=available_cores())
    arguments.add_argument("--most-words", type=int, default=32_000)
    arguments.add_argument("--no-results", action="store_true", help="only print")
    chosen = arguments.parse_args()
    drawn = not (chosen.no_results or chosen.quick)
    if drawn:
        import plots  # what is missing is missed now, and not when everything has been measured
    described = results.machine()
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        run = Run(chosen, settings.model_path / settings.embed_model, Path(name), chosen.cache or Path(name))
        run.measure()
    body = report(run)
    figures = {"servers": _plain(run.servers), "libraries": _plain(run.libraries), "facts": run.facts}
    if not drawn:
        print(body)
        return
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / "embeddings.json").write_text(json.dumps(figures) + "\n")
    plots.servers(run.servers, PLOTS / "embeddings-servers.png", FAST, described)
    plots.libraries(run.libraries, PLOTS / "embeddings-libraries.png", ENGINE, described)
    results.keep("Embeddings beside others (embeddings.py)",
                 f"{described}; {chosen.threads} threads, {run.seconds:.1f} s a cell,", body)


class Run:
    """All measurements: {name: {cell: figures}}."""

    def __init__(self, chosen: argparse.Namespace, model: Path, folder: Path, cache: Path) -> None:
        self._chosen = chosen
        self._model = model
        self._folder = folder
        self._cache = cache
        self._only = {name.strip() for name in chosen.only.split(",") if name.strip()}
        words, per_call, clients = ((8, 40), (1, 32), (1, 8)) if chosen.quick else (
            (8, 40, 120, 400, MIX), (1, 8, 32), (1, 8, 32))
        self.cells: list[Cell] = [cell for cell in itertools.product(words, per_call, clients)
                                  if math.prod((cell[0] or 150, *cell[1:])) <= chosen.most_words]
        self.library_cells = sorted({(cell[0], cell[1], 1) for cell in self.cells})
        self.servers: dict[str, dict[Cell, dict[str, float]]] = {}
        self.libraries: dict[str, dict[Cell, dict[str, float]]] = {}
        self.facts: dict[str, str] = {}
        # Answers that are awaited beyond the end, starts and vectors for the cosines take about as long again.
        cells = 5 * len(self.cells) + 4 * len(self.library_cells)
        self.seconds = 1.0 if chosen.quick else max(1.0, (60 * chosen.minutes / cells - _ROUNDS * _WARM) / 2)
        self._probe = [text for length in (8, 40, 120) for text in _texts(length, 6)]
        self._reference: list[list[float]] | None = None

    def measure(self) -> None:
        """Measure the libraries, then the servers."""
        folder = hugging_face_folder(self._cache) if self._needs_others() else Path()
        threads, model = self._chosen.threads, self._model

        def peer(name: str, command: Callable[[str, str], list[str]], path: str) -> Callable[[], Server]:
            def start() -> Server:
                port = free_port()
                log = self._folder / f"{name}.log"
                # llama.cpp's server comes with a package that mayfly has too.
                python = environment(name, self._cache) if (PEERS / f"{name}.txt").exists() else sys.executable
                return Server(command(python, str(port)), path, port, log, threads)

            return start

        libraries: dict[str, tuple[str | None, str]] = {
            ENGINE: (None, "mayfly"), BARE: (None, "gpt4all"),
            "sentence-transformers": ("sentence-transformers", "sentence_transformers"),
            "ONNX Runtime": ("onnxruntime", "onnxruntime")}
        servers: dict[str, Callable[[], Mayfly | Server]] = {
            FAST: lambda: Mayfly("auto", model, self._folder / "fast", threads),
            PLAIN: lambda: Mayfly("gpt4all", model, self._folder / "plain", threads),
            NAIVE: lambda: _naive(model, threads, self._folder),
            "infinity": peer("infinity", lambda python, port: [
                str(Path(python).with_name("infinity_emb")), "v2", "--model-id", str(folder), "--port", port, "--host",
                "127.0.0.1", "--engine", "torch", "--device", "cpu", "--no-bettertransformer"], "/embeddings"),
            "llama.cpp": peer("llama-cpp-server", lambda python, port: [
                python, str(PEERS / "llama_cpp_server.py"), str(model), port, str(threads)], "/v1/embeddings"),
            "llama-cpp-python": peer("llama-cpp-python", lambda python, port: [
                python, "-m", "llama_cpp.server", "--model", str(model), "--embedding", "true", "--host", "127.0.0.1",
                "--port", port, "--n_threads", str(threads), "--n_threads_batch", str(threads)], "/v1/embeddings"),
        }
        if not self._chosen.compile:
            del servers["llama-cpp-python"]
            self.facts["llama-cpp-python"] = "not measured: it comes as source only, half an hour's work (--compile)"

        def library(peer_name: str | None, function: str) -> Library:
            python = environment(peer_name, self._cache) if peer_name else sys.executable
            return Library(python, function, model, folder, threads)

        self._libraries({name: functools.partial(library, *what) for name, what in libraries.items()})
        self._servers(servers)

    def _needs_others(self) -> bool:
        own = {FAST, PLAIN, NAIVE, ENGINE, BARE}
        return not self._only or bool(self._only - own)

    def _opened(self, contenders: Mapping[str, Callable[[], Opened]]) -> dict[str, Opened]:
        opened = {}
        for name, start in contenders.items():
            if self._only and name not in self._only:
                continue
            try:
                print(f"{time.strftime('%H:%M:%S')} {name} starts", flush=True)
                opened[name] = start()
            except Unavailable as exc:
                self.facts[name] = str(exc)
                print(f"{name}: {exc}", flush=True)
        return opened

    def _libraries(self, contenders: Mapping[str, Callable[[], Library]]) -> None:
        opened = self._opened(contenders)
        try:
            cosines = {name: self._compare(library.run(self._probe, 1, 0)["vectors"])
                       for name, library in opened.items()}
            for number, cell in enumerate(self.library_cells):
                texts = _texts(cell[0], 8 * cell[1], seed=number)
                made: dict[str, list[dict[str, Any]]] = {name: [] for name in opened}
                for _ in range(_ROUNDS):
                    for name, library in opened.items():
                        library.run(texts, cell[1], _WARM)
                        made[name].append(library.run(texts, cell[1], self.seconds / _ROUNDS))
                for name, rounds in made.items():
                    figures = _figures(
                        sum(each["texts"] for each in rounds) / sum(each["seconds"] for each in rounds),
                        sorted(itertools.chain.from_iterable(each["times"] for each in rounds)),
                        rounds[-1]["peak_mb"], cosines[name])
                    self.libraries.setdefault(name, {})[cell] = figures
                    _progress(name, number, self.library_cells, figures)
        finally:
            for library in opened.values():
                library.stop()

    def _servers(self, contenders: Mapping[str, Callable[[], Mayfly | Server]]) -> None:
        opened = self._opened(contenders)
        try:
            cosines = {}
            for name, server in opened.items():
                self.facts[name] = server.described
                cosines[name] = self._compare(load.ask(server.url, server.path, self._probe, server.fields))
            for number, cell in enumerate(self.cells):
                words, per_call, clients = cell
                calls = [_texts(words, per_call, seed=1000 * number + at) for at in range(2 * clients)]
                made = {name: load.Measured() for name in opened}
                memory = dict.fromkeys(opened, 0.0)
                for _ in range(_ROUNDS):
                    for name in opened:
                        server = opened[name]
                        load.run(server.url, server.path, calls, min(clients, 2), _WARM, server.fields)
                        with load.Peak(server.pids) as peak:
                            made[name].add(load.run(server.url, server.path, calls, clients, self.seconds / _ROUNDS,
                                                    server.fields))
                        memory[name] = max(memory[name], peak.most)
                        if not made[name].times or made[name].failed:
                            # It may still be at work on what nobody waits for.
                            server.stop()
                            opened[name] = contenders[name]()
                for name, found in made.items():
                    if found.times:
                        self.servers.setdefault(name, {})[cell] = _figures(
                            found.rate, sorted(found.times), memory[name], cosines[name], found.failed)
                    _progress(name, number, self.cells, self.servers.get(name, {}).get(cell))
        finally:
            for server in opened.values():
                server.stop()

    def _compare(self, vectors: Sequence[Sequence[float]]) -> float:
        """Return the least cosine to the vectors of the first contender."""
        import numpy as np

        made = np.array(vectors)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        if self._reference is None:
            self._reference = made.tolist()
        return float(np.sum(made * np.array(self._reference), axis=1).min())


def _naive(model: Path, threads: int, folder: Path) -> Server:
    port = free_port()
    return Server([sys.executable, str(PEERS / "naive_flask.py"), str(model), str(port), str(threads)], "/embed", port,
                  folder / "naive.log", threads)


def _texts(words: int, count: int, seed: int = 0) -> list[str]:
    """Return texts that differ; MIX is of all lengths."""
    chance = random.Random(f"{words} {count} {seed}")
    return [" ".join(chance.choices(_WORDS, k=words or chance.choice((8, 8, 40, 40, 120, 400)))) for _ in range(count)]


def _figures(rate: float, times: Sequence[float], memory: float, cosine: float, failed: int = 0) -> dict[str, float]:
    return {"rate": rate, "p50_ms": 1000 * statistics.median(times), "memory_mb": memory, "cosine": cosine,
            "p95_ms": 1000 * times[min(len(times) - 1, 95 * len(times) // 100)], "calls": len(times), "failed": failed}


def _progress(name: str, number: int, cells: Sequence[Cell], found: dict[str, float] | None) -> None:
    words, per_call, clients = cells[number]
    what = f"{found['rate']:8.1f} texts/s, p95 {found['p95_ms']:.0f} ms" if found else "no answer in time"
    print(f"{time.strftime('%H:%M:%S')} {name:22} {number + 1:3}/{len(cells)}  {words or 'mixed'} words x {per_call}, "
          f"{clients} clients: {what}", flush=True)


def _plain(found: dict[str, dict[Cell, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {"x".join(map(str, cell)): figures for cell, figures in cells.items()}
            for name, cells in found.items()}


def report(run: Run) -> str:
    """Return the tables and the bars."""
    parts = []
    for title, found, own, helpers in (
            ("Servers, texts a second", run.servers, FAST, {PLAIN}),
            ("Libraries in process, texts a second", run.libraries, ENGINE, set())):
        if found:
            parts.append(f"### {title}\n\n" + _table(found, own, helpers))
    parts.append("### Vectors and memory\n\n" + results.table(
        ("", "least cosine to the first", "most memory, MB", "note"),
        [(name, f"{min(cell['cosine'] for cell in cells.values()):.5f}",
          f"{max(cell['memory_mb'] for cell in cells.values()):.0f}", run.facts.get(name, ""))
         for name, cells in {**run.libraries, **run.servers}.items() if cells]
        + [(name, "", "", fact) for name, fact in run.facts.items() if name not in {**run.libraries, **run.servers}]))
    parts.append("### Bars\n\n" + results.table(("what", "bar", "measured"), _bars(run)))
    return "\n\n".join(parts)


def _table(found: dict[str, dict[Cell, dict[str, float]]], own: str, helpers: set[str]) -> str:
    rows = []
    for cell in sorted({cell for cells in found.values() for cell in cells}):
        words, per_call, clients = cell
        others = [cells[cell]["rate"] for name, cells in found.items() if name not in {own, *helpers} and cell in cells]
        mine = found.get(own, {}).get(cell)
        ratio = f"{mine['rate'] / max(others):.2f}" if mine and others else "-"
        rows.append((words or "mix", per_call, clients,
                     *(f"{cells[cell]['rate']:.1f}" if cell in cells else "-" for cells in found.values()), ratio,
                     f"{mine['p50_ms']:.1f} / {mine['p95_ms']:.1f}" if mine else "-"))
    return results.table(("words", "texts", "clients", *found, f"{own} / best other", f"{own} p50 / p95 ms"), rows)


def _bars(run: Run) -> list[tuple[str, str, str]]:
    servers, libraries = run.servers, run.libraries
    rows = []

    def ratios(mine: dict[Cell, dict[str, float]], others: Sequence[dict[Cell, dict[str, float]]]) -> list[float]:
        return [mine[cell]["rate"] / max(other[cell]["rate"] for other in others if cell in other)
                for cell in mine if any(cell in other for other in others)]

    def add(what: str, bar: str, found: Sequence[float], how: Callable[[Sequence[float]], float]) -> None:
        rows.append((what, bar, f"{how(found):.2f}" if found else "not measured"))

    fast = servers.get(FAST, {})
    add("mayfly / best server, every cell", "1.0",
        ratios(fast, [cells for name, cells in servers.items() if name not in (FAST, PLAIN)]), min)
    add("mayfly / naive Flask, the mix (geometric mean)", "5",
        ratios({cell: figures for cell, figures in fast.items() if cell[0] == MIX}, [servers.get(NAIVE, {})]),
        statistics.geometric_mean)
    best = ratios(libraries.get(ENGINE, {}), [cells for name, cells in libraries.items() if name != ENGINE])
    add("engine / best library, every cell", "0.95", best, min)
    add("engine / best library, geometric mean", "1.5", best, statistics.geometric_mean)
    plain, bare = servers.get(PLAIN, {}), libraries.get(BARE, {})
    single = {cell: figures for cell, figures in plain.items() if cell[1] == 1}
    for clients in sorted({cell[2] for cell in single}):
        # A library has one caller, however many clients a server has.
        alone = {(*cell[:2], clients): figures for cell, figures in bare.items()}
        add(f"mayfly on gpt4all / Embed4All, single texts, {clients} client{'s' if clients > 1 else ''}", "0.9",
            ratios({cell: figures for cell, figures in single.items() if cell[2] == clients}, [alone]), min)
    add("mayfly on gpt4all / Embed4All given the list, 32 texts of 40 words", "3",
        ratios({cell: figures for cell, figures in plain.items() if cell == (40, 32, 1)}, [bare]), min)
    return rows


if __name__ == "__main__":
    main()
