"""Fixtures of all tests: models that tests make themselves, and services started as a user starts them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "tests" / "rigs")]

# Where that is set, as images of containers do, each of a thousand processes would compile the whole program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import clients  # noqa: E402
import scripts  # noqa: E402
import tiny_llama  # noqa: E402
from links import link  # noqa: E402
from service import Service  # noqa: E402

from mayfly.models.defaults import MINILM, SMOLLM2  # noqa: E402
from mayfly.settings import available_cores  # noqa: E402

# Where the tests are that start no service.
QUICK = ("unit", "web")
# What takes longest, and waits meanwhile: at the end of a run all others would be over and wait for it.
FIRST = {"start", "test_under_fire.py"}
# Fixtures of which each test has its own, and which take a second or more.
ALONE = {"start", "fresh_tree", "ready_tree"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only the parts that need no service")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what starts services, where that is asked for."""
    slow = config.getoption("--quick") and collection_path.parent == PROJECT / "tests" and collection_path.is_dir()
    return True if slow and collection_path.name not in (*QUICK, "fidelity", "rigs") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the tests out to the workers: each begins with whole files of those that start services, whose tests share
    some, and ends with small tests, which whoever is done first takes from the others."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    groups: dict[Path, list[pytest.Item]] = {}
    small = []
    for item in items:
        if item.path.parent.name in QUICK:
            small.append(item)
        else:
            # Those of the clients share a service, and packages that take seconds to load.
            together = item.path.parent if item.path.parent.name == "clients" else item.path
            groups.setdefault(together, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    costs = [0] * workers
    for group in sorted(groups.values(), key=_cost, reverse=True):
        least = costs.index(min(costs))
        shares[least] += group
        costs[least] += _cost(group)
    # xdist cuts what is here into pieces of one size, a piece a worker.
    room = len(items) // workers
    for share in shares:
        share.sort(key=lambda item: not {item.path.name, item.path.parent.name} & FIRST)
        taken = max(0, room - len(share))
        share += small[:taken]
        del small[:taken]
    items[:] = [*itertools.chain(*shares), *small]


def _cost(tests: list[pytest.Item]) -> int:
    """Return about what tests cost: most of it are services, or environments, that one of them has alone."""
    return 10 + sum(10 if ALONE.intersection(getattr(test, "fixturenames", ())) else 1 for test in tests)


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark; and let Ctrl-C reach what tests start: a shell ignores it for what it runs in the background, and
    children inherit that."""
    config.addinivalue_line("markers", "settings(**settings): of the services that the fixture `start` starts")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many tests run at once: they wait for processes more than they compute."""
    if any("::" in argument for argument in config.args):
        return 0  # one test, whose output is to be seen
    if config.getoption("--quick"):  # hardly one waits, and each worker takes seconds to collect them
        return min(8, available_cores() + 1)
    return min(8, 2 * available_cores())


@pytest.fixture(scope="session")
def embedding_model() -> Path:
    """The real all-MiniLM-L6-v2, made by the product if it isn't there yet."""
    folder = Path(os.environ.get("MODEL_PATH") or PROJECT / "models")
    path = folder / MINILM.file_name
    if not path.exists():
        subprocess.run([sys.executable, "-m", "mayfly", "ensure"], cwd=PROJECT, check=True)
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, made by the product if it isn't there yet."""
    folder = Path(os.environ.get("MODEL_PATH") or PROJECT / "models")
    path = folder / SMOLLM2.file_name
    if not path.exists():
        subprocess.run([sys.executable, "-m", "mayfly", "pull", path.name], cwd=PROJECT, check=True)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with random weights: a real completion model for real gpt4all."""
    return tiny_llama.make(tmp_path_factory.mktemp("tiny") / "tiny-llama.gguf")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own, with a short name: the path of a socket in it has 100 bytes at most, and pytest's own
    fixture spends 30 of them on the test's name."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def model_path(tmp_path: Path, embedding_model: Path, tiny_model: Path) -> Path:
    """A MODEL_PATH of the test's own with both models in it."""
    folder = tmp_path / "models"
    folder.mkdir()
    for model in (embedding_model, tiny_model):
        link(model, folder / model.name)
    return folder


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path, model_path: Path) -> Iterator[Callable[..., Service]]:
    """Start `watchdog.py` as a user does, with folders of the test's own, both real models, and the settings of the
    marks `settings`; every service is stopped at the end. The next test doesn't wait for that: a stop takes a second
    in which next to nothing is computed."""
    services: list[Service] = []
    usual: dict[str, object] = {"MODEL_PATH": model_path, "MODEL_NAME": "tiny-llama.gguf"}
    for mark in reversed(list(request.node.iter_markers("settings"))):
        usual |= mark.kwargs
    if usual.get("EMBED_MODEL") == scripts.VECTORS:
        scripts.write(model_path, name="vectors", kind="embedding")

    def begin(*, wait: bool = True, folder: str = "service", arguments: Sequence[str] = (), project: Path = PROJECT,
              **settings: object) -> Service:
        service = Service(tmp_path / folder, usual | settings, arguments, project=project)
        services.append(service)
        if wait:
            service.wait_ready()
        return service

    yield begin
    for service in services:
        _stopping.append(threading.Thread(target=service.stop))
        _stopping[-1].start()


_stopping: list[threading.Thread] = []


def pytest_sessionfinish() -> None:
    """Wait for the services that are still stopping."""
    for thread in _stopping:
        thread.join()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Iterator[Service]:
    """A service for other people's clients: real vectors, scripted completions, and a key."""
    folder = tmp_path_factory.mktemp("served")
    link(embedding_model, folder / embedding_model.name)
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "MODEL_NAME": scripts.write(folder, *clients.RULES), "API_KEYS": clients.KEY,
        "CHAT_PROCESSES": 2})
    service.wait_ready()
    yield service
    service.stop()
