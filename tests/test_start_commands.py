"""start.sh's commands: test, pull, doctor, and what it says to wrong ones."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from start_tree import DEMONSTRATION, MODEL, ROOT, Tree

pytest_plugins = ["start_fixtures"]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return str(trial.getsockname()[1])


@pytest.fixture
def equipped(ready_tree: Tree) -> Tree:
    """A ready tree with pytest and the service's own settings."""
    ready_tree.lend_packages()
    for name in ("settings.py", "forms.py", "spelling.py", "errors.py"):
        shutil.copy(ROOT / "mayfly" / name, ready_tree.folder / "mayfly")
    for name in ("keys", "compat", "engines"):
        shutil.copytree(ROOT / "mayfly" / name, ready_tree.folder / "mayfly" / name)
    return ready_tree


@pytest.mark.parametrize("arguments", [
    ["nonsense"], ["-x"], ["pull"], ["pull", "a", "b"], ["doctor", "a"], [""], ["key"], ["key", "add"],
    ["key", "list", "a"], ["key", "show", "a"]])
def test_a_wrong_command_is_answered_with_the_usage_and_exit_code_2(arguments: list[str], fresh_tree: Tree) -> None:
    before = sorted(path.name for path in fresh_tree.folder.iterdir())
    result = fresh_tree.run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("usage: start.sh")
    assert sorted(path.name for path in fresh_tree.folder.iterdir()) == before


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_is_the_usage_and_changes_nothing(argument: str, fresh_tree: Tree) -> None:
    result = fresh_tree.run(argument)
    assert (result.code, result.err) == (0, "")
    assert all(word in result.out for word in ("start.sh test", "start.sh pull NAME", "start.sh doctor"))
    assert not (fresh_tree.folder / ".env").exists()


def test_the_tests_get_their_arguments_and_give_their_exit_code(equipped: Tree) -> None:
    equipped.write("tests/test_one.py", "def test_good():\n    pass\n\ndef test_bad():\n    assert False\n")
    equipped.write("tests/test_two.py", "def test_other():\n    pass\n")
    equipped.write("not_tests/test_three.py", "def test_three():\n    pass\n")
    options = ["test", "-p", "no:cacheprovider", "-q"]
    everything = equipped.run(*options)
    assert everything.code == 1
    assert "1 failed, 2 passed" in everything.out
    assert "1 passed, 2 deselected" in equipped.run(*options, "-k", "good").out
    assert "\n1 passed in" in equipped.run(*options, "tests/test_one.py::test_good").out
    assert equipped.run(*options, "--nonsense").code == 4


def test_the_tests_have_requirements_of_their_own_which_a_start_does_not_need(equipped: Tree) -> None:
    equipped.write("tests/test_one.py", "import tiny_package\n\ndef test():\n    assert tiny_package.VERSION > '2'\n")
    equipped.require("3.0", "requirements-dev.txt")
    assert "installing" not in equipped.run().out
    first = equipped.run("test", "-p", "no:cacheprovider")
    assert first.code == 0
    assert "installing requirements-dev.txt" in first.out
    assert "installing" not in equipped.run("test", "-p", "no:cacheprovider").out
    # Installing the main list anew may undo what the tests asked for.
    equipped.require("2.0")
    assert "installing requirements-dev.txt" in equipped.run("test", "-p", "no:cacheprovider").out


def test_pull_hands_the_name_on_and_needs_no_embedding_model(ready_tree: Tree) -> None:
    (ready_tree.folder / "models" / MODEL).unlink()
    assert ready_tree.run("pull", "some model.gguf") == (0, "models pull some model.gguf\n", "")
    ready_tree.write("no-model", "")
    assert ready_tree.run("pull", "x").code == 1


def marks(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines() if line[:2] in ("ok", "NO")]


def test_doctor_names_what_is_missing_in_a_fresh_tree_and_makes_nothing(fresh_tree: Tree) -> None:
    before = sorted(path.name for path in fresh_tree.folder.iterdir())
    result = fresh_tree.run("doctor", LISTEN_PORT=free_port())
    assert (result.code, result.err) == (1, "")
    assert marks(result.out) == ["ok", "NO", "NO", "NO", "NO", "ok", "ok"]
    assert "there is none yet" in result.out
    assert sorted(path.name for path in fresh_tree.folder.iterdir()) == before


def test_doctor_is_content_with_a_ready_tree(equipped: Tree) -> None:
    port = free_port()
    result = equipped.run("doctor", LISTEN_PORT=port)
    assert (result.code, result.err) == (0, "")
    assert set(marks(result.out)) == {"ok"}
    for what in (platform.python_version(), "packages of requirements.txt", "settings in", MODEL,
                 "every setting has an allowed value", f"{DEMONSTRATION}, a demonstration; set MODEL_NAME",
                 f"127.0.0.1 port {port} is free"):
        assert what in result.out, what


def test_doctor_says_what_is_wrong_with_settings_models_and_packages(equipped: Tree) -> None:
    port = free_port()
    assert "THREADS" in equipped.run("doctor", LISTEN_PORT=port, THREADS="many").out
    result = equipped.run("doctor", LISTEN_PORT=port, MODEL_NAME="some.gguf")
    assert result.code == 1
    assert "start.sh pull some.gguf" in result.out
    assert "not an address and a port" in equipped.run("doctor", LISTEN_PORT="port").out
    equipped.require("2.0")
    assert "not installed as requirements.txt says" in equipped.run("doctor", LISTEN_PORT=port).out


def test_doctor_finds_a_model_in_parts_by_its_name(equipped: Tree) -> None:
    first = equipped.folder / "models" / "large-00001-of-00002.gguf"
    first.touch()
    for name in ("large", "large.gguf", "large-00001-of-00002"):
        assert f"ok  completion model {first}\n" in equipped.run("doctor", LISTEN_PORT=free_port(), MODEL_NAME=name).out


