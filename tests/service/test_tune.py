"""`mayfly tune`: a llama.cpp for this processor is used if it answers as the wheel's does and is faster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import clone
from service import PROJECT, Service, until

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")

from mayfly import tune
from mayfly.engines.llamacpp import library, tuned
from mayfly.errors import ModelUnavailable


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone of its own: what is compiled for the others is theirs."""
    return clone(tmp_path / "clone", "app.py", "watchdog.py", ".env.example")


def begin(project: Path, models: Path, *arguments: object, **environ: object) -> subprocess.Popen[str]:
    settings = {"MODEL_PATH": models, "MODEL_NAME": "tiny-llama.gguf", "EMBED_MODEL": "none", "THREADS": 1, **environ}
    return subprocess.Popen(
        [sys.executable, "-m", "mayfly", "tune", *map(str, arguments)], cwd=project, text=True,
        env={**os.environ, **{name: str(value) for name, value in settings.items()}}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def call(project: Path, models: Path, *arguments: object, **environ: object) -> tuple[int, str]:
    process = begin(project, models, *arguments, **environ)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def kept(project: Path) -> list[Path]:
    """Return what workers would find, for whatever processor."""
    return [path for path in (project / "engine").glob("*/libllama.so") if not path.parent.name.startswith(".")]


def served_by(service: Service) -> str:
    """Return the file of llama.cpp's library that the process for completions has."""
    maps = Path(f"/proc/{service.pid('completion')}/maps").read_text()
    return next(line.split()[-1] for line in maps.splitlines() if "libllama" in line or "xllamacpp" in line)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.settings(EMBED_MODEL="none")
def test_a_running_service_takes_it_up_and_gives_it_back_without_losing_a_call(
        start: Callable[..., Service], project: Path, model_path: Path) -> None:
    service = start(project=project)
    assert served_by(service) == str(library.wheel().resolve())
    right = service.complete("Hello", temperature=0, max_tokens=24)["response"]
    over = threading.Event()
    answers: list[object] = []

    def ask() -> None:
        while not over.is_set():
            answers.append(service.complete("Hello", temperature=0, max_tokens=24)["response"])
            over.wait(0.05)  # what is compared meanwhile needs the processor as well

    client = threading.Thread(target=ask)
    client.start()
    try:
        # Of the wheel's own library all answers are the same, and it isn't faster.
        code, said = call(project, model_path, "--library", library.wheel(), "--gain", 1000)
        assert (code, "not worth it (1000 times in prompts would be); nothing is changed" in said) == (0, True), said
        assert kept(project) == []
        code, said = call(project, model_path, "--library", library.wheel(), "--gain", 0.001)
        assert code == 0 and "the same answers to all 50 prompts. It is used from now on" in said, said
        (file,) = kept(project)
        until(lambda: served_by(service) == str(file), what="the other library in use")
        assert call(project, model_path, "--undo") == (0, "mayfly: the wheel's llama.cpp is used again\n")
        until(lambda: served_by(service) == str(library.wheel().resolve()), what="the wheel's library in use")
    finally:
        over.set()
        client.join()
    assert len(answers) > 4 and set(answers) == {right}
    assert service.lane("completion")["restarts"]["crashed"] == 0
    assert call(project, model_path, "--undo")[1].startswith("mayfly: nothing to take back")


def test_what_is_killed_at_any_moment_changes_nothing_and_leaves_nothing(project: Path, model_path: Path) -> None:
    process = begin(project, model_path, "--library", library.wheel(), "--gain", 0.001)
    assert process.stdout is not None
    assert process.stdout.readline() == "mayfly: comparing it with the wheel's\n"
    # A second one doesn't disturb the first.
    assert call(project, model_path) == (1, "mayfly: another call of tune is at work here\n")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert kept(project) == [] and len(list((project / "engine").glob(".?*/"))) == 1
    call(project, model_path, "--undo")
    assert list((project / "engine").glob(".?*/")) == []


@pytest.mark.parametrize(("environ", "arguments", "reason"), [
    ({"PATH": os.devnull, "CXX": ""}, [], "there is no C++ compiler here: install one"),
    ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": 0, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
      "CXX": "c++", "PIP_CONFIG_FILE": os.devnull}, [], "can't be compiled: ERROR: No matching distribution"),
    ({"LLAMA_LIBRARY": PROJECT}, [], "empty it first"),
    ({}, ["--library", "absent"], "there is no library of llama.cpp in absent"),
    ({}, ["--library", PROJECT / "README.md"], "doesn't work here: llama.cpp's library can't be loaded"),
    ({"MODEL_NAME": "absent.gguf"}, ["--library", "absent"], "absent"),
])
def test_what_is_in_the_way_is_one_sentence(project: Path, model_path: Path, environ: dict[str, object],
                                            arguments: list[object], reason: str) -> None:
    code, said = call(project, model_path, *arguments, **environ)
    assert code == 1 and reason in said and "Traceback" not in said, said
    assert kept(project) == []


def answer(*pieces: str, **likeliest: float) -> dict[str, object]:
    return {"pieces": list(pieces), "alternatives": [likeliest] * len(pieces)}


def test_another_answer_is_refused_unless_two_tokens_were_all_but_equally_likely() -> None:
    assert not tune._differ("", answer("a", "b", a=-1.0), answer("a", "b", a=-1.1))
    assert tune._differ("", answer("a", "b", b=-1.0, c=-1.1), answer("a", "c", b=-1.1, c=-1.0))
    assert tune._differ("", answer("a"), answer("a", "b"))
    for old, new in (({"b": -1.0, "c": -3.0}, {"b": -1.1, "c": -1.0}), ({"b": -1.0}, {"b": -1.1, "c": -1.0})):
        with pytest.raises(ModelUnavailable, match="in another way"):
            tune._differ("x", answer("a", "b", **old), answer("a", "c", **new))


def test_it_is_kept_for_this_processor_and_this_source_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = tuned.folder()
    for name, value in (("SOURCE", "llama-cpp-python==0.0.0"), ("os.uname", lambda: os.uname_result(["other"] * 5))):
        tuned.folder.cache_clear()
        monkeypatch.setattr(f"mayfly.engines.llamacpp.tuned.{name}", value)
        assert tuned.folder() != here
        monkeypatch.undo()
    tuned.folder.cache_clear()
    assert tuned.folder() == here
