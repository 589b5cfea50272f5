"""start.sh making and mending its virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from start_tree import BASE_PYTHON, Result, Tree, load_start

pytest_plugins = ["start_fixtures"]

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.01)


def one_line(result: Result) -> str:
    """Return the one line with which a start was refused."""
    assert result.code == 1
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("start.sh: ")
    return result.err


def service_line(tree: Tree, version: str = "1.0", cwd: Path | None = None) -> str:
    return f"mayfly {version} {tree.folder / '.venv'} {cwd or tree.folder.parent} ['serve']\n"


def lock_is_free(tree: Tree) -> bool:
    import fcntl

    with (tree.folder / "logs/install.log").open() as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def processes_of(tree: Tree) -> list[str]:
    """Return the command lines of all processes that have something of the tree in theirs."""
    lines = subprocess.run(["ps", "-e", "-ww", "-o", "args"], capture_output=True, check=True, text=True).stdout
    return [line for line in lines.splitlines() if str(tree.folder) in line]


def test_a_first_start_makes_everything_and_a_second_one_nothing(
    first_start: tuple[Tree, Result], ready_tree: Tree
) -> None:
    tree, result = first_start
    assert result.out == (
        f"start.sh: making the virtual environment {tree.folder / '.venv'} with Python "
        f"{version_of(tree)} (there is none yet)\n"
        "start.sh: installing requirements.txt (the first time this takes a minute or two)\n"
        + service_line(tree))
    assert (result.code, result.err) == (7, "")
    before = listing(ready_tree.folder)
    assert ready_tree.run() == (7, service_line(ready_tree), "")
    assert listing(ready_tree.folder) == before
    log = (tree.folder / "logs/install.log").read_text()
    assert "-m pip install" in log and "Successfully installed tiny-package-1.0" in log


@posix
def test_on_a_terminal_one_line_shows_what_pip_does(ready_tree: Tree) -> None:
    import pty

    ready_tree.require("2.0")
    ours, theirs = pty.openpty()
    start = subprocess.Popen(ready_tree.command(), cwd=ready_tree.folder.parent, env=ready_tree.surroundings(),
                             stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert start.wait() == 7
    first, *rest = shown.decode().replace("\r\n", "\n").splitlines(keepends=True)
    assert first.startswith("start.sh: installing requirements.txt")
    assert re.search(r"\rInstalling collected packages: tiny-package +\r +\r", shown.decode())
    assert "".join(rest).endswith("\r" + service_line(ready_tree, "2.0"))


def version_of(tree: Tree) -> str:
    done = subprocess.run([tree.environment_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                          capture_output=True, check=True)
    return done.stdout.decode().strip()


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_changed_requirements_are_installed_and_unchanged_ones_are_not(ready_tree: Tree) -> None:
    ready_tree.require("2.0")
    result = ready_tree.run()
    assert "installing requirements.txt" in result.out
    assert result.out.endswith(service_line(ready_tree, "2.0"))
    assert ready_tree.run().out == service_line(ready_tree, "2.0")


def test_a_failed_installation_is_one_line_after_pip_s_and_is_made_up_for_later(ready_tree: Tree) -> None:
    ready_tree.write("requirements.txt", "./absent-1.0-py3-none-any.whl\n")
    result = ready_tree.run()
    assert result.code == 1
    log = ready_tree.folder / "logs/install.log"
    assert result.err.splitlines()[-1] == (
        f"start.sh: requirements.txt couldn't be installed: pip's reason is above, and in {log}")
    assert "absent-1.0" in log.read_text()
    assert "absent-1.0" in result.err
    assert "Traceback" not in result.err
    # The list that was installed last is wanted again; the attempt in between may have changed some of it.
    ready_tree.require("1.0")
    assert "installing requirements.txt" in ready_tree.run().out


def test_without_network_there_is_one_line(ready_tree: Tree) -> None:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{held.getsockname()[1]}/simple"
        ready_tree.write("requirements.txt", "a-package-that-is-not-there==1.0\n")
        result = ready_tree.run(PIP_NO_INDEX="0", PIP_INDEX_URL=index, PIP_RETRIES="1")
    assert "needs the network once" in one_line(result)
    assert result.out.count("no connection to the package index yet") == 1


SLOW = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)'"


@pytest.mark.parametrize(("lines", "said"), [
    ([SLOW], "needs the network once"),
    ([SLOW, "ERROR: [Errno 28] No space left on device"], "pip's reason is above"),
    ([SLOW, "error: subprocess-exited-with-error"], "pip's reason is above"),
    (["ERROR: No matching distribution found for gpt4all==2.8.2"], "gpt4all has no package for this machine")])
def test_trouble_after_a_slow_connection_is_not_called_a_missing_network(
        lines: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = load_start()
    monkeypatch.setattr(start, "run", lambda command, lock: (1, lines))
    with pytest.raises(SystemExit, match=said):
        start.install(str(tmp_path), "requirements.txt", None)


@posix
def test_a_start_killed_while_making_the_environment_is_made_up_for(fresh_tree: Tree) -> None:
    unfinished = fresh_tree.folder / ".venv/.mayfly-unfinished"
    killed = fresh_tree.start(PYTHONPATH="")  # pip takes its time
    # pip comes last, so the environment is half made: it has a Python already.
    wait_until(lambda: unfinished.exists() and fresh_tree.environment_python.exists())
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert unfinished.exists()
    stray = fresh_tree.write(".venv/left-over", "")
    result = fresh_tree.run()
    assert "an earlier start was interrupted while making it" in result.out
    assert result.out.endswith(service_line(fresh_tree))
    assert not stray.exists()


@posix
def test_two_first_starts_at_once_set_up_once_and_both_go_on(fresh_tree: Tree) -> None:
    starts = [fresh_tree.start() for _ in range(3)]
    outputs = [start.communicate(timeout=300) for start in starts]
    assert [(start.returncode, error) for start, (_, error) in zip(starts, outputs, strict=True)] == [(7, b"")] * 3
    together = b"".join(out for out, _ in outputs).decode()
    assert together.count(service_line(fresh_tree)) == 3
    for once in ("making the virtual", "installing requirements.txt"):
        assert together.count(once) == 1, once
    assert "another start.sh is setting up here; waiting for it" in together


@posix
def test_a_killed_start_s_installer_keeps_the_lock_until_it_ends(ready_tree: Tree) -> None:
    with silent_index() as (index, asked):
        options = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": index, "PIP_RETRIES": "0"}
        ready_tree.write("requirements.txt", "some-package==1.0\n")
        killed = ready_tree.start(**options)
        assert asked.wait(60)
        killed.kill()
        killed.wait(60)
        ready_tree.require("1.0")
        second = ready_tree.start()
        assert second.stdout
        assert second.stdout.readline() == b"start.sh: another start.sh is setting up here; waiting for it\n"
        assert not lock_is_free(ready_tree)
    out, _ = second.communicate(timeout=60)  # the index is gone, so the installer ends
    killed.communicate()
    assert out.decode().endswith(service_line(ready_tree))


@posix
@pytest.mark.parametrize(("number", "code", "said"), [
    (signal.SIGTERM, 143, b""),
    (signal.SIGINT, 130, b"\nstart.sh: interrupted; the next start goes on from here\n")])
def test_an_interrupted_start_takes_its_installer_along(ready_tree: Tree, number: int, code: int, said: bytes) -> None:
    with silent_index() as (index, asked):
        ready_tree.write("requirements.txt", "some-package==1.0\n")
        start = ready_tree.start(PIP_NO_INDEX="0", PIP_INDEX_URL=index)
        assert asked.wait(60)
        start.send_signal(number)
        _, error = start.communicate(timeout=60)
        assert (start.returncode, error) == (code, said)
        assert lock_is_free(ready_tree) and processes_of(ready_tree) == []
    ready_tree.require("1.0")
    assert ready_tree.run().out.endswith(service_line(ready_tree))


@posix
def test_a_start_that_is_interrupted_while_making_the_environment_takes_along_what_that_has_started(
        fresh_tree: Tree) -> None:
    start = fresh_tree.start(PYTHONPATH="")
    wait_until(lambda: any("ensurepip" in line for line in processes_of(fresh_tree)))
    start.terminate()
    assert start.wait(60) == 143
    wait_until(lambda: processes_of(fresh_tree) == [], 5)
    assert fresh_tree.run().out.endswith(service_line(fresh_tree))


class silent_index:
    """A package index that takes connections and never answers; with the event that says it was asked."""

    def __enter__(self) -> tuple[str, threading.Event]:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked = threading.Event()
        self.taken: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/simple", self.asked

    def accept(self) -> None:
        while True:
            try:
                self.taken.append(self.listener.accept()[0])
            except OSError:
                return
            self.asked.set()

    def __exit__(self, *exc_info: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.taken:
            connection.close()


def test_a_folder_that_is_no_environment_is_neither_used_nor_emptied(fresh_tree: Tree) -> None:
    precious = fresh_tree.write("documents/thesis.txt", "years of work")
    for name in ("documents", str(precious.parent), "."):
        line = one_line(fresh_tree.run(VENV_NAME=name))
        assert line == one_line(fresh_tree.run("doctor", VENV_NAME=name))
        assert "which is not a virtual environment" in line
        assert [path.name for path in precious.parent.iterdir()] == ["thesis.txt"]
    line = one_line(fresh_tree.run(VENV_NAME="documents/thesis.txt"))
    assert "VENV_NAME is " in line and "thesis.txt" in line


def claim_version(tree: Tree, version: str) -> None:
    """Let the tree's environment say that another Python made it."""
    configuration = tree.folder / ".venv/pyvenv.cfg"
    configuration.write_text(re.sub(r"(?m)^version = .*$", f"version = {version}", configuration.read_text()))


