"""Other ways to run it: with one model only, or as `python app.py` alone, without the watchdog."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from service import PROJECT, Service, until

from mayfly.settings import names


@pytest.mark.parametrize("configured", ["none", "not-there.gguf"])
def test_without_a_completion_model_the_service_embeds_and_says_which_setting_to_fill(
        start: Callable[..., Service], configured: str) -> None:
    service = start(MODEL_NAME=configured)
    assert len(service.embed("The cat sat on the mat.")[0]) == 384
    for stream in (False, True):
        answer = service.post("/gpt4all_api", {"prompt": "Hello", "stream": stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (503, "server_error", "model_unavailable")
        assert "MODEL_NAME" in error["message"] and configured in error["message"]
        assert int(answer.headers["Retry-After"]) >= 1
    assert service.session.get(service.url + "/ready").status_code == 200
    health = service.health()
    assert health["status"] == "ok"
    assert health["lanes"]["completion"]["state"] == "off" and "MODEL_NAME" in health["lanes"]["completion"]["reason"]
    service.printed("completion: .*MODEL_NAME")
    assert not (service.run_folder / "completion.sock").exists()


@pytest.mark.parametrize("configured", ["none", "not-there.gguf"])
def test_without_an_embedding_model_the_service_completes_and_says_which_setting_to_fill(
        start: Callable[..., Service], configured: str) -> None:
    service = start(EMBED_MODEL=configured)
    for path in ("/embed", "/v1/embeddings"):
        answer = service.post(path, {"input": "a"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "model_unavailable")
        assert "EMBED_MODEL" in error["message"] and configured in error["message"]
    assert service.complete("Hello")["response"]
    lane = service.lane("embedding")
    assert lane["state"] == "off" and "EMBED_MODEL" in lane["reason"]
    assert service.health()["status"] == "ok"


# -- app.py alone ---------------------------------------------------------------------------------------------


class Alone:
    """`python app.py`, as somebody starts it by hand."""

    def __init__(self, folder: Path, **settings: object) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in names()}
        (folder / "empty.env").touch()
        environ.update({name: str(value) for name, value in {
            "MAYFLY_ENV": folder / "empty.env", "LISTEN_PORT": 0, "THREADS": 1, "TMPDIR": folder,
            **settings}.items()})
        self.process = subprocess.Popen([sys.executable, str(PROJECT / "app.py")], cwd=folder, env=environ,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, encoding="utf-8")
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def url(self) -> str:
        """Wait until it serves; return where."""
        def look() -> re.Match[str] | None:
            return re.search(r"serving on (http://\S+)", "\n".join(list(self.lines)))

        return until(look, what="serving")[1]

    def ended(self) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(60)
        self._reader.join(10)
        print("\n".join(self.lines))
        return code


@pytest.fixture
def alone(tmp_path: Path, model_path: Path) -> Iterator[Callable[..., Alone]]:
    begun: list[Alone] = []

    def begin(**settings: object) -> Alone:
        begun.append(Alone(tmp_path, **{"MODEL_PATH": model_path, "MODEL_NAME": "tiny-llama.gguf", **settings}))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_app_py_alone_serves_both_models_until_it_is_told_to_stop(
        alone: Callable[..., Alone], tmp_path: Path, number: signal.Signals) -> None:
    app = alone()
    url = app.url()
    vector = requests.post(url + "/embed", json={"input": "The cat sat on the mat."}, timeout=60).json()
    assert len(vector["data"][0]["embedding"]) == 384
    body = {"prompt": "Hello", "max_tokens": 5, "temperature": 0}
    answers = [requests.post(url + "/gpt4all_api", json=body, timeout=60).json() for _ in range(2)]
    assert answers[0]["response"] == answers[1]["response"] != ""
    assert answers[0]["usage"]["completion_tokens"] == 5
    streamed = requests.post(url + "/gpt4all_api", json={**body, "stream": True}, timeout=60)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert requests.get(url + "/ready", timeout=60).status_code == 200
    health = requests.get(url + "/health", timeout=60).json()
    states = {name: lane["state"] for name, lane in health["lanes"].items()}
    assert states == {"embedding": "ready", "completion": "ready"}
    assert requests.post(url + "/embed", json={"input": []}, timeout=60).status_code == 400
    app.process.send_signal(number)
    assert app.ended() == 0
    assert not [line for line in app.lines if "Traceback" in line]
    assert not list(tmp_path.glob("mayfly-*"))  # its private folder is gone
    assert any('"POST /embed HTTP/1.1" 200' in line for line in app.lines)


def test_app_py_alone_on_a_taken_port_is_one_line_and_exit_code_1(alone: Callable[..., Alone]) -> None:
    other = alone(MODEL_NAME="none")
    port = other.url().rpartition(":")[2]
    app = alone(LISTEN_PORT=port)
    assert app.ended() == 1
    (line,) = app.lines
    assert f"port {port}" in line and "LISTEN_PORT" in line
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


def test_app_py_alone_may_do_without_embeddings(alone: Callable[..., Alone]) -> None:
    app = alone(EMBED_MODEL="none")
    answer = requests.post(app.url() + "/gpt4all_api", json={"prompt": "Hello", "max_tokens": 4}, timeout=60)
    assert answer.json()["model"] == "tiny-llama"
    refused = requests.post(app.url() + "/embed", json={"input": "a"}, timeout=60)
    assert refused.status_code == 503 and "EMBED_MODEL=none" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("settings", "code", "said"), [
    ({"LISTEN_PORT": "http"}, 2, "LISTEN_PORT is 'http'; allowed"),
    ({"MODEL_NAME": "not-there.gguf"}, 1, "not-there.gguf"),
    ({"EMBED_MODEL": "tiny-llama.gguf"}, 1, "is no embedding model"),
])
def test_app_py_alone_that_cannot_start_says_why_in_one_line(
        alone: Callable[..., Alone], settings: dict[str, str], code: int, said: str) -> None:
    app = alone(**settings)
    assert app.ended() == code
    assert not [line for line in app.lines if "Traceback" in line]
    assert said in app.lines[-1]
