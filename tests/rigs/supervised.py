"""The web process as the watchdog starts it, without a watchdog."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service import PROJECT
from web_rig import KEY, PATIENCE, eventually

from mayfly.settings import parse
from mayfly.wire.codec import plain
from mayfly.wire.spec import LaneSpec, WebSpec

APP = [sys.executable, "-m", "mayfly.app", "--supervised"]


@dataclass
class Supervised:
    """The web process with lanes that have no model, and what it says."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    port: int
    sentinel: Path

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def supervised(folder: Path, lanes: dict[str, LaneSpec] | None = None, **values: str) -> Iterator[Supervised]:
    """Run the web process as the watchdog does.

    Args:
        lanes: by name; those that are left out have no model.
        values: settings, by their names in the environment.
    """
    settings = parse({"API_KEYS": KEY, **values})
    listener = socket.create_server(("127.0.0.1", 0))
    sentinel = folder / "app.watchdog"
    missing = LaneSpec(None, "no model; set MODEL_NAME")
    spec = WebSpec(settings, (listener.fileno(),), sentinel, 3, os.getpid(), folder / "state.json", 1,
                   {"embedding": missing, "completion": missing, **(lanes or {})})
    with listener, subprocess.Popen(APP, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, pass_fds=[listener.fileno()]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(spec, default=plain).encode() + b"\n")
            process.stdin.flush()
            eventually(lambda: sentinel.exists() or process.poll() is not None)
            yield Supervised(process, process.stdout, listener.getsockname()[1], sentinel)
        finally:
            process.kill()