def lose_python(tree: Tree) -> None:
    tree.environment_python.unlink()
    tree.environment_python.symlink_to("/nowhere/python3")


FAULTS = [
    (lose_python, "its Python is gone"),
    (lambda tree: claim_version(tree, "3.8.1"), "it was made with Python 3.8"),
    (lambda tree: claim_version(tree, "3.99.1"), "its Python was upgraded"),
]


@posix
@pytest.mark.parametrize(("spoil", "fault"), FAULTS)
def test_a_spoilt_environment_that_start_sh_did_not_make_is_left_alone(
    spoil: Callable[[Tree], None], fault: str, ready_tree: Tree
) -> None:
    (ready_tree.folder / ".venv/.mayfly-made").unlink()
    spoil(ready_tree)
    before = listing(ready_tree.folder)
    line = one_line(ready_tree.run())
    assert fault in line
    assert "start.sh didn't make it; remove it or choose another VENV_NAME" in line
    assert listing(ready_tree.folder) == before


@posix
def test_a_spoilt_environment_that_start_sh_made_is_made_anew(ready_tree: Tree) -> None:
    lose_python(ready_tree)
    result = ready_tree.run()
    assert "(its Python is gone)" in result.out
    assert result.out.endswith(service_line(ready_tree))


@posix
def test_a_path_may_have_what_the_locale_s_encoding_has_not(first_start: tuple[Tree, Result], tmp_path: Path) -> None:
    tree = first_start[0].copy(tmp_path / "Kl\xf6n")
    tree.borrow_pip(first_start[0])
    lose_python(tree)
    told = tree.run("doctor", PYTHONIOENCODING="ascii")
    assert (told.code, told.err) == (1, "") and r"Kl\xf6n/.venv: its Python is gone" in told.out
    plain = {"PYTHONUTF8": "0", "LC_ALL": "C"}
    made = tree.run(**plain)
    assert made.out.endswith(service_line(tree)), made
    with (tree.folder / ".venv/pyvenv.cfg").open("a", encoding="utf-8") as file:  # as newer Pythons do
        file.write(f"command = python3 -m venv {tree.folder / '.venv'}\n")
    assert tree.run(**plain) == (7, service_line(tree), "")


