"""What the tests of other people's clients share: scripted answers, and when a client can't be had here."""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import scripts
from service import Service

KEY = "a-key-for-the-clients"
GREETING = "你好😀"
COUNTED = "one two three four"

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'

RULES: list[dict[str, Any]] = [
    {"when": "count", "pieces": ["one ", "two ", "three ", "four"]},
    # A model with byte tokens sends one byte of a character at a time.
    {"when": "greet", "pieces": ["base64:" + base64.b64encode(bytes([byte])).decode() for byte in GREETING.encode()],
     "seconds": scripts.APART},
    {"when": "slow", "pieces": ["a", "b", "c", "d"], "seconds": 0.15},
    # A tool is called, and what it has answered is told.
    {"when": "Snow", "pieces": ["It ", "snows."]},
    {"when": "weather", "pieces": list(CALL)},
    {"when": "crash", "do": "crash", "pieces": ["a", "b", "c"], "after": 2, "seconds": scripts.APART},
]


def ended(stream: str) -> bool:
    """Tell whether a stream of server-sent events has come to its good end."""
    last = stream.removesuffix("\n\n").rpartition("data: ")[2]
    return last == "[DONE]" or json.loads(last)["type"] in {"response.completed", "response.incomplete", "message_stop"}


def unavailable(reason: str) -> NoReturn:
    """Skip the test, because its client can't be had on this machine; where all are wanted that is a failure."""
    if os.environ.get("MAYFLY_ALL_CLIENTS"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def package(name: str) -> Any:
    """Return a package of requirements-dev.txt."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        unavailable(f"{exc.name} isn't installed (requirements-dev.txt)")


@contextlib.contextmanager
def apart(folder: Path, name: str, *requirements: str) -> Iterator[Any]:
    """Return a package that is installed into a folder of its own, without what it needs that isn't named."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target",
                           folder, "--disable-pip-version-check", "--only-binary", ":all:", *requirements],
                          capture_output=True, text=True)
    if done.returncode:
        unavailable(f"{name} can't be installed: " + (done.stderr.strip().splitlines() or ["no reason"])[-1])
    sys.path.append(str(folder))
    try:
        yield package(name)
    finally:
        sys.path.remove(str(folder))


def run_client(command: Sequence[str | Path], service: Service, **environ: str) -> str:
    """Run a client's script against a service; return what it prints. It fails by its exit code."""
    wanted = {**os.environ, "MAYFLY_URL": service.url, "MAYFLY_KEY": KEY, "NO_PROXY": "*", **environ}
    done = subprocess.run([str(part) for part in command], env=wanted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout
