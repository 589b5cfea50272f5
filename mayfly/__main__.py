"""mayfly's command line: the command `mayfly` where it is installed, and what start.sh becomes in a clone.

    python -m mayfly serve [--OPTION ...]    run the service
    python -m mayfly ensure                  make the configured models ready, if they aren't
    python -m mayfly pull NAME               download a model into MODEL_PATH: of gpt4all's list, or hf:OWNER/REPO/FILE
    python -m mayfly key add|remove NAME     make a key for callers from elsewhere, or take it back; `key list`
    python -m mayfly embed-file IN OUT       write the vectors of a file's texts, by replicas on a Ray cluster
    python -m mayfly tune                    compile llama.cpp for this processor; use it if it is faster
    python -m mayfly doctor                  tell what is in place and what is missing; changes nothing

Exit code 0: done. 1: not done; one line on stderr says why. 2: used wrongly. 130, 143: interrupted, terminated. That of
`serve` is the watchdog's, once there is one.

What is imported at the top needs no package: `key` works without any, and start.sh has the command line looked at
before it installs them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # called by the folder's path: in it are modules that have names of the standard library's
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from mayfly import __version__, flags, keys, places, settings
from mayfly.compat.process import open_standard_streams, print_out
from mayfly.errors import ModelUnavailable, SettingError
from mayfly.keys import env_file, ring

_FOLDER = os.path.dirname(os.path.realpath(__file__))
# Signals within so many seconds are one stop; a process that was told to stop is told again after so many.
_SAME_STOP = 2.0
_TELL_AGAIN = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    open_standard_streams()
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        if settings.env_file() != places.home() / ".env":  # a path from where the person is
            os.environ["MAYFLY_ENV"] = str(settings.env_file().absolute())
        chosen = _understood(arguments)
        return chosen.run(chosen, arguments[1:]) or 0
    except (ModelUnavailable, SettingError) as exc:
        for line in str(exc).splitlines():
            print(f"mayfly: {line}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: what it gives has the command's function as `run`."""
    made = flags.Parser(prog=places.PROGRAM, allow_abbrev=False,
                        description="Local embeddings and completions behind one HTTP port.",
                        epilog="Settings are in .env, in the folder that MAYFLY_HOME names, else in ~/.mayfly; in a "
                               "clone they are in the clone.")
    made.add_argument("--version", action="version", version=f"mayfly {__version__}")
    its_own = "test|" if places.PROGRAM == "start.sh" else ""
    commands = made.add_subparsers(required=True, metavar=its_own + "serve|ensure|pull|key|embed-file|tune|doctor")
    for name, run, what in (("serve", _serve, "run the service"),
                            ("ensure", _ensure, "make the models ready, if they aren't")):
        flags.add_to(commands.add_parser(name, help=what, allow_abbrev=False)).set_defaults(run=run)
    pull = commands.add_parser("pull", help="download a model into MODEL_PATH",
                                description="Download a model into MODEL_PATH: one of gpt4all's list, or one of the "
                                            "Hugging Face Hub: hf:OWNER/REPO/FILE.gguf, hf:OWNER/REPO:QUANTIZATION, "
                                            "hf:OWNER/REPO (Q4_K_M).")
    pull.add_argument("name", metavar="NAME")
    pull.set_defaults(run=_pull)
    key = commands.add_parser("key", help="make, name and take back keys for callers from elsewhere")
    key.set_defaults(run=_key)
    actions = key.add_subparsers(dest="action", required=True, metavar="add|remove|list")
    for action, what in (("add", "make a key, print it once, and keep its hash in .env"),
                         ("remove", "take a key out of .env")):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME")
    actions.add_parser("list", help="name the keys in .env")
    bulk = commands.add_parser("embed-file", allow_abbrev=False, help="write the vectors of a file's texts",
                               description="Write the vectors of a file's texts, by replicas on a Ray cluster "
                                           "(docs/scale.md). Broken off, the same command goes on where it was.")
    bulk.add_argument("source", metavar="INPUT", type=Path, help='a text a line; .jsonl: a string, or an object with a '
                                                                 '"text", a line')
    bulk.add_argument("output", metavar="OUTPUT", type=Path, help="for numpy.load: a row of float32 for each line")
    for flag in ("--embed-model", "--address"):
        flags.add_one(bulk, flag)
    bulk.set_defaults(run=_embed_file)
    tune = commands.add_parser("tune", help="compile llama.cpp for this processor, and use it if it is faster")
    tune.add_argument("--undo", action="store_true", help="use the wheel's again")
    tune.add_argument("--library", metavar="PATH", type=Path, help="compare and measure this one instead: libllama's "
                                                                   "file, or its folder")
    tune.add_argument("--gain", metavar="X", type=_gain, help="how many times as fast prompts have to be evaluated")
    tune.set_defaults(run=_tune)
    commands.add_parser("doctor", help="tell what is in place and what is missing").set_defaults(run=_doctor)
    return made


def _gain(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"it is {text!r}; allowed: a number above 0, such as 1.1")


