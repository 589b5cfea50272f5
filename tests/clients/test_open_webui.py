"""Open WebUI's backend, with a key in the path of its Ollama: its lists, chats, and documents that it finds by vectors.

It takes 1.7 GB of packages, so it isn't installed here: OPEN_WEBUI names its program (`pip install open-webui==0.12.4`,
which starts without torch too).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import COUNTED, GREETING, KEY
from service import Service, until

PROGRAM = os.environ.get("OPEN_WEBUI", "")
MODEL = "played:latest"
FACT = "The lighthouse keeper is called Ada, and her cat Felix."

pytestmark = pytest.mark.skipif(not PROGRAM, reason="OPEN_WEBUI names no program")


class WebUI:
    """The backend, as its page calls it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._headers: dict[str, str] = {}

    def up(self) -> bool:
        """Tell whether it answers."""
        try:
            return requests.get(self._url + "/health", timeout=5).ok
        except requests.RequestException:
            return False

    def sign_in(self) -> None:
        """Be its only user."""
        token = self.ask("POST", "/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return its answer, which is no error."""
        answer = requests.request(method, self._url + path, headers=self._headers, timeout=120, **options)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture(scope="module")
def webui(served: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder: Path = tmp_path_factory.mktemp("open-webui")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ollama = f"{served.url}/k/{KEY}"
    environ = {**os.environ, "DATA_DIR": str(folder), "OLLAMA_BASE_URLS": ollama, "ENABLE_OPENAI_API": "false",
               "WEBUI_AUTH": "false", "WEBUI_SECRET_KEY": "of a test", "RAG_EMBEDDING_ENGINE": "ollama",
               "RAG_OLLAMA_BASE_URL": ollama, "RAG_EMBEDDING_MODEL": "all-minilm", "OFFLINE_MODE": "true",
               "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "false", "DO_NOT_TRACK": "true"}
    with (folder / "output").open("w") as output, subprocess.Popen(
            [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)], env=environ, cwd=folder, stdout=output,
            stderr=output) as process:
        try:
            backend = WebUI(f"http://127.0.0.1:{port}")
            until(backend.up, what="Open WebUI")
            backend.sign_in()
            yield backend
        finally:
            process.terminate()


def test_it_lists_the_models_and_which_are_loaded(webui: WebUI) -> None:
    listed = {model["id"] for model in webui.ask("GET", "/api/models").json()["data"]}
    assert {MODEL, "all-MiniLM-L6-v2:latest"} <= listed
    assert {MODEL} <= {model["name"] for model in webui.ask("GET", "/ollama/api/ps").json()["models"]}
    assert "completion" in webui.ask("POST", "/ollama/api/show", json={"model": MODEL}).json()["capabilities"]
    assert webui.ask("GET", "/ollama/api/version").json()["version"]
    pulled = webui.ask("POST", "/ollama/api/pull", json={"name": "all-minilm"})
    assert json.loads(pulled.text.splitlines()[-1]) == {"status": "success"}


def test_its_page_chats(webui: WebUI) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "count"}]}
    whole = webui.ask("POST", "/api/chat/completions", json={**asked, "stream": False}).json()
    assert whole["choices"][0]["message"]["content"] == COUNTED
    streamed = webui.ask("POST", "/api/chat/completions", json={
        "model": MODEL, "messages": [{"role": "user", "content": "greet"}], "stream": True})
    parts = [json.loads(line[6:]) for line in streamed.content.splitlines() if line.startswith(b"data: {")]
    assert "".join(part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"]) == GREETING
    direct = webui.ask("POST", "/ollama/api/chat", json={**asked, "stream": False}).json()
    assert (direct["message"]["content"], direct["done"]) == (COUNTED, True)
    generated = webui.ask("POST", "/ollama/api/generate", json={"model": MODEL, "prompt": "count", "stream": False})
    assert generated.json()["response"] == COUNTED
    assert webui.ask("POST", "/ollama/api/unload", json={"model": MODEL}).json() == {"status": True}


def test_it_finds_what_a_document_says(webui: WebUI, served: Service) -> None:
    vectors = webui.ask("POST", "/ollama/api/embed", json={"model": "all-minilm:latest", "input": [FACT]}).json()
    assert vectors["embeddings"][0] == pytest.approx(served.embed(FACT)[0], abs=1e-6)
    file = webui.ask("POST", "/api/v1/files/", files={"file": ("fact.txt", FACT.encode(), "text/plain")}).json()["id"]
    question = {"collection_name": f"file-{file}", "query": "What is the cat's name?", "k": 1}

    def processed() -> bool:
        return bool(webui.ask("GET", f"/api/v1/files/{file}/process/status").json()["status"] == "completed")

    until(processed, what="a document in the store")
    assert webui.ask("POST", "/api/v1/retrieval/query/doc", json=question).json()["documents"] == [[FACT]]
