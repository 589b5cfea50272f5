"""Compile llama.cpp for the processor of this machine, and use the result where it is faster than the wheel's.

The wheel has to run everywhere, so it uses AVX2 at most. What is compiled here has all that this processor can. It is
kept only if it answers as the wheel does and is faster; workers find it by its place (`engines.llamacpp.tuned`), also
those of a service that runs: they end between two calls, as for a model's new file. Until all is compiled, compared and
measured nothing of it is in that place.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mayfly import places
from mayfly.compat.files import lock_file
from mayfly.compat.process import WINDOWS, print_out
from mayfly.engines.llamacpp import library, tuned
from mayfly.errors import ModelUnavailable
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings, in_environment, load_settings

#: How many times as fast as the wheel's prompts have to be evaluated; and generation must not be slower than this.
GAIN, NO_LOSS = 1.1, 0.95

# The library's own threads never sleep while they wait, as OpenMP's do: sixteen of them on sixteen cores made 0.7
# tokens/s instead of 207 as soon as another program took one core.
_CMAKE = "-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF"
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] ")
_COMPILERS = ("c++", "g++", "clang++")
_NO_COMPILER = ("there is no C++ compiler here: install one (Debian, Ubuntu: 'apt install g++'; Fedora: 'dnf install "
                "gcc-c++'; macOS: 'xcode-select --install') and call this again")

# What both are asked: questions whose answers soon differ if the arithmetic does.
_THINGS = ("a river", "the moon", "an old house", "bread", "music", "a clock", "the sea", "a garden", "winter",
           "a letter")
_FORMS = ("Write a sentence about {}.", "Why do people like {}?", "The history of {} begins",
          "def describe():\n    # {}\n", "Once upon a time there was {},")
PROMPTS = tuple(form.format(thing) for form in _FORMS for thing in _THINGS)
_COMPARED = 24  # tokens of each answer
# Two tokens of which the second is at least so likely beside the first (a difference of logarithms) are told apart by
# the order in which numbers are added.
_NEAR = 0.5
_ROUNDS, _PROMPT_WORDS, _GENERATED = 5, 450, 48


def tune(*, undo: bool, given: Path | None, gain: float | None) -> str:
    """Compile, compare, measure, and keep what is worth it; or forget what was kept.

    Args:
        given: a library that is there already: its file, or its folder.
        gain: how many times as fast as the wheel's prompts have to be evaluated; None is GAIN.

    Returns:
        What came of it, for people.

    Raises:
        ModelUnavailable: it can't be done here; the message says why, and what to do.
    """
    settings = load_settings()
    tuned.root().mkdir(parents=True, exist_ok=True)
    lock = lock_file(tuned.root() / ".lock")
    if lock is None:
        raise ModelUnavailable("another call of tune is at work here")
    for left in tuned.root().glob(".?*/"):  # of a call that was killed
        shutil.rmtree(left, ignore_errors=True)
    with lock, tempfile.TemporaryDirectory(prefix=".", dir=tuned.root()) as name:
        if undo:
            there = tuned.library(tuned.folder()) is not None
            _put(None, Path(name))
            return ("the wheel's llama.cpp is used again" if there
                    else "nothing to take back: the wheel's llama.cpp is used")
        if WINDOWS:
            raise ModelUnavailable("on Windows there is no wheel of llama.cpp to compare with; set LLAMA_LIBRARY to a "
                                   "release of llama.cpp")
        if settings.llama_library:
            raise ModelUnavailable(f"LLAMA_LIBRARY{' in the environment' if in_environment('LLAMA_LIBRARY') else ''} "
                                   f"names {settings.llama_library}, which is used whatever is compiled here; empty it "
                                   "first")
        wheel = library.wheel()
        model = Inventory(settings.model_path, (settings.embed_model, settings.model_name)).require(
            settings.model_name).path
        made = Path(name) / "made"
        made.mkdir()
        if given is not None:
            _copy(given, made)
        else:
            _compile(Path(name), made, places.home() / settings.log_folder_name / "tune.log")
        found = tuned.library(made)
        if found is None:
            raise ModelUnavailable(f"there is no library of llama.cpp in {given or tuned.SOURCE}")
        return _judge(_examine(wheel, found, model, settings), made, Path(name), GAIN if gain is None else gain)


def _judge(found: Mapping[str, Any], made: Path, temporary: Path, gain: float) -> str:
    measured = (f"prompts {found['prompts']:.2f} times and answers {found['answers']:.2f} times as fast as by the "
                "wheel's")
    if found["prompts"] < gain or found["answers"] < min(gain, NO_LOSS):
        return f"{measured}: not worth it ({gain:g} times in prompts would be); nothing is changed"
    _put(made, temporary)
    same = (f"the same answers to all {len(PROMPTS)} prompts" if not found["near"] else
            f"the same answers to {len(PROMPTS) - found['near']} of {len(PROMPTS)} prompts, and in the others the "
            "first difference is between tokens that are all but equally likely")
    return (f"{measured}; {same}. It is used from now on, also by a service that runs; "
            f"'{places.COMMAND} tune --undo' takes it back")


def _put(made: Path | None, temporary: Path) -> None:
    """Put a folder into its place, or nothing."""
    place = tuned.folder()
    with contextlib.suppress(FileNotFoundError):
        place.rename(temporary / "old")
    if made is not None:
        made.rename(place)


# -- compiling --------------------------------------------------------------------------------------------------------


def _copy(given: Path, into: Path) -> None:
    files = ([path for path in given.iterdir() if re.search(r"\.(so|dylib)(\.|$)", path.name)] if given.is_dir()
             else [given] if given.is_file() else [])
    for path in files:
        shutil.copyfile(path, into / (path.name if given.is_dir() else tuned.NAMES[0]))


def _compile(temporary: Path, into: Path, log: Path) -> None:
    if not (in_environment("CXX") or any(map(shutil.which, _COMPILERS))):
        raise ModelUnavailable(_NO_COMPILER)
    print_out(f"mayfly: compiling llama.cpp for this processor; it takes a while, and all that is said is in {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-input", "--no-cache-dir",
               "--disable-pip-version-check", "--wheel-dir", str(temporary), tuned.SOURCE]
    environ = {**os.environ, "CMAKE_ARGS": _CMAKE, "TMPDIR": str(temporary)}
    with log.open("w", encoding="utf-8", errors="replace") as file:
        pip = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                               start_new_session=True, preexec_fn=functools.partial(os.nice, 10))
        last = ""
        try:
            assert pip.stdout is not None
            for line in pip.stdout:
                file.write(line)
                _show(line)
                last = line.strip() if "ERROR" in line or "error:" in line else last
            pip.wait()
        finally:
            if pip.poll() is None:  # with what it has started
                os.killpg(pip.pid, signal.SIGTERM)
                pip.wait()
    if pip.returncode:
        raise ModelUnavailable(f"{tuned.SOURCE} can't be compiled: {last or f'exit code {pip.returncode}'}; all that "
                               f"was said is in {log}")
    (wheel,) = temporary.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            folder, _, name = entry.rpartition("/")
            if folder == "llama_cpp/lib" and name:
                (into / name).write_bytes(archive.read(entry))


def _show(line: str) -> None:
    """Show how far it is: on a terminal each step, elsewhere each tenth of them."""
    step = _STEP.match(line)
    if step is None:
        return
    done, steps = int(step[1]), int(step[2])
    if sys.stdout.isatty():
        print_out(f"\rmayfly: {done} of {steps} parts compiled", end="\n" if done == steps else "")
    elif done * 10 // steps != (done - 1) * 10 // steps:
        print_out(f"mayfly: {done} of {steps} parts compiled")


# -- comparing --------------------------------------------------------------------------------------------------------


def _examine(wheel: Path, made: Path, model: Path, settings: Settings) -> dict[str, Any]:
    """Compare the answers of two libraries, and measure both in turn.

    Returns:
        `prompts` and `answers`: how many times as fast as the wheel's; `near`: how many answers differ from where two
        tokens were all but equally likely.

    Raises:
        ModelUnavailable: one of them doesn't work, or the answers differ.
    """
    print_out("mayfly: comparing it with the wheel's")
    with _Yardstick(wheel, model, settings.threads) as old, _Yardstick(made, model, settings.threads) as new:
        near = sum(_differ(prompt, old.ask(prompt, _COMPARED), new.ask(prompt, _COMPARED)) for prompt in PROMPTS)
        words = " ".join(f"{thing} and" for thing in _THINGS).split()
        times: dict[str, list[float]] = {"evaluated": [], "generated": []}
        for turn in range(_ROUNDS + 1):
            prompt = " ".join((words[turn:] * _PROMPT_WORDS)[:_PROMPT_WORDS])
            by = [each.ask(prompt, _GENERATED, timed=True) for each in (old, new)]
            if turn:  # the first warms up
                for what, ratios in times.items():
                    ratios.append(by[0][what] / by[1][what])
    return {"prompts": statistics.median(times["evaluated"]), "answers": statistics.median(times["generated"]),
            "near": near}


def _differ(prompt: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether two answers differ.

    Raises:
        ModelUnavailable: they do, and not for the order in which numbers are added.
    """
    for place, (one, other) in enumerate(zip(old["pieces"], new["pieces"], strict=False)):
        if one != other:
            for likeliest in (old["alternatives"][place], new["alternatives"][place]):
                if one not in likeliest or other not in likeliest or abs(likeliest[one] - likeliest[other]) > _NEAR:
                    raise ModelUnavailable(f"it goes on from {prompt!r} in another way than the wheel's does, and not "
                                           "because two tokens were all but equally likely; nothing is changed")
            return True
    return len(old["pieces"]) != len(new["pieces"])


class _Yardstick:
    """A process that completes by one library; see workers.yardstick."""

    def __init__(self, file: Path, model: Path, threads: int) -> None:
        self._file = file
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mayfly.workers.yardstick", str(model), str(threads), str(os.getpid())],
            cwd=places.ABOVE, env={**os.environ, library.LIBRARY: str(file), "MAYFLY_HOME": str(places.home())},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            errors="replace")

    def __enter__(self) -> _Yardstick:
        self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, prompt: str, tokens: int, *, timed: bool = False) -> dict[str, Any]:
        """Return what the library makes of a prompt."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens, "timed": timed}) + "\n")
            self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            reason = (said.strip().splitlines() or [f"its process ends with {self._process.returncode}"])[-1]
            raise ModelUnavailable(f"the library {self._file.name} doesn't work here: {reason}; nothing is changed")
        return dict(json.loads(line))
