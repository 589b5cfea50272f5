"""Who may import whom: imports point down, and foreign packages come in by one door each."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "mayfly"
FILES = sorted(PACKAGE.rglob("*.py"))

# room -> what of this program it may import, besides what is in the room: a package with all that is in it, or one
# module; "" is what mayfly/__init__.py itself has. A module that has a room of its own isn't in its package's.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "compat": set(),
    "flow": set(),
    "tallies": set(),
    "draining": set(),
    "problem": {"errors"},
    "places": {"errors"},
    "flags": {"errors", "places"},
    "listening": {"errors", "compat"},
    "keys": {"errors", "compat"},
    # What the engines are, without any of them: the watchdog and the web process ask it too.
    "engines.backends": set(),
    "forms": {"compat", "keys"},
    "settings": {"compat", "errors", "forms", "places", "engines.backends"},
    "spelling": {"errors", "settings"},
    "doctor": {"compat.process", "errors", "places", "settings", "spelling", "listening", "models.aliases",
               "models.defaults", "models.ensure", "models.inventory", "models.store"},
    "__main__": {"", "compat.process", "errors", "places", "settings", "flags", "keys", "models.ensure", "models.pull",
                 "doctor", "tune", "on_ray.bulk", "watchdog"},
    "tune": {"errors", "places", "settings", "compat", "engines.llamacpp.library", "engines.llamacpp.tuned",
             "models.inventory"},
    # What processes say to one another; nothing that runs.
    "wire": {"compat", "errors", "settings"},
    "wire.sentinel": set(),
    "models": {"errors", "settings", "places", "compat", "engines.backends"},
    "prompts": {"errors", "wire.calls", "models.dialects", "models.call_forms"},
    "engines": {"errors", "places", "compat.memory", "compat.process", "wire.calls", "prompts", "models.call_forms",
                "models.dialects", "models.header", "models.wordpiece"},
    "lanes": {"errors", "tallies", "wire"},
    "workers": {"errors", "compat", "engines", "wire", "models.inventory", "models.parts",
                "prompts.stop_filter", "prompts.answer_reader", "prompts.chat"},
    # `python app.py` alone: workers as threads, called by lanes in the same process.
    "workers.local": {"errors", "settings", "wire", "lanes", "models.inventory", "workers"},
    # For the doctor and for tune: workers that serve nobody.
    "workers.trial": {"errors", "settings", "compat", "engines", "models.inventory"},
    "workers.yardstick": {"errors", "compat", "engines", "prompts.segments", "wire.calls"},
    # Lanes on a Ray cluster, for the web process; a node of one, for the watchdog.
    "on_ray": {"", "errors", "places", "settings", "compat.process", "compat.sockets", "lanes", "wire",
               "supervision.lane_host", "supervision.refusals", "supervision.run_folder"},
    "on_ray.node": {"compat"},
    # `embed-file`, and what computes its texts on a node.
    "on_ray.bulk": {"errors", "settings", "models.inventory", "on_ray"},
    "on_ray.embedder": {"errors", "flow", "wire", "on_ray"},
    "on_ray.files": {"errors", "compat.files"},
    "supervision": {"errors", "places", "settings", "compat", "wire", "engines.backends", "models.inventory",
                    "models.parts"},
    # The server knows nothing of the application, nor the application of the server: app joins them.
    "http": {"settings", "compat", "listening", "flow", "problem", "draining"},
    "web": {"", "flow", "problem", "draining", "errors", "places", "settings", "keys", "listening", "wire.calls",
            "lanes.lane", "tallies", "engines.backends", "lanes.switchboard", "models.aliases", "models.defaults",
            "models.download", "models.hub", "models.inventory", "models.parts", "models.pull", "models.store"},
    # The processes that aren't workers.
    "watchdog": {"", "errors", "compat", "flags", "listening", "places", "settings", "spelling",
                 "models.aliases", "models.store", "supervision", "on_ray.node"},
    "app": {"errors", "compat", "draining", "listening", "settings", "spelling", "wire", "lanes",
            "models.aliases", "workers.local", "on_ray.lanes", "http", "web"},
}
# package -> the only modules that import it
DOORS = {
    "gpt4all": {"engines.gpt4all.library"},
    "openvino": {"engines.openvino"},
    "llguidance": {"engines.llamacpp.forms", "engines.llamacpp.schema_places"},
    "dotenv": {"settings"},
    "jinja2": {"prompts.sandbox"},
    "prometheus_client": {"web.metrics"},
    "gguf": {"models.convert"},
    "huggingface_hub": {"models.hub"},
    "httpx2": {"models.hub"},
    "ray": {"on_ray.data", "on_ray.driver", "on_ray.node", "on_ray.rayservice", "on_ray.replica", "on_ray.roster"},
    "pyarrow": {"on_ray.data"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(source: str) -> set[str]:
    """Return the modules that a source imports, wherever in it. `from package import module` is the module alone."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, f"relative import in line {node.lineno}"
            within = PROJECT / node.module.replace(".", "/")
            found.update(f"{node.module}.{alias.name}" if node.module.split(".")[0] == "mayfly" and (
                (within / f"{alias.name}.py").exists() or (within / alias.name).is_dir()) else node.module
                for alias in node.names)
    return found


def own_imports(source: str) -> set[str]:
    """Return the modules of this program that a source imports, by their names within mayfly."""
    return {name.partition(".")[2] for name in imports(source) if name.split(".")[0] == "mayfly"}


def room_of(module: str) -> str:
    return module if module in ALLOWED else module.split(".")[0]


