"""`mayfly doctor`: a line for each thing that a start needs, and nothing is changed."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import scripts
import tiny_llama
from service import PROJECT

from mayfly import doctor, places, settings
from mayfly.models.defaults import MINILM, SMOLLM2

Doctor = Callable[..., tuple[int, list[str]]]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return str(trial.getsockname()[1])


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text("API_KEYS=some-key-of-mine\n", encoding="utf-8")
    return path


@pytest.fixture
def examine_and_try(env: Path, embedding_model: Path, monkeypatch: pytest.MonkeyPatch,
                    capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Call it where everything is in place; `pip check`, which takes a second, is content."""
    monkeypatch.setattr(doctor, "_packages", lambda: (True, "packages"))

    def call(**values: str) -> tuple[int, list[str]]:
        chosen = {"MAYFLY_ENV": str(env), "MODEL_PATH": str(embedding_model.parent), "LISTEN_PORT": free_port(),
                  **values}
        with monkeypatch.context() as patch:
            for name in settings.names():
                patch.delenv(name, raising=False)
            for name, value in chosen.items():
                patch.setenv(name, value)
            code = doctor.main()
        said = capsys.readouterr()
        assert said.err == ""
        return code, said.out.splitlines()

    return call


@pytest.fixture
def examine(examine_and_try: Doctor, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Call it where the models are content too."""
    monkeypatch.setattr(doctor, "_try_out", lambda kind, seconds: {"engine": "an engine", "notes": []})
    return examine_and_try


def test_it_is_content_where_everything_is_in_place(env: Path, embedding_model: Path, smollm2: Path) -> None:
    port = free_port()
    clean = {name: text for name, text in os.environ.items() if name not in settings.names()}
    before = sorted(env.parent.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "mayfly", "doctor"], cwd=PROJECT, capture_output=True, text=True,
        env={**clean, "MAYFLY_ENV": str(env), "MODEL_PATH": str(embedding_model.parent), "LISTEN_PORT": port})
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, {line[:4] for line in lines}) == (0, "", {"ok  "}), done.stdout
    for what in (f"Python {platform.python_version()} at {sys.executable}", "packages that mayfly needs",
                 f"settings in {env}", "every setting has an allowed value",
                 f"embedding model {embedding_model.parent / MINILM.file_name}",
                 f"completion model {smollm2} runs, in about ", "completions by llamacpp: llama.cpp ",
                 " MB are kept besides (PREFIX_MEMORY)", "so set REQUIRE_KEY=always there",
                 "embeddings by openvino ", f"127.0.0.1 port {port} is free"):
        assert what in done.stdout, what
    assert sorted(env.parent.iterdir()) == before


@pytest.mark.parametrize(("how", "model", "message"), [
    ("zeros", "tiny.gguf", "zeros"), ("abort", "played.script.json", "dies (exit code -6): scripted assertion"),
    ("hang", "played.script.json", "it isn't loaded within 3 s (START_SECONDS)")])
def test_it_says_why_a_model_does_not_run(
        examine_and_try: Doctor, tmp_path: Path, how: str, model: str, message: str) -> None:
    if how == "zeros":
        path = tiny_llama.make(tmp_path / model)
        content = path.read_bytes()
        path.write_bytes(content[:-1_500_000] + bytes(1_500_000))
    else:
        scripts.write(tmp_path, load=how)
    code, lines = examine_and_try(MODEL_PATH=str(tmp_path), EMBED_MODEL="none", MODEL_NAME=model,
                                  START_SECONDS="3" if how == "hang" else "60")
    [line] = [line for line in lines if line.startswith("NO")]
    assert code == 1 and f"completion model {tmp_path / model}: " in line and message in line


def test_it_says_what_is_missing(examine: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    code, lines = examine(MODEL_PATH=str(folder), MODEL_NAME="some.gguf")
    assert code == 1
    assert [line[:2] for line in lines[-3:]] == ["NO", "NO", "ok"]
    assert lines[-3] == (f"NO  embedding model {MINILM.file_name}: the next start makes it, of which it fetches "
                         f"{MINILM.megabytes} MB; for that it needs a network, and ends with exit code 1 where it "
                         f"can't. Or put the file into {folder}")
    assert "start.sh pull" in lines[-2] and "'some.gguf'" in lines[-2]
    assert list(folder.iterdir()) == []


def test_it_says_that_there_are_no_settings_yet_and_no_key(examine: Doctor, env: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    env.write_text("")
    assert "ok  every setting has an allowed value (API_KEYS is empty: callers on this machine alone)" in examine()[1]
    monkeypatch.setattr(places, "home", lambda: env.parent / "fresh")
    code, lines = examine(MAYFLY_ENV="")
    assert code == 1 and f"NO  settings: no file {env.parent / 'fresh' / '.env'} yet; the next start makes it" in lines


@pytest.mark.parametrize("name", ["MAYFLY_ENV", ""])
def test_it_says_that_a_folder_is_in_the_place_of_the_settings(
        name: str, examine: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".env").mkdir(parents=True)
    monkeypatch.setattr(places, "home", lambda: home)
    code, lines = examine(MAYFLY_ENV=str(home / ".env") if name else "")
    (line,) = [line for line in lines if str(home / ".env") in line]
    assert code == 1 and line.startswith(f"NO  {name}") and "is a folder" in line


@pytest.mark.parametrize("name", ["LOG_FOLDER_NAME", "RUN_FOLDER_NAME"])
def test_it_says_which_folder_cannot_be_written(examine: Doctor, tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    code, lines = examine(**{name: str(tmp_path / "a file" / "folder")})
    assert code == 1
    assert [line.split()[1] for line in lines if "can't be written" in line] == [f"{name}:"]


def test_it_says_that_the_configured_models_take_more_than_they_may(examine: Doctor) -> None:
    code, lines = examine(MEMORY_LIMIT="1MB")
    assert code == 1 and any(line.startswith("NO  MEMORY_LIMIT is 1 MB, and") for line in lines)
    assert not any("MEMORY_LIMIT" in line for line in examine(MEMORY_LIMIT="64GB")[1])


def test_it_says_which_setting_is_wrong(examine: Doctor) -> None:
    for name, value in (("THREADS", "many"), ("LISTEN_PORT", "port"), ("LISTEN_IP", "nowhere")):
        code, lines = examine(**{name: value})
        assert code == 1
        assert any(line.startswith("NO  ") and name in line and value in line for line in lines), lines


def test_it_says_what_pip_finds_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(
        command, 1, "a 1.0 requires b, which is not installed.\nc 2.0 has requirement d\n"))
    assert doctor._packages() == (
        False, "packages: a 1.0 requires b, which is not installed.; c 2.0 has requirement d")


def test_it_finds_a_model_in_parts_by_its_name_and_names_one_that_is_not_whole(
        examine: Doctor, tmp_path: Path, tiny_model: Path, embedding_model: Path) -> None:
    os.link(embedding_model, tmp_path / embedding_model.name)
    shutil.copy(tiny_model, tmp_path / "tiny.gguf")
    _, lines = examine(MODEL_PATH=str(tmp_path), MODEL_NAME="tiny")
    assert any(line.startswith(f"ok  completion model {tmp_path / 'tiny.gguf'} runs, in about ") for line in lines)
    (tmp_path / "large-00001-of-00002.gguf").write_bytes(tiny_model.read_bytes())
    for name in ("large", "large.gguf", "large-00001-of-00002"):
        code, lines = examine(MODEL_PATH=str(tmp_path), MODEL_NAME=name)
        [line] = [line for line in lines if "completion model" in line]
        assert code == 1 and line.startswith(f"NO  completion model {tmp_path / 'large-00001-of-00002.gguf'}: ")


def test_it_names_misspelt_settings_and_what_is_there_for_others(examine: Doctor, env: Path) -> None:
    env.write_text("\ufeffMODELNAME=a\nWANDB_TOKEN=a\nLISTEN_PORT: 1\n", encoding="utf-8")
    code, lines = examine(listen_ip="0.0.0.0")
    assert code == 1
    for line in (f"NO  {env} sets MODELNAME, which is no setting and has no effect: is MODEL_NAME meant?",
                 f"NO  {env}, line 3: this isn't NAME=VALUE and has no effect",
                 "NO  the environment sets listen_ip, which is no setting and has no effect: is LISTEN_IP meant?",
                 f"ok  {env} sets what is no setting and has no effect here: WANDB_TOKEN"):
        assert line in lines


def test_it_names_aliases_of_models_that_are_not_there(examine: Doctor, embedding_model: Path) -> None:
    there = embedding_model.name
    code, lines = examine(MODEL_ALIASES=f"a=nosuch,b=embedding,c={there},d=e=f,llama3=completion")
    assert (code, [line for line in lines if not line.startswith("ok  ")]) == (1, [
        "NO  MODEL_ALIASES has names for models that aren't in MODEL_PATH, so they can't be used yet: a=nosuch, d=e=f"])
    # Some of the default's are Ollama's names of models.
    code, lines = examine(EMBED_MODEL="none")
    assert (code, [line for line in lines if "MODEL_ALIASES" in line]) == (0, [])


def test_it_names_files_that_are_no_models_for_their_names(examine: Doctor, tmp_path: Path) -> None:
    scripts.write(tmp_path, name="C:here", kind="embedding")
    scripts.write(tmp_path, name=".hidden")
    code, lines = examine(MODEL_PATH=str(tmp_path), EMBED_MODEL="none", MODEL_NAME="none")
    assert code == 1
    assert [line for line in lines if "isn't listed" in line] == [
        "ok  '.hidden.script.json' in MODEL_PATH isn't listed: names that begin with a dot are hidden",
        "NO  'C:here.script.json' in MODEL_PATH isn't listed: its name has characters that can't be sent or shown "
        "everywhere: rename it"]


def test_it_looks_at_both_loopback_addresses(examine: Doctor) -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = taken.getsockname()[1]
    with taken:
        threading.Thread(target=lambda: taken.accept()[0].close(), daemon=True).start()
        code, lines = examine(LISTEN_PORT=str(port))
    assert code == 1 and any(line.startswith(f"NO  ::1 port {port} can't be used") for line in lines)


def test_it_knows_that_a_model_may_be_none_and_how_the_default_one_is_had(examine: Doctor, tmp_path: Path) -> None:
    for name in ("none", "None"):
        code, lines = examine(MODEL_NAME=name, EMBED_MODEL=name)
        assert (code, {line[:2] for line in lines}) == (0, {"ok"}), lines
        assert any("(MODEL_NAME=none): the service embeds only" in line for line in lines)
        assert any("(EMBED_MODEL=none): the service completes only" in line for line in lines)
    code, lines = examine(MODEL_PATH=str(tmp_path), EMBED_MODEL="none", MODEL_NAME="")
    [line] = [line for line in lines if line.startswith("NO")]
    assert code == 1 and f"{SMOLLM2.file_name}: the next start makes it" in line and "and embeds only where" in line
    code, lines = examine(MODEL_PATH=str(tmp_path), EMBED_MODEL="theirs.gguf", MODEL_NAME="none")
    [line] = [line for line in lines if line.startswith("NO")]
    assert code == 1 and "makes it, if gpt4all's list (MODEL_LIST) has it; for that it needs a network" in line


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


def test_it_tells_a_running_mayfly_from_another_program(
        examine: Doctor, taken_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (b'{"version": "1", "status": "ok"}', b"<html>", b"[]", b"5", b'{"status": "ok"}'):
        monkeypatch.setattr(Health, "answer", answer)
        out = "\n".join(examine(LISTEN_PORT=taken_port)[1])
        is_mayfly = answer.startswith(b'{"version"')
        assert (f"ok  127.0.0.1 port {taken_port}: a mayfly service is running there" in out) == is_mayfly
        assert ("set LISTEN_PORT in .env to another port" in out) != is_mayfly