def test_doctor_names_misspelt_settings_and_what_is_there_for_others(equipped: Tree) -> None:
    path = equipped.folder / ".env"
    path.write_text("\ufeffMODELNAME=a\nHF_TOKEN=a\nLISTEN_PORT: 1\n" + path.read_text(encoding="utf-8"),
                    encoding="utf-8")
    result = equipped.run("doctor", LISTEN_PORT=free_port(), listen_ip="0.0.0.0")
    assert (result.code, result.err) == (1, "")
    for line in (f"NO  {path} sets MODELNAME, which is no setting and has no effect: is MODEL_NAME meant?",
                 f"NO  {path}, line 3: this isn't NAME=VALUE and has no effect",
                 "NO  the environment sets listen_ip, which is no setting and has no effect: is LISTEN_IP meant?",
                 f"ok  {path} sets what is no setting and has no effect here: HF_TOKEN"):
        assert line in result.out.splitlines()


def test_doctor_looks_at_both_loopback_addresses(equipped: Tree) -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with taken:
        port = taken.getsockname()[1]
        result = equipped.run("doctor", LISTEN_PORT=str(port))
    assert result.code == 1 and f"NO  ::1 port {port}: " in result.out


def test_doctor_knows_that_a_model_may_be_none_and_where_the_demonstration_model_lies(equipped: Tree) -> None:
    port = free_port()
    for name in ("none", "None"):
        result = equipped.run("doctor", LISTEN_PORT=port, MODEL_NAME=name, EMBED_MODEL=name)
        assert (result.code, set(marks(result.out))) == (0, {"ok"}), result.out
        assert "(MODEL_NAME=none): the service embeds only" in result.out
        assert "(EMBED_MODEL=none): the service completes only" in result.out
    own = equipped.folder / "models" / DEMONSTRATION
    for name in ("", DEMONSTRATION.removesuffix(".gguf")):
        elsewhere = equipped.run("doctor", LISTEN_PORT=port, MODEL_PATH="elsewhere", EMBED_MODEL="none",
                                 MODEL_NAME=name)
        assert elsewhere.code == 0 and f"completion model {own}, a demonstration" in elsewhere.out
    own.unlink()
    missing = equipped.run("doctor", LISTEN_PORT=port)
    assert missing.code == 1
    assert f"git checkout models/{DEMONSTRATION}" in missing.out and "pull" not in missing.out


class Health(BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def taken_port() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


def test_doctor_tells_a_running_mayfly_from_another_program(
    ready_tree: Tree, taken_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (b'{"version": "1", "status": "ok"}', b"<html>", b"[]", b'{"status": "ok"}'):
        monkeypatch.setattr(Health, "answer", answer)
        out = ready_tree.run("doctor", LISTEN_PORT=taken_port).out
        is_mayfly = answer.startswith(b'{"version"')
        assert (f"ok  127.0.0.1 port {taken_port}: a mayfly service is running there" in out) == is_mayfly
        assert ("Set LISTEN_PORT in .env" in out) != is_mayfly


def hand_over_by_waiting(script: str) -> subprocess.CompletedProcess[bytes]:
    """Let start.sh hand over to a Python script as it does on Windows, where a process can't become another."""
    wait = (f"import runpy, sys; runpy.run_path({str(ROOT / 'start.sh')!r})['hand_over']("
            f"[sys.executable, '-c', {script!r}], replace=False)")
    return subprocess.run([sys.executable, "-c", wait], capture_output=True, timeout=60, check=False)


def test_where_a_process_cannot_become_another_the_exit_code_is_passed_on() -> None:
    assert hand_over_by_waiting("import sys; sys.exit(9)").returncode == 9


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_there_control_c_is_left_to_the_service() -> None:
    done = hand_over_by_waiting(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(5))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"  # the console sends it to both
        "os.kill(os.getpid(), signal.SIGINT)\n")
    assert (done.returncode, done.stderr) == (5, b"")


def test_the_key_command_needs_no_set_up_and_keeps_the_key_of_the_first_start(fresh_tree: Tree) -> None:
    for name in ("keys", "compat", "engines"):
        shutil.copytree(ROOT / "mayfly" / name, fresh_tree.folder / "mayfly" / name)
    for name in ("settings.py", "forms.py", "errors.py"):
        shutil.copy(ROOT / "mayfly" / name, fresh_tree.folder / "mayfly")
    result = fresh_tree.run("key", "add", "backend")
    assert (result.code, len(result.out.strip())) == (0, 43), result
    listed = fresh_tree.run("key", "list").out
    assert listed == "(no name)  readable in the file\nbackend  hashed\n"
    assert not (fresh_tree.folder / ".venv").exists()
    assert fresh_tree.run("key", "remove", "nobody").code == 1


def test_flags_reach_the_watchdog_and_the_set_up_makes_the_named_embedding_model_ready(equipped: Tree) -> None:
    equipped.write("models/other.gguf", "")
    equipped.write("no-model", "")  # making the usual one would fail
    (equipped.folder / "models" / MODEL).unlink(missing_ok=True)
    for line in (["--embed-model", "none"], ["--embed-model", "other.gguf"],
                 ["--embed-model=other.gguf", "--port", "7000"]):
        result = equipped.run(*line)
        assert result.code == 7, result
        assert str(line) in result.out
    result = equipped.run("--embed-model", "other.gguf", "--api-keys", "@keys")
    assert re.search(r"\['--embed-model', 'other.gguf', '--api-keys=@/[^']+/keys'\]", result.out), result
