"""start.sh's commands, and what it says to wrong ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from start_tree import ROOT, Tree

import mayfly

pytest_plugins = ["start_fixtures"]


@pytest.fixture
def equipped(ready_tree: Tree) -> Tree:
    """A ready tree with pytest and the project's settings for it."""
    ready_tree.lend_packages()
    shutil.copy(ROOT / "pyproject.toml", ready_tree.folder)
    ready_tree.require("1.0", "requirements-dev.txt")
    return ready_tree


@pytest.fixture
def real_tree(fresh_tree: Tree) -> Tree:
    """A tree that was never started, with the real command line."""
    fresh_tree.take_the_real_command_line()
    return fresh_tree


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("arguments", [
    ["nonsense"], ["-x"], ["pull"], ["pull", "a", "b"], ["doctor", "a"], [""], ["key"], ["key", "add"],
    ["key", "list", "a"], ["key", "show", "a"], ["--prot", "7000"], ["--port"], ["serve", "7000"],
    ["tune", "--gain", "-1"], ["tune", "--gain", "0"], ["tune", "--gain", "nan"], ["tune", "--gain=-inf"],
    ["tune", "--gain", "inf"], ["tune", "--gain", "much"]])
def test_a_wrong_command_is_answered_with_the_usage_and_exit_code_2(arguments: list[str], real_tree: Tree) -> None:
    before = names(real_tree.folder)
    result = real_tree.run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "usage: start.sh" in result.err and "Traceback" not in result.err
    # What is possible in its place is named.
    meant = {("nonsense",): "doctor", ("key",): "remove", ("--prot", "7000"): "is --port meant?"}
    gain = "allowed: a number above 0, such as 1.1" if arguments[:1] == ["tune"] else ""
    assert meant.get(tuple(arguments), gain) in result.err
    assert names(real_tree.folder) == before


@pytest.fixture(params=["full", "left", "closed"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[tuple[str, int | None]]:
    """Why standard output can't be written, and the descriptor to have in its place; None: it is closed."""
    if request.param == "full" and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    if request.param == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif request.param == "left":
        reader, descriptor = os.pipe()
        os.close(reader)
    else:
        yield request.param, None
        return
    yield request.param, descriptor
    os.close(descriptor)


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"], ["doctor"], ["key", "list"],
                                       ["key", "add", "new"]], ids=" ".join)
def test_output_that_cannot_be_written_is_one_line_or_what_the_pipe_says(
        arguments: list[str], unwritable: tuple[str, int | None], real_tree: Tree) -> None:
    real_tree.write(".env", "API_KEYS=\n")
    why, descriptor = unwritable
    command = real_tree.command(*arguments)
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', *command] if descriptor is None else command,
                          env=real_tree.surroundings(), stdin=subprocess.DEVNULL, stdout=descriptor,
                          stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    if why == "full":
        assert done.returncode == 1
        assert re.fullmatch(r"(start\.sh|mayfly): standard output can't be written: No space left on device\n",
                            done.stderr)
    elif why == "left":
        assert (done.returncode, done.stderr) == (141, "")
    else:  # as if it had been sent nowhere
        assert done.returncode == (1 if arguments == ["doctor"] else 0) and "Traceback" not in done.stderr
    if why != "closed":  # a key that nobody has seen isn't kept
        assert (real_tree.folder / ".env").read_text() == "API_KEYS=\n"


def test_a_wrong_setting_in_the_environment_is_told_before_anything_is_installed(real_tree: Tree) -> None:
    before = names(real_tree.folder)
    result = real_tree.run(THREADS="0", N_CTX="many")
    assert (result.code, result.out) == (2, "")
    assert [line.partition(";")[0] for line in result.err.splitlines()] == [
        "mayfly: THREADS is '0'", "mayfly: N_CTX is 'many'"]
    assert names(real_tree.folder) == before


def test_files_that_embed_file_cannot_use_are_told_before_anything_is_installed(real_tree: Tree) -> None:
    texts, vectors = str(real_tree.write("texts.txt", "a\n")), str(real_tree.write("vectors.npy", ""))
    before = names(real_tree.folder)
    new = str(real_tree.folder / "new.npy")
    for source, output, said in ((vectors[:-4], new, f"{vectors[:-4]} can't be read (No such file or directory)"),
                                 (str(real_tree.folder), new, f"{real_tree.folder} can't be read (Is a directory)"),
                                 (texts, vectors, f"{vectors} is there already"),
                                 (texts, f"{texts}/new.npy", f"{texts}/new.npy can't be written (Not a directory)"),
                                 (texts, f"{new}/new", f"{new}/new can't be written (No such file or directory)")):
        assert real_tree.run("embed-file", source, output) == (1, "", f"mayfly: {said}\n")
    assert names(real_tree.folder) == before


