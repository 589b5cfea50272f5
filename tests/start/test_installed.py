"""mayfly as a package: the wheel of this tree, installed where no clone is, serves from a folder of the user's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from service import PROJECT, Service

from mayfly import __version__
from mayfly.models.defaults import SMOLLM2
from mayfly.settings import names

ELSEWHERE = (".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules", "logs", "run", "*.gguf")


class Installed(NamedTuple):
    """An environment that has the wheel, and sees the packages that these tests run with."""

    wheel: Path
    mayfly: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves files in the tree, and what an earlier one has left is there as a module that is gone since.
    tree = Path(shutil.copytree(PROJECT, folder / "tree", ignore=shutil.ignore_patterns(*ELSEWHERE)))
    shutil.copy(PROJECT / ".env.example", tree)
    (tree / "build" / "lib" / "mayfly").mkdir(parents=True)
    (tree / "build" / "lib" / "mayfly" / "gone.py").touch()
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, *pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, tree],
                   check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    [packages] = (folder / "venv").glob("**/site-packages")
    (packages / "lent.pth").write_text(str(Path(pytest.__file__).parent.parent) + "\n")
    python = programs / Path(sys.executable).name
    subprocess.run([python, *pip, "install", "--no-deps", "--no-index", wheel], check=True)
    return Installed(wheel, programs / "mayfly")


@pytest.fixture
def home(tmp_path: Path, embedding_model: Path, smollm2: Path) -> Path:
    """A home whose models are made already."""
    folder = tmp_path / "home"
    (folder / "models").mkdir(parents=True)
    for model in (embedding_model, smollm2):
        try:
            os.link(model, folder / "models" / model.name)
        except OSError:  # another file system
            shutil.copy(model, folder / "models")
    return folder


def run(installed: Installed, *arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if name not in (*names(), "MAYFLY_ENV", "MAYFLY_HOME")}
    return subprocess.run([installed.mayfly, *arguments], cwd=cwd, env={**clean, **environ}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_the_package_and_what_comes_with_it_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        held = set(wheel.namelist())
        metadata = wheel.read(f"mayfly-{__version__}.dist-info/METADATA").decode()
        example = wheel.read("mayfly/.env.example")
    code = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "mayfly").rglob("*.py")}
    about = {f"mayfly-{__version__}.dist-info/{name}" for name in (
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE", "licenses/NOTICE")}
    assert held == code | about | {"mayfly/py.typed", "mayfly/.env.example"}
    assert example == (PROJECT / ".env.example").read_bytes()
    listed = [line.partition("#")[0].strip() for line in (PROJECT / "requirements.txt").read_text().splitlines()]
    asked = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert asked == [line for line in listed if line] and not any(line.startswith("pytest") for line in asked)


def test_it_serves_from_its_home_whatever_lies_there(installed: Installed, home: Path) -> None:
    for name in ("mayfly.py", "json.py"):  # as a module of the person's own could be called
        (home / name).write_text("raise SystemExit('taken for another module')\n")
    service = Service(home, {"MAYFLY_HOME": ".", "MAYFLY_ENV": None, "RUN_FOLDER_NAME": None, "LOG_FOLDER_NAME": None,
                             "MODEL_NAME": None}, ["serve"], command=[str(installed.mayfly)])
    try:
        service.wait_ready()
        assert service.health()["version"] == __version__
        assert len(service.embed("The cat sat on the mat.")[0]) == 384
        assert service.complete("Hello")["model"] == SMOLLM2.file_name.removesuffix(".gguf")
        assert service.session.get(service.url + "/docs/swagger-ui.css").status_code == 200
        refused = service.post("/v1/completions", {"model": "absent", "prompt": "Hello"}).json()["error"]["message"]
        assert "'mayfly pull " in refused
        port = service.url.rpartition(":")[2]
        examined = run(installed, "doctor", cwd=home.parent, MAYFLY_HOME="home", LISTEN_PORT=port)
        assert (examined.returncode, examined.stderr) == (0, ""), examined.stdout
        for line in (f"ok  settings in {home / '.env'}", f"port {port}: a mayfly service is running there"):
            assert line in examined.stdout
    finally:
        assert service.stop() == 0
    assert {".env", "logs", "models", "run"} < {path.name for path in home.iterdir()}


def test_a_home_is_made_where_none_is_named_and_a_key_lies_there(installed: Installed, tmp_path: Path) -> None:
    user = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    assert "~/.mayfly" in run(installed, "--help", cwd=tmp_path, **user).stdout
    assert list(tmp_path.iterdir()) == []
    added = run(installed, "key", "add", "backend", cwd=tmp_path, **user)
    assert (added.returncode, len(added.stdout.strip())) == (0, 43)
    assert f"made {tmp_path / '.mayfly' / '.env'} with a new API key" in added.stderr
    assert "backend  hashed" in run(installed, "key", "list", cwd=PROJECT, **user).stdout
    examined = run(installed, "doctor", cwd=tmp_path, **user)
    assert f"ok  settings in {tmp_path / '.mayfly' / '.env'}" in examined.stdout
    assert re.search(rf"NO  completion model {SMOLLM2.file_name}: the next start makes it", examined.stdout)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".env", ".mayfly"]