def is_in(module: str, entry: str) -> bool:
    return module == entry or bool(entry and module.startswith(entry + "."))


def forbidden(module: str, source: str) -> set[str]:
    """Return what a module of this name and source may not import, but does."""
    room = room_of(module)
    return {name for name in own_imports(source)
            if not (room and is_in(name, room)) and not any(is_in(name, entry) for entry in ALLOWED[room])}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    assert forbidden(module_of(path), path.read_text()) == set()


@pytest.mark.parametrize(("module", "source", "found"), [
    ("web.native", "from mayfly import engines", "engines"),
    ("web.native", "from mayfly import workers as others, supervision", "supervision"),
    ("web.native", "from mayfly.engines import load_completions", "engines"),
    ("web.native", "import mayfly.engines", "engines"),
    ("web.native", "import mayfly.workers.template as template", "workers.template"),
    ("web.native", "def view():\n    from mayfly.lanes.client import SocketLane", "lanes.client"),
    ("web.native", "if TYPE_CHECKING:\n    from mayfly.models import header", "models.header"),
    ("web", "from mayfly.lanes import Lane", "lanes"),
    ("web.gate", "from mayfly.http.server import Server", "http.server"),
    ("http.server", "from mayfly.web import gate", "web.gate"),
    ("http.connection", "from mayfly.lanes.calls import LaneCall", "lanes.calls"),
    ("lanes.client", "from mayfly.http import server", "http.server"),
    ("wire.spec", "from mayfly.workers import template", "workers.template"),
    ("lanes.client", "from mayfly import __version__", ""),
    ("workers.serving", "from mayfly.supervision import policy", "supervision.policy"),
    ("supervision.supervisor", "from mayfly.workers import template", "workers.template"),
    ("wire.sentinel", "from mayfly.wire import spec", "wire.spec"),
    ("wire.sentinel", "from mayfly.errors import MayflyError", "errors"),
    ("errors", "import mayfly", ""),
    ("", "from mayfly.settings import Settings", "settings"),
])
def test_a_forbidden_import_is_caught(module: str, source: str, found: str) -> None:
    assert found in forbidden(module, source)


@pytest.mark.parametrize(("module", "source"), [
    ("web.native", "from mayfly import __version__, keys"), ("web.native", "from mayfly.web import bodies, openai"),
    ("workers.serving", "from mayfly import engines"), ("workers.serving", "from mayfly.engines import base"),
    ("supervision.supervisor", "from mayfly.supervision import policy, reports"),
    ("lanes.client", "import json, orjson\nfrom collections.abc import Mapping"),
])
def test_an_import_that_is_allowed_is_not_caught(module: str, source: str) -> None:
    assert forbidden(module, source) == set()


def test_a_relative_import_is_caught() -> None:
    for source in ("from . import base", "from .base import Segment", "from ..lanes import calls"):
        with pytest.raises(AssertionError, match="relative"):
            imports(source)


def test_rooms_import_one_another_in_no_circle() -> None:
    rooms = {room: {room_of(entry) for entry in entries} - {room} for room, entries in ALLOWED.items()}
    assert tuple(graphlib.TopologicalSorter(rooms).static_order())


def test_modules_import_one_another_in_no_circle() -> None:
    """Not even within a room. What is imported for the types alone, or within a function, doesn't count."""
    modules = {module_of(path): ast.parse(path.read_text()) for path in FILES}
    for tree in modules.values():
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    graph = {module: own_imports(ast.unparse(tree)) - {module} for module, tree in modules.items()}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_is_allowed_nothing_that_it_does_not_import(room: str) -> None:
    """What isn't needed any more would allow it again."""
    modules = [path for path in FILES if room_of(module_of(path)) == room]
    assert modules, "there is no such room"
    imported = {name for path in modules for name in own_imports(path.read_text())}
    assert [entry for entry in ALLOWED[room] if not any(is_in(name, entry) for name in imported)] == []


@pytest.mark.parametrize("package", sorted(DOORS))
def test_a_foreign_package_comes_in_by_its_doors_alone_and_by_each_of_them(package: str) -> None:
    importers = {module_of(path) for path in FILES
                 if any(name.split(".")[0] == package for name in imports(path.read_text()))}
    assert importers == DOORS[package]


def test_the_command_line_and_the_watchdog_need_no_package_but_dotenv() -> None:
    """What `mayfly serve` has imported when the watchdog begins is the standard library but for python-dotenv, and its
    command line is understood without any package."""
    import subprocess
    import sys

    code = ("import os, sys; from mayfly import __main__; __main__.parser()\n"
            "assert 'dotenv' not in sys.modules and 'asyncio' not in sys.modules\n"
            "from mayfly import watchdog; watchdog.main = lambda arguments: 0\n"
            "os.environ.update(EMBED_MODEL='none', MODEL_NAME='none', MAYFLY_ENV=os.devnull)\n"
            "__main__.main(['serve', '--port', '0'])\n"
            "names={m.split('.')[0] for m in sys.modules if not m.startswith('_')}-set(sys.stdlib_module_names)\n"
            "print(sorted(names-{'mayfly','dotenv','sitecustomize','usercustomize'}))")
    printed = subprocess.run([sys.executable, "-S", "-c", f"import site; site.main()\n{code}"], cwd=PROJECT,
                             capture_output=True, text=True, check=True).stdout
    loaded = [name for name in ast.literal_eval(printed.strip().splitlines()[-1]) if "distutils" not in name]
    assert loaded == [], loaded
