"""A running mayfly, seen from outside: started by `watchdog.py`, spoken to over HTTP, looked at through /proc."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests

PROJECT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
# A wait this long has failed: a bound against hanging for ever, far above what a starved machine needs.
PATIENCE = 120.0


def until(look: Callable[[], T], *, within: float = PATIENCE, what: str | Callable[[], str] = "",
          every: float = 0.02) -> T:
    """Call `look`, with pauses of `every` seconds, until what it returns is true; return that. Fails after so many
    seconds. What takes long is looked at less often, with pauses of a tenth of what it has taken, and of 0.1 s at most:
    each look costs milliseconds that what it waits for needs as well."""
    began = time.monotonic()
    deadline = began + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {(what() if callable(what) else what) or look}; "
                                 f"last: {found!r}")
        time.sleep(min(max(every, (time.monotonic() - began) / 10), 0.1))


class Service:
    """One service with folders of its own.

    Args:
        folder: its run and log folders are made here.
        arguments: the command line.
        project: where watchdog.py is.
        command: what is started instead of it.
        settings: environment variables; one that is None isn't set. THREADS is 1 unless given, so that a busy machine
            stays usable, and MODEL_NAME none, so that no test depends on the default model unless it says so.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], arguments: Sequence[str] = (), *,
                 project: Path = PROJECT, command: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.run_folder = folder / "run"
        self.log_folder = folder / "logs"
        environ = {name: value for name, value in os.environ.items() if name != "API_KEYS"}
        (folder / "empty.env").touch()
        self.settings = {
            "MAYFLY_ENV": folder / "empty.env", "RUN_FOLDER_NAME": self.run_folder, "LOG_FOLDER_NAME": self.log_folder,
            "LISTEN_PORT": 0, "THREADS": 1, "HANG_SECONDS": 30, "PYTHONUNBUFFERED": 1, "MODEL_NAME": "none", **settings}
        for name, value in self.settings.items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = str(value)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*(command or (sys.executable, str(project / "watchdog.py"))), *arguments], cwd=folder, env=environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""
        self.session = requests.Session()
        self.session.trust_env = False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    # -- what it prints ---------------------------------------------------------------------------------------

    def output(self) -> str:
        """Return what the watchdog has printed so far."""
        return "\n".join(self.lines)

    def printed(self, pattern: str, *, within: float = PATIENCE) -> re.Match[str]:
        """Wait until a line matches; return the match. Fails at once when the service has ended without one."""
        def look() -> re.Match[str] | None:
            code = self.process.poll()
            if code is not None:
                self._reader.join(PATIENCE)
            match = next((m for m in (re.search(pattern, line) for line in list(self.lines)) if m), None)
            assert match or code is None, f"ended with {code}, without {wanted()}"
            return match

        def wanted() -> str:
            return f"a line with {pattern!r} in:\n{self.output()}"

        return until(look, within=within, what=wanted)

    # -- HTTP -------------------------------------------------------------------------------------------------

    def wait_listening(self) -> str:
        """Wait until the public socket is bound; return the URL."""
        if not self.url:
            self.url = self.printed(r"listening on (http://\S+)")[1]
        return self.url

    def wait_ready(self, within: float = PATIENCE) -> Service:
        """Wait until every configured lane is ready."""
        self.wait_listening()

        def ready() -> bool:
            with contextlib.suppress(requests.RequestException):
                return self.session.get(self.url + "/ready", timeout=10).status_code == 200
            return False

        until(ready, within=within, what=lambda: f"ready; printed:\n{self.output()}", every=0.1)
        return self

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        """POST a JSON body on a connection of its own, as a script would."""
        options.setdefault("timeout", 120)
        return requests.post(self.url + path, json=body, **options)

    def embed(self, texts: str | list[str]) -> list[list[float]]:
        """Return the vectors of some texts."""
        answer = self.post("/embed", {"input": texts})
        assert answer.status_code == 200, answer.text
        return [entry["embedding"] for entry in answer.json()["data"]]

    def complete(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a prompt."""
        answer = self.post("/gpt4all_api", {"prompt": prompt, "max_tokens": 8, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def stream(self, prompt: str, **fields: Any) -> Iterator[dict[str, Any] | str]:
        """Yield the events of a streamed answer: JSON objects, and "[DONE]" at a good end.

        Closing the iterator hangs up.
        """
        import json

        body = {"prompt": prompt, "max_tokens": 8, **fields, "stream": True}
        with self.post("/gpt4all_api", body, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    data = line[6:].decode("ascii")
                    yield data if data == "[DONE]" else json.loads(data)

    def health(self) -> dict[str, Any]:
        """Return /health."""
        return dict(self.session.get(self.url + "/health", timeout=120).json())

    def lane(self, name: str) -> dict[str, Any]:
        """Return a lane's part of /health."""
        return dict(self.health()["lanes"][name])

    # -- processes and files ----------------------------------------------------------------------------------

    def sentinels(self) -> list[str]:
        """Return the names of the sentinels that are there now."""
        return sorted(path.name for path in self.run_folder.glob("*.watchdog"))

    def sentinel(self, name: str) -> dict[str, Any]:
        """Return a sentinel's content, or {} if it isn't there."""
        import json

        try:
            return dict(json.loads((self.run_folder / f"{name}.watchdog").read_text()))
        except (OSError, ValueError):
            return {}

    def reports(self) -> list[Path]:
        """Return the failure reports."""
        return sorted(self.log_folder.glob("*_watchdog_error.log"))

    def pid(self, name: str) -> int:
        """Return the pid of a supervised process from its sentinel."""
        return int(until(lambda: self.sentinel(name).get("pid"), what=f"the sentinel of {name}"))

    def family(self, name: str = "") -> list[int]:
        """Return the pids of all processes below the watchdog, or below a supervised process, from /proc."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        found: list[int] = []
        queue = [self.pid(name) if name else self.process.pid]
        while queue:
            below = children.get(queue.pop(), [])
            found.extend(below)
            queue.extend(below)
        return found

    def stop(self, within: float = 60.0) -> int:
        """Stop it as Ctrl-C does; return the exit code. Kills it if it doesn't end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            for pid in [self.process.pid, *self.family()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = self.process.wait()
        self._reader.join(5)
        self.session.close()
        return code