def test_the_version_is_told_before_anything_is_installed(real_tree: Tree) -> None:
    before = names(real_tree.folder)
    result = real_tree.run("--version")
    assert (result.code, result.out, result.err) == (0, f"mayfly {mayfly.__version__}\n", "")
    assert names(real_tree.folder) == before


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_is_the_usage_and_changes_nothing(argument: str, real_tree: Tree) -> None:
    before = names(real_tree.folder)
    result = real_tree.run(argument)
    assert (result.code, result.err) == (0, "")
    assert all(word in result.out for word in ("start.sh test", "start.sh pull NAME", "start.sh doctor"))
    listed = set(re.findall(r"start\.sh ([a-z-]+)", result.out))
    [others] = re.findall(r"[a-z-]+(?:\|[a-z-]+)+", real_tree.run("--foo").err)
    assert set(others.split("|")) == listed | {"serve"}
    for command in others.split("|"):
        result = real_tree.run(command, argument)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"usage: start.sh {command}")
    assert names(real_tree.folder) == before


def test_the_tests_get_their_arguments_and_give_their_exit_code(equipped: Tree) -> None:
    equipped.write("tests/test_one.py", "def test_good():\n    pass\n\ndef test_bad():\n    assert False\n")
    equipped.write("tests/test_two.py", "def test_other():\n    pass\n")
    equipped.write("not_tests/test_three.py", "def test_three():\n    pass\n")
    options = ["test", "-p", "no:cacheprovider", "-q"]
    everything = equipped.run(*options)
    assert everything.code == 1
    assert "1 failed, 2 passed" in everything.out
    chosen = equipped.run(*options, "-k", "good")
    assert chosen.code == 0 and "\n1 passed in" in chosen.out
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


def test_commands_and_options_are_handed_on_as_they_are_to_a_process_where_the_person_is(
        ready_tree: Tree, tmp_path: Path) -> None:
    for line, handed in ((["pull", "some model.gguf"], ["pull", "some model.gguf"]), (["doctor"], ["doctor"]),
                         (["tune", "--undo"], ["tune", "--undo"]), (["ensure"], ["ensure"]),
                         ([], ["serve"]), (["--port", "7000"], ["serve", "--port", "7000"]),
                         (["serve", "--api-keys=@keys"], ["serve", "--api-keys=@keys"]),
                         (["serve", "--help"], ["serve", "--help"])):
        result = ready_tree.run_command(ready_tree.command(*line), cwd=tmp_path)
        assert result == (7, f"mayfly 1.0 {ready_tree.folder / '.venv'} {tmp_path} {handed}\n", ""), line


def test_doctor_says_what_is_missing_before_the_first_start_and_makes_nothing(fresh_tree: Tree) -> None:
    before = names(fresh_tree.folder)
    result = fresh_tree.run("doctor")
    assert result == (1, f"NO  virtual environment {fresh_tree.folder / '.venv'}: there is none yet\n"
                         "The next start mends it.\n", "")
    assert names(fresh_tree.folder) == before


def test_doctor_says_that_other_packages_are_wanted(ready_tree: Tree) -> None:
    ready_tree.require("2.0")
    result = ready_tree.run("doctor")
    assert result.code == 1
    assert result.out.startswith(f"NO  virtual environment {ready_tree.folder / '.venv'}: its packages aren't those of "
                                 "requirements.txt\n")
    assert result.out == ready_tree.run("doctor").out


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


def test_the_key_command_needs_no_set_up_and_keeps_the_key_of_the_first_start(real_tree: Tree) -> None:
    result = real_tree.run("key", "add", "backend")
    assert (result.code, len(result.out.strip())) == (0, 43), result
    assert result.err.startswith(f"mayfly: made {real_tree.folder / '.env'} with a new API key in it\n")
    listed = real_tree.run("key", "list").out
    assert listed == "(no name)  readable in the file\nbackend  hashed\n"
    assert not (real_tree.folder / ".venv").exists()
    assert real_tree.run("key", "remove", "nobody").code == 1


def test_what_the_terminal_s_encoding_has_not_is_written_out(real_tree: Tree) -> None:
    real_tree.write(".env", "API_KEYS=@schl\xfcssel\n")
    assert real_tree.run("key", "list", PYTHONIOENCODING="ascii") == (0, r"those in the file schl\xfcssel" "\n", "")


@pytest.mark.parametrize("settings", [{}, {"MAYFLY_ENV": "mine.env"}], ids=["home", "named"])
def test_a_key_command_that_only_reads_or_is_refused_makes_no_file(settings: dict[str, str], real_tree: Tree) -> None:
    before = names(real_tree.folder), names(real_tree.folder.parent)
    assert real_tree.run("key", "list", **settings) == (0, "no keys\n", "")
    assert real_tree.run("key", "remove", "nobody", **settings) == (
        1, "", "mayfly: there is no key named 'nobody'; the names are: none\n")
    assert (names(real_tree.folder), names(real_tree.folder.parent)) == before


def test_no_env_file_is_made_where_mayfly_env_names_another(real_tree: Tree) -> None:
    assert real_tree.run("key", "add", "backend", MAYFLY_ENV="mine.env").code == 0
    assert "backend" in real_tree.run("key", "list", MAYFLY_ENV="mine.env").out
    assert (real_tree.folder.parent / "mine.env").exists()  # a path from where the person is
    assert not (real_tree.folder / ".env").exists()
