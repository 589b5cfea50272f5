"""Who may import whom: imports point down, and foreign packages come in by one door each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
FILES = sorted((PROJECT / "mayfly").rglob("*.py"))

# room -> what of this program it may import (its own room always)
ALLOWED = {
    "settings": {"errors", "compat", "keys"},
    "keys": {"errors", "compat", "settings"},
    "errors": set(),
    "flags": {"errors"},
    "spelling": {"errors", "settings"},
    "listening": {"errors", "compat"},
    "compat": set(),
    "supervision.sentinel": set(),
    "lanes": {"errors", "compat"},
    "models": {"errors", "settings", "compat"},
    "engines": {"errors", "lanes.calls", "models.architectures", "models.dialects", "models.header",
                "models.wordpiece"},
    "workers": {"errors", "settings", "compat", "engines", "lanes", "models.inventory", "supervision.sentinel"},
    # The contract with workers (what they are told, how they exit, the threads they share), but nothing that runs.
    "supervision": {"errors", "settings", "compat", "lanes.board", "lanes.calls", "models.inventory", "workers.spec",
                    "workers.exits", "workers.budget"},
    "web": {"", "errors", "settings", "keys", "compat", "listening", "lanes.calls", "lanes.switchboard",
            "models.inventory", "models.nano", "models.pull", "supervision.sentinel"},
    "": set(),
}
# package -> the only modules that import it
DOORS = {
    "gpt4all": {"engines.gpt4all"},
    "openvino": {"engines.openvino"},
    "dotenv": {"settings"},
    "jinja2": {"engines.template"},
    "gguf": {"models.convert", "models.minilm", "models.header"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PROJECT / "mayfly").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module.split(".")[0] == "mayfly":
                found.update(f"{node.module}.{alias.name}" for alias in node.names
                             if (PROJECT / node.module.replace(".", "/") / f"{alias.name}.py").exists())
    return found


def room_of(module: str) -> str:
    return module if module in ALLOWED else module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    module = module_of(path)
    room = room_of(module)
    packages = {"keys", "lanes", "models", "supervision", "workers", "web", "engines"}
    for name in imports(path):
        if name.split(".")[0] != "mayfly":
            continue
        target = name.removeprefix("mayfly").removeprefix(".")
        if target.split(".")[0] == module.split(".")[0] or target in packages or target == "":
            continue
        allowed = ALLOWED[room]
        assert any(target == entry or (entry and target.startswith(entry + ".")) for entry in allowed), (
            f"{module} imports {name}")


@pytest.mark.parametrize("package", sorted(DOORS))
def test_a_foreign_package_comes_in_by_one_door(package: str) -> None:
    importers = {module_of(path) for path in FILES if any(name.split(".")[0] == package for name in imports(path))}
    assert importers <= DOORS[package]


def test_the_watchdog_needs_no_package_but_dotenv() -> None:
    """What the watchdog imports, and what that imports, is the standard library but for python-dotenv."""
    import subprocess
    import sys

    code = ("import sys; sys.argv=['watchdog.py']; import watchdog\n"
            "names={m.split('.')[0] for m in sys.modules if not m.startswith('_')}-set(sys.stdlib_module_names)\n"
            "print(sorted(names-{'watchdog','mayfly','dotenv','sitecustomize','usercustomize'}))")
    printed = subprocess.run([sys.executable, "-S", "-c", f"import site; site.main()\n{code}"], cwd=PROJECT,
                             capture_output=True, text=True, check=True).stdout
    loaded = [name for name in ast.literal_eval(printed.strip().splitlines()[-1]) if "distutils" not in name]
    assert loaded == [], loaded