def _understood(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return parser().parse_args(arguments)
    except SystemExit:
        print_out(end="")  # the help, or the version, which argparse leaves in the buffer
        raise


def look_at(arguments: Sequence[str]) -> None:
    """End with a sentence, and the exit code that it would have then, if a command can't be meant so, before start.sh
    installs anything."""
    chosen = _understood(arguments)
    try:
        if chosen.run is _serve:
            settings.refuse_early(flags.read(arguments[1:]))
        elif chosen.run is _embed_file:
            _look_at_files(chosen.source, chosen.output)
    except SettingError as exc:
        for line in str(exc).splitlines():
            print(f"mayfly: {line}", file=sys.stderr)
        raise SystemExit(2 if chosen.run is _serve else 1) from None


def _look_at_files(source: Path, output: Path) -> None:
    """Raises:
        SettingError: the one can't be read, or the other one can't be written. What is in them takes packages.
    """
    import tempfile

    try:
        source.open("rb").close()
    except OSError as exc:
        raise SettingError(f"{source} can't be read ({exc.strerror})") from exc
    try:
        if output.exists():
            raise SettingError(f"{output} is there already")
        tempfile.TemporaryFile(dir=output.absolute().parent).close()
    except OSError as exc:
        raise SettingError(f"{output} can't be written ({exc.strerror})") from exc


def _serve(_: argparse.Namespace, arguments: Sequence[str]) -> int:
    _make_env_file()
    with contextlib.suppress(SettingError):  # the watchdog says what is wrong, and more
        _make_ready(arguments)
    from mayfly import watchdog

    return watchdog.main(arguments)


def _make_env_file() -> None:
    if settings.env_file() == places.home() / ".env":
        env_file.make(settings.env_file(), places.ENV_EXAMPLE)


def _make_ready(arguments: Sequence[str]) -> None:
    """Have the models made that aren't there, by a process of its own: what that takes stays out of this one.

    Raises:
        SettingError: the settings can't be read.
        SystemExit: the embedding model can't be made (a service without it isn't what was asked for; without the other
            one it embeds), or this process is to end.
    """
    from mayfly.models.ensure import absent

    found = settings.load_settings(flags=flags.read(arguments))
    if not absent(found):
        return
    made = subprocess.Popen([sys.executable, _FOLDER, "ensure", *arguments], stdin=subprocess.DEVNULL)
    try:
        code = made.wait()
    except BaseException:
        while made.poll() is None:
            made.terminate()  # it takes along what it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                made.wait(_TELL_AGAIN)
        raise
    if code and (code != 1 or "embedding" in absent(found)):
        raise SystemExit(code)


def _ensure(_: argparse.Namespace, arguments: Sequence[str]) -> None:
    from mayfly.models.ensure import ensure

    ensure(settings.load_settings(flags=flags.read(arguments)))


def _pull(chosen: argparse.Namespace, _: Sequence[str]) -> None:
    from mayfly.models import pull

    _make_env_file()
    found = settings.load_settings()
    print_out(str(pull.pull(chosen.name, found)))


def _embed_file(chosen: argparse.Namespace, _: Sequence[str]) -> int:
    given = {"EMBED_MODEL": chosen.embed_model, "RAY_ADDRESS": chosen.address}
    found = settings.load_settings(flags={name: text for name, text in given.items() if text is not None})
    if not found.embed_model:
        raise SettingError("EMBED_MODEL is 'none'; allowed: --embed-model NAME")
    _look_at_files(chosen.source, chosen.output)
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise SettingError("embed-file needs Ray Data, which isn't installed; 'python3 start.sh embed-file' installs "
                           "it, or pip install -r requirements-ray.txt")
    source, output = chosen.source.absolute(), chosen.output.absolute()
    os.chdir(places.home())
    found = dataclasses.replace(found, serve_on="ray", model_name="")
    from mayfly.models.ensure import ensure

    ensure(found)
    from mayfly.on_ray import bulk

    try:
        without = bulk.embed_file(found, source, output)
    except OSError as exc:  # of the vectors' file, or of Ray's start
        raise SettingError(f"{output} isn't finished ({exc.strerror or exc}); the same command goes on from what is "
                           "done") from exc
    if without:
        print(f"mayfly: {without} texts have no vector, but NaN", file=sys.stderr)
    return int(without > 0)


def _key(chosen: argparse.Namespace, _: Sequence[str]) -> None:
    if chosen.action == "add":
        _make_env_file()
    path = settings.env_file()
    advice = "the keys in it are those that count"
    if chosen.action == "list":
        print_out("\n".join(ring.describe(path) or ["no keys"]))
    elif chosen.action == "add":
        key = ring.add(path, chosen.name)
        try:
            print_out(key)  # alone, so that a script can take it
        except SystemExit:  # nobody has seen it
            ring.remove(path, chosen.name)
            raise
        print("This key is shown only now; .env has its hash.", file=sys.stderr)
        where = ring.file_of(settings.in_environment("API_KEYS")) or "API_KEYS there"
        advice = f"this key works once {keys.entry(chosen.name, key)} stands in {where}"
    else:
        ring.remove(path, chosen.name)
    if settings.in_environment("API_KEYS"):
        print(f"The environment sets API_KEYS too, and that wins over .env: {advice}.", file=sys.stderr)
    if chosen.action != "list":
        print("Start the service again to have it know.", file=sys.stderr)


def _doctor(_: argparse.Namespace, __: Sequence[str]) -> int:
    from mayfly import doctor

    return doctor.main()


def _tune(chosen: argparse.Namespace, _: Sequence[str]) -> None:
    from mayfly import tune

    print_out("mayfly: " + tune.tune(undo=chosen.undo, given=chosen.library, gain=chosen.gain))


class _Stop:
    """Handles a signal to end: as an exception, so that temporary files are removed on the way out, and what was
    started is ended.

    That isn't to be broken off by the same stop coming once more, such as from a parent who was told to stop as well. A
    later signal raises again: an exception that happens to come while Python finalises an object is lost.
    """

    def __init__(self) -> None:
        self._since = -math.inf

    def __call__(self, signum: int, frame: object) -> None:
        now = time.monotonic()
        if now - self._since >= _SAME_STOP:
            self._since = now
            raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