def test_an_environment_that_an_earlier_version_made_is_used_and_its_packages_are_looked_at_once(
        ready_tree: Tree) -> None:
    for path in (ready_tree.folder / ".venv").glob(".mayfly-installed-*"):
        path.unlink()
    (ready_tree.folder / ".venv/.mayfly-installed-requirements.txt").write_text("0123 python3.11\n")
    (ready_tree.folder / ".venv/.mayfly-lock").touch()
    first = ready_tree.run()
    assert "making" not in first.out and first.out.endswith(service_line(ready_tree))
    assert ready_tree.run().out == service_line(ready_tree)


def test_an_environment_without_pip_gets_one(ready_tree: Tree) -> None:
    """As uv makes them."""
    for path in (ready_tree.folder / ".venv").rglob("pip*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    ready_tree.require("2.0")
    assert ready_tree.run().out.endswith(service_line(ready_tree, "2.0"))


def test_an_active_environment_is_used_as_it_is(ready_tree: Tree, fresh_tree: Tree) -> None:
    result = fresh_tree.run(python=str(ready_tree.environment_python))
    line = service_line(ready_tree, cwd=fresh_tree.folder.parent)
    assert result.out.endswith(line)
    assert not (fresh_tree.folder / ".venv").exists()
    fresh_tree.require("2.0")
    assert "installing requirements.txt" in fresh_tree.run(python=str(ready_tree.environment_python)).out
    second = fresh_tree.run(python=str(ready_tree.environment_python))
    assert second.out == line.replace("1.0", "2.0")


def test_a_python_that_cannot_make_environments_is_told_what_is_missing(fresh_tree: Tree, tmp_path: Path) -> None:
    # As Debian packages Python without python3-venv: the module is not to be found.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class WithoutEnsurepip(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name == 'ensurepip' else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutEnsurepip\n")
    line = one_line(fresh_tree.run(PYTHONPATH=str(tmp_path)))
    assert "apt install python3-venv" in line
    assert BASE_PYTHON in line


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_that_cannot_be_written_is_one_line(fresh_tree: Tree) -> None:
    fresh_tree.folder.chmod(0o555)
    try:
        assert "Permission denied" in one_line(fresh_tree.run())
    finally:
        fresh_tree.folder.chmod(0o755)
