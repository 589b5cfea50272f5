"""Which Python start.sh runs with, and every way of calling it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from start_tree import BASE_PYTHON, ROOT, Tree

pytest_plugins = ["start_fixtures"]

START = ROOT / "start.sh"
SHELLS = [path for name in ("sh", "dash", "bash", "busybox") if (path := shutil.which(name))]
posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


def old_pythons() -> list[str]:
    """Return the interpreters on this machine that are too old, as far as they are in the usual places."""
    found = {path.resolve() for pattern in ("python2.?", "python3.?") for path in Path("/usr/bin").glob(pattern)}
    found |= {path.resolve() for path in Path.home().glob(".pyenv/versions/*/bin/python")}
    test = ["-c", "import sys; sys.exit(sys.version_info[:2] >= (3, 10))"]
    return sorted(str(path) for path in found if subprocess.run([path, *test], capture_output=True).returncode == 0)


@pytest.mark.parametrize("python", old_pythons() or [pytest.param("", marks=pytest.mark.skip("no old Python here"))])
def test_an_old_python_is_told_what_to_do_in_one_line(python: str, tmp_path: Path) -> None:
    done = subprocess.run([python, str(START)], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True)
    version = subprocess.run([python, "-c", "import sys; sys.stdout.write(sys.version.split()[0])"],
                             capture_output=True).stdout.decode()
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"start.sh: mayfly needs Python 3.10 or newer; this is {version} at {python}. "
        "Install Python 3.10 or newer, then run: python3.12 start.sh\n")


def pretending(version: str, tmp_path: Path) -> str:
    """Run start.sh with this Python, which takes itself for an old one; return its one line."""
    script = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({str(START)!r})"
    done = subprocess.run([sys.executable, "-c", script], env={"PATH": str(tmp_path)}, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


@posix
def test_a_newer_python_on_the_path_is_named_if_it_runs(tmp_path: Path) -> None:
    old = "(3, 8, 18, 'final', 0)"
    assert "this is 3.8.18 at" in pretending(old, tmp_path)
    assert "Install" in pretending(old, tmp_path)
    broken = tmp_path / "python3.13"  # as a version switcher leaves behind for a version that isn't chosen
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert "Install" in pretending(old, tmp_path)
    (tmp_path / "python3.11").symlink_to(BASE_PYTHON)
    assert pretending(old, tmp_path).endswith("Run: python3.11 start.sh\n")


def test_old_pythons_can_read_the_file() -> None:
    """The parts of the language that came after 2.7 (annotations, f-strings, ...) don't occur."""
    source = START.read_bytes()
    source.decode("ascii")
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.YieldFrom, ast.Match)
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}"
        assert not isinstance(node, newer), where
        if isinstance(node, ast.arguments):
            assert not node.kwonlyargs + node.posonlyargs, where
        if isinstance(node, ast.arg):
            assert node.annotation is None, where
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None, where
        if isinstance(node, ast.Raise):
            assert node.cause is None, where
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            assert not any(isinstance(item, ast.Starred) for item in node.elts), where
        if isinstance(node, ast.Call):  # 2.7 knows one *list, and named arguments alone after it
            starred = [isinstance(item, ast.Starred) for item in node.args]
            assert sum(starred) <= 1, where
            assert starred == sorted(starred), where


@posix
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["python3", "python"])
def test_sh_finds_python(shell: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(BASE_PYTHON)
    command = [shell, *(["sh"] if shell.endswith("busybox") else []), str(START), "--help"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: start.sh")


@posix
@pytest.mark.parametrize("shell", SHELLS)
def test_without_any_python_sh_says_so_in_one_line(shell: str, tmp_path: Path) -> None:
    command = [shell, *(["sh"] if shell.endswith("busybox") else []), str(START)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == ("start.sh: mayfly needs Python 3.10 or newer, and no python3 was found. "
                                    "Install it and run start.sh again.\n")


@posix
def test_every_way_of_calling_it_works_from_any_folder(ready_tree: Tree, tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python3").symlink_to(BASE_PYTHON)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "mayfly").symlink_to(ready_tree.folder / "start.sh")
    path = os.pathsep.join([str(bin_folder), os.defpath])
    start = str(ready_tree.folder / "start.sh")
    for folder, command in [
        (ready_tree.folder, ["python3", "start.sh"]), (elsewhere, [BASE_PYTHON, start]),
        (ready_tree.folder, ["sh", "start.sh"]), (elsewhere, ["sh", start]),
        (ready_tree.folder, ["./start.sh"]), (elsewhere, [start]), (elsewhere, ["./mayfly"]),
        (elsewhere, ["sh", os.path.relpath(start, elsewhere)]),
    ]:
        result = ready_tree.run_command([*command, "--one", "two three"], cwd=folder, PATH=path)
        environment = ready_tree.folder / ".venv"
        assert result == (7, f"mayfly 1.0 {environment} {folder} ['serve', '--one', 'two three']\n", ""), command


def test_the_file_has_its_run_bit_and_unix_lines_and_start_bat_has_windows_lines() -> None:
    assert START.stat().st_mode & 0o111 == 0o111 or os.name == "nt"
    assert b"\r" not in START.read_bytes()
    lines = (ROOT / "start.bat").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(line.endswith(b"\r") for line in lines)


@pytest.mark.skipif(os.name != "nt", reason="needs Windows")
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["nonsense"], 2)])
def test_start_bat_passes_arguments_and_the_exit_code(arguments: list[str], code: int, tmp_path: Path) -> None:
    assert subprocess.run([str(ROOT / "start.bat"), *arguments], cwd=tmp_path).returncode == code
