"""What Ray costs: the same service on this machine and on a Ray cluster, in turn, in one run.

    python bench/on_ray.py [--rounds 10] [--seconds 3] [--only latency,throughput,cost,linear,bulk]

Needs requirements-ray.txt. Both services, the cluster's nodes and the clients are on this machine, where the kernel
allows it in a network namespace: no network is measured, and nothing here shows that Ray scales over machines.

    latency      one client, one text of 8 words: the median of the medians of the rounds, and the difference
    throughput   8 clients, 8 texts of 8 words, no two alike: texts/s of a service with two threads, and of two replicas
                 of one each
    cost         8 clients, one text, a scripted model that takes no time: CPU ms a call, by what spends them
    bulk         texts/s of embed-file with two replicas of one thread, and of the bare engine in two processes
    linear       a scripted model that sleeps: completions/s of 16 replicas, beside 16 times those of one; and what
                 the head spends on 1 and on 16 replicas that nobody asks (CPU s a second)
    growth       only if it is asked for: what nodes, replicas and services cost that nobody asks, and what choosing one
                 of 100 replicas takes
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import results  # noqa: E402
import scripts  # noqa: E402
from ray_cluster import RayCluster  # noqa: E402
from service import Service, until  # noqa: E402

from mayfly.models.defaults import MINILM  # noqa: E402
from mayfly.on_ray.files import ROW_TEXTS  # noqa: E402
from mayfly.on_ray.lines import Known, Lines  # noqa: E402
from mayfly.wire.calls import MOST_CALLS_HELD  # noqa: E402

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "rain", "falls", "on", "old"]
REPLICAS = 16
_DIMENSIONS = 384  # of the default model
_ALL = ("latency", "throughput", "cost", "linear", "bulk")
T = TypeVar("T")
Body = Callable[[], dict[str, Any]]
SLEEP = 1.0


def main() -> None:
    """Run what is asked for, print the figures as JSON, and keep those in RESULTS.md if all were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default=",".join(_ALL))
    chosen = parser.parse_args()
    wanted = chosen.only.split(",")
    described = results.machine()
    found: dict[str, Any] = {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory(prefix="mrb-") as temporary:
        folder = Path(temporary)
        if "growth" in wanted:
            print(json.dumps({**_growth(folder), **_choosing()}, indent=1))
            return
        cluster = RayCluster(folder, cores=REPLICAS // 2 + 1)  # Serve's controller is on one of them
        try:
            if {"latency", "throughput"} & set(wanted):
                found |= _real(cluster, folder, chosen, wanted)
            if "cost" in wanted:
                found |= _cost(cluster, folder, chosen.seconds)
            if "bulk" in wanted:
                found |= _bulk(cluster, folder, chosen)
            if "linear" in wanted:
                found |= _linear(cluster, folder, chosen.seconds)
        finally:
            cluster.stop()
    found["load_after"] = os.getloadavg()
    print(json.dumps(found, indent=1))
    if set(wanted) == set(_ALL):
        results.keep("Ray Serve beside the service alone (on_ray.py)", f"{described} and "
                     f"{os.getloadavg()[0]:.1f} after; ray 2.60.0, two simulated nodes, {chosen.rounds} rounds,",
                     _section(found))


def _section(found: dict[str, Any]) -> str:
    shown = results.table(["", "the service alone", "on Ray", "", "bar"], [
        ["one text, ms", *found["latency_ms"].values(), f"+{found['latency_added_ms']} ms", "+5 ms"],
        ["8 clients, 8 texts a call, texts/s: 2 threads, 2 replicas of 1", *found["texts_a_second"].values(),
         f"{found['throughput_ratio']} x", "0.95 x"],
        [f"completions/s, each sleeps {SLEEP:g} s: 1 replica, {REPLICAS}", *found["completions_a_second"].values(),
         f"{found['linear']} x linear", "0.9 x"],
        ["embed-file, texts/s: the bare engine in 2 processes, 2 replicas", *found["bulk_texts_a_second"].values(),
         f"{found['bulk_ratio']} x", "0.95 x"]])
    kinds = list(found["cpu_ms_a_call"])
    spent = results.table(["CPU", *kinds], [
        [f"ms a call, {found['calls_a_second']} calls/s", *found["cpu_ms_a_call"].values()],
        *([f"ms a second, {replicas} replicas that nobody asks", *(round(1000 * each[kind], 1) for kind in kinds)]
          for replicas, each in found["idle_cpu"].items())])
    return f"{shown}\n\n{spent}"


@contextmanager
def _service(cluster: RayCluster, folder: Path, replicas: int, **settings: object) -> Iterator[Service]:
    """Start a service where the cluster is: on it, unless it has no replicas."""
    on_ray = ["--on", "ray", "--address", cluster.address] if replicas else []
    service = Service(folder, {
        **{name: cluster.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")},
        "REPLICAS": max(1, replicas), **settings}, on_ray,
        command=[*cluster.within(), sys.executable, str(PROJECT / "watchdog.py")])
    try:
        service.wait_listening()

        def ready() -> bool:
            lanes = service.health()["lanes"].values()
            return all(lane["state"] == "ready" and lane.get("replicas", {"RUNNING": replicas})["RUNNING"] == replicas
                       for lane in lanes if lane["state"] != "off")

        with cluster.client() as client:
            until(lambda: client.submit(ready).result(), within=240, every=0.3, what=service.output)
        yield service
    finally:
        service.stop()


def _real(cluster: RayCluster, folder: Path, chosen: argparse.Namespace, wanted: list[str]) -> dict[str, Any]:
    models = {"MODEL_PATH": PROJECT / "models", "EMBED_MODEL": MINILM.file_name}
    found: dict[str, Any] = {}
    with _service(cluster, folder / "plain", 0, THREADS=2, **models) as plain, \
            _service(cluster, folder / "ray", 2, **models) as on_ray:
        both = {"plain": plain, "on Ray": on_ray}
        if "latency" in wanted:
            rounds: dict[str, list[float]] = {name: [] for name in both}
            with cluster.client() as client:
                for number in range(chosen.rounds + 1):
                    for name, service in both.items():
                        median = client.submit(_latency, service.url).result()
                        if number:  # the first one warms up
                            rounds[name].append(median)
            found["latency_ms"] = {name: round(statistics.median(each), 2) for name, each in rounds.items()}
            added = [ray - here for here, ray in zip(rounds["plain"], rounds["on Ray"], strict=True)]
            found["latency_added_ms"] = round(statistics.median(added), 2)
        if "throughput" in wanted:
            rates: dict[str, list[float]] = {name: [] for name in both}
            for number in range(max(3, chosen.rounds // 2) + 1):
                for name, service in both.items():
                    rate = 8 * _rate(cluster, service.url, "/embed", lambda: _texts(8), 8, chosen.seconds)
                    if number:
                        rates[name].append(rate)
            found["texts_a_second"] = {name: round(statistics.median(each)) for name, each in rates.items()}
            found["throughput_ratio"] = round(statistics.median(
                ray / here for here, ray in zip(rates["plain"], rates["on Ray"], strict=True)), 3)
    return found


def _linear(cluster: RayCluster, folder: Path, seconds: float) -> dict[str, Any]:
    models = folder / "models"
    models.mkdir(exist_ok=True)
    chat = scripts.write(models, {"when": "", "do": "answer", "pieces": ["x"], "seconds": SLEEP}, name="sleeper")
    rates, idle = {}, {}
    for replicas in (1, REPLICAS):
        with _service(cluster, folder / f"linear{replicas}", replicas, MODEL_PATH=models, EMBED_MODEL="none",
                      MODEL_NAME=chat) as service:
            rates[replicas] = _rate(cluster, service.url, "/gpt4all_api", lambda: {"prompt": "a"}, 2 * replicas,
                                    max(10 * SLEEP, 3 * seconds))
            idle[str(replicas)] = _spent(cluster, lambda: time.sleep(10.0))[0]
    return {"completions_a_second": {str(replicas): round(rate, 3) for replicas, rate in rates.items()},
            "linear": round(rates[REPLICAS] / rates[1] / REPLICAS, 3),
            "idle_cpu": {replicas: {what: round(seconds / 10.0, 4) for what, seconds in each.items()}
                         for replicas, each in idle.items()}}


# Nodes, replicas and services.
_SIZES = ((2, 1, 1), (2, 16, 1), (2, 16, 3), (10, 16, 1), (10, 40, 1))


def _growth(folder: Path) -> dict[str, Any]:
    found = {}
    models = folder / "models"
    models.mkdir()
    vectors = scripts.write(models, name="vectors", kind="embedding")
    for nodes, replicas, services in _SIZES:
        place = folder / f"{nodes}-{replicas}-{services}"
        place.mkdir()
        cluster = RayCluster(place, nodes=nodes, cores=replicas // nodes + 2)
        try:
            with ExitStack() as running:
                for number in range(services):
                    running.enter_context(_service(cluster, place / str(number), replicas, MODEL_PATH=models,
                                                   EMBED_MODEL=vectors, MODEL_NAME="none"))
                spent = _spent(cluster, lambda: time.sleep(15.0))[0]
        finally:
            cluster.stop()
        found[f"{nodes} nodes, {replicas} replicas, {services} services"] = {
            what: round(1000 * seconds / 15.0, 1) for what, seconds in spent.items()}
        print(list(found.items())[-1], os.getloadavg(), file=sys.stderr, flush=True)
    return {"idle_cpu_ms_a_second": found}


def _choosing() -> dict[str, Any]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    lines = Lines(MOST_CALLS_HELD)
    lines.change([Known(str(number), "127.0.0.1", listener.getsockname()[1], "0" * 64, number)
                  for number in range(100)], set())
    found = {}
    for key in ("", "a persona"):
        began = time.process_time()
        for _ in range(1000):
            line = lines.connect(key, in_pieces=False)
            assert line is not None
            line.close()
            listener.accept()[0].close()
        found[f"connecting to one of 100, {'by persona' if key else 'any'}, CPU ms"] = round(
            time.process_time() - began, 3)
    return found


# Computes the texts of a file in batches, with one thread, once it is told to.
_ENGINE = """
import sys, time
from pathlib import Path
from mayfly.engines.choose import load_embeddings
engine = load_embeddings(Path(sys.argv[1]), 1, "model")
texts = Path(sys.argv[2]).read_text().splitlines()
def compute(texts):
    engine.compute([chunk for text in texts for part in engine.plan(text, "mean") if part for chunk in part.chunks])
compute(texts[:64])
print("ready", flush=True)
sys.stdin.readline()
for first in range(0, len(texts), 64):
    compute(texts[first:first + 64])
"""


def _bulk(cluster: RayCluster, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """The rate is that from the first vectors to the last, without the texts that were computed for the first: Ray's
    start takes as long for ten texts as for a million."""
    source, half = folder / "texts.txt", folder / "half.txt"
    texts = [" ".join(random.choices(WORDS, k=8)) + "\n" for _ in range(round(65_000 * chosen.seconds))]
    source.write_text("".join(texts))
    half.write_text("".join(texts[::2]))
    environ = {**cluster.environ, "MODEL_PATH": str(PROJECT / "models"), "REPLICAS": "2", "MAYFLY_HOME": str(folder)}
    rates: dict[str, list[float]] = {"engine": [], "embed-file": []}
    for number in range(max(2, chosen.rounds // 3)):
        engines = [subprocess.Popen([sys.executable, "-c", _ENGINE, str(PROJECT / "models" / MINILM.file_name),
                                     str(half)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)
                   for _ in range(2)]
        for engine in engines:
            assert engine.stdout is not None and engine.stdout.readline() == "ready\n"
        began = time.perf_counter()
        for engine in engines:
            assert engine.stdin is not None
            engine.stdin.write("go\n")
            engine.stdin.flush()
        for engine in engines:
            engine.wait()
        rates["engine"].append(len(texts) / (time.perf_counter() - began))
        made = folder / f"{number}.npy"
        bulk = subprocess.Popen([*cluster.within(), sys.executable, "-m", "mayfly", "embed-file", str(source),
                                 str(made), "--embed-model", MINILM.file_name, "--address", cluster.address],
                                env=environ)
        rates["embed-file"].append(_rate_after_the_first(bulk, made.with_name(f"{made.name}.part"), len(texts)))
    return {"bulk_texts_a_second": {name: round(statistics.median(each)) for name, each in rates.items()},
            "bulk_ratio": round(statistics.median(
                bulk / engine for engine, bulk in zip(rates["engine"], rates["embed-file"], strict=True)), 3)}


def _rate_after_the_first(bulk: subprocess.Popen[bytes], part: Path, count: int) -> float:
    began = ended = 0.0
    while bulk.poll() is None:
        with suppress(FileNotFoundError):
            done = part.stat().st_size / (_DIMENSIONS * 4)
            if done > 1 and not began:
                began = time.perf_counter()
            if done >= count and not ended:
                ended = time.perf_counter()
        time.sleep(0.02)
    assert bulk.returncode == 0
    # When the first vectors are there, a row of each of two replicas is done.
    return (count - 2 * ROW_TEXTS) / (ended - began)


def _cost(cluster: RayCluster, folder: Path, seconds: float) -> dict[str, Any]:
    models = folder / "models"
    models.mkdir(exist_ok=True)
    vectors = scripts.write(models, name="vectors", kind="embedding")
    with _service(cluster, folder / "cost", 2, MODEL_PATH=models, EMBED_MODEL=vectors) as service:
        def work() -> float:
            return _rate(cluster, service.url, "/embed", lambda: _texts(1), 8, 3 * seconds)

        work()
        spent, rate = _spent(cluster, work)
        calls = rate * 3 * seconds
        return {"calls_a_second": round(rate), "cpu_ms_a_call": {
            what: round(1000 * used / calls, 3) for what, used in spent.items()}}


# What a process is, by what its command line holds.
_KINDS = {"mayfly.app": "front", "ray::ServeReplica": "replicas", "mayfly.workers": "workers", "gcs_server": "gcs",
          "ray::ServeController": "controller", "raylet/raylet": "raylets", "watchdog.py": "watchdog", "ray": "other"}


def _spent(cluster: RayCluster, work: Callable[[], T]) -> tuple[dict[str, float], T]:
    """Return the CPU seconds that each kind of process spends while something is done, and what that gives."""
    before = _used(cluster)
    made = work()
    spent = dict.fromkeys(_KINDS.values(), 0.0)
    for pid, (kind, seconds) in _used(cluster).items():
        spent[kind] += seconds - before.get(pid, (kind, 0.0))[1]
    return spent, made


def _used(cluster: RayCluster) -> dict[int, tuple[str, float]]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if not os.path.samestat(os.stat(entry / "ns" / "net"), os.stat(cluster.within()[1].partition("=")[2])):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        kind = next((kind for part, kind in _KINDS.items() if part in command), "")
        if kind and entry.name != str(os.getpid()):
            found[int(entry.name)] = kind, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _texts(count: int) -> dict[str, Any]:
    """Return a call for the vectors of so many texts of 8 words."""
    return {"input": [" ".join(random.choices(WORDS, k=8)) for _ in range(count)]}


def _latency(url: str, calls: int = 30) -> float:
    """Return the median time of calls one after another, in ms."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        _call(connection, "/embed", _texts(1))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _rate(cluster: RayCluster, url: str, path: str, body: Body, clients: int, seconds: float) -> float:
    """Return the calls that so many clients have answered in a second."""
    counts = [0] * clients
    started = threading.Barrier(clients + 1)
    stop = threading.Event()

    def work(number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        _call(connection, path, body())
        started.wait()
        while not stop.is_set():
            _call(connection, path, body())
            counts[number] += not stop.is_set()

    with cluster.client(clients) as pool:
        running = [pool.submit(work, number) for number in range(clients)]
        started.wait()
        began = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        took = time.perf_counter() - began
        for each in running:
            each.result()
    return sum(counts) / took


def _call(connection: http.client.HTTPConnection, path: str, body: Any) -> None:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {said.decode()[:300]}")


if __name__ == "__main__":
    main()
