"""Programs that aren't installed here, by the requests that they make: AI Town, VS Code's Copilot, Continue, Open WebUI
and the command `ollama`. Each on this machine, and with a key in the path through a tunnel.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from clients import COUNTED, KEY
from service import Service

COUNT = [{"role": "user", "content": "count"}]
Send = Callable[..., requests.Response]


@pytest.fixture(params=["here", "key in the path"])
def send(request: pytest.FixtureRequest, served: Service) -> Send:
    """Makes a request of a method, a path and a body, which may be bytes."""
    here = request.param == "here"
    base = served.url if here else f"{served.url}/k/{KEY}"

    def call(method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        if not here:
            headers["X-Forwarded-For"] = "203.0.113.9"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return requests.request(method, base + path, data=data, headers=headers, timeout=120)

    return call


def test_ai_town_remembers_and_talks(send: Send, served: Service) -> None:
    """Its default mode: no key, vectors one by one and many at once, `tryPull` on 404, the chat by OpenAI's route."""
    def vector(text: str) -> list[float]:
        answer = send("POST", "/api/embeddings", {"model": "mxbai-embed-large", "prompt": text},
                      **{"Content-Type": "application/json"})
        assert answer.status_code != 404
        return list(answer.json()["embedding"])

    texts = [f"{name} likes trees." for name in ("Alice", "Bob", "Kurt", "Lucky", "Pete", "Stella")]
    with concurrent.futures.ThreadPoolExecutor(len(texts)) as threads:
        vectors = list(threads.map(vector, texts))
    assert vectors == [pytest.approx(each, abs=1e-6) for each in served.embed(texts)]
    # Its memories are three turns of the user in a row, and its conversations have words at which to stop.
    turns = [{"role": "user", "content": text} for text in ("You are Alice.", "You talked to Bob.", "count")]
    body = {"model": "llama3", "messages": turns, "stream": True, "stop": ["three", "\nAlice:"], "max_tokens": 300,
            "temperature": 0.8}
    answer = send("POST", "/v1/chat/completions", body, **{"Content-Type": "application/json"})
    events = [json.loads(block[6:]) for block in answer.text.split("\n\n") if block.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "one two "
    assert answer.text.endswith("data: [DONE]\n\n")


def test_ai_town_is_told_of_a_model_that_can_be_pulled(send: Send) -> None:
    answer = send("POST", "/api/embeddings", {"model": "hf:owner/some-model", "prompt": "x"})
    assert answer.status_code == 404 and "try pulling" in answer.json()["error"]
    assert "try pulling" not in send("POST", "/api/embeddings", {"model": "llama9", "prompt": "x"}).text


def test_copilot_finds_the_models_and_chats(send: Send) -> None:
    major, minor, patch = map(int, send("GET", "/api/version").json()["version"].split("."))
    assert (major, minor, patch) >= (0, 6, 4)
    chosen = next(model["model"] for model in send("GET", "/api/tags").json()["models"]
                  if "completion" in model["capabilities"])
    shown = send("POST", "/api/show", {"model": chosen}).json()
    family = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{family}.context_length"] == 2048 and shown["model_info"]["general.basename"]
    assert "tools" in shown["capabilities"] and not {"vision", "thinking"} & set(shown["capabilities"])
    body = {"model": chosen, "messages": COUNT, "stream": True, "temperature": 0.1, "top_p": 1, "n": 1,
            "stream_options": {"include_usage": True}, "max_tokens": 100}
    answer = send("POST", "/v1/chat/completions", body, **{"Content-Type": "application/json"})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]) == COUNTED
    assert events[-1]["usage"]["completion_tokens"] == 4


def test_continue_fills_in_the_window_that_it_is_told(send: Send) -> None:
    shown = send("POST", "/api/show", {"name": "llama3.2"}, **{"Content-Type": "application/json"}).json()
    window = int(re.search(r"^num_ctx\s+(\d+)$", shown["parameters"], re.MULTILINE)[1])  # type: ignore[index]
    assert window == 2048 and ".Suffix" not in shown["template"]
    options = {"num_predict": 2048, "num_ctx": window, "mirostat": None, "stop": [], "num_gpu": None, "top_p": None}
    answer = send("POST", "/api/chat", {"model": "llama3.2", "messages": COUNT, "options": options, "keep_alive": 1800,
                                        "stream": True}, **{"Content-Type": "application/json"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == COUNTED and lines[-1]["done"]
    answer = send("POST", "/api/generate", {"model": "llama3.2", "prompt": "count", "raw": True, "keep_alive": 1800,
                                            "options": {**options, "num_predict": 2}, "stream": True})
    assert "".join(json.loads(line)["response"] for line in answer.text.splitlines()) == "one two "
    batch = [f"chunk {number}" for number in range(64)]
    embedded = send("POST", "/api/embed", {"model": "nomic-embed-text", "input": batch}).json()["embeddings"]
    assert len(embedded) == 64 and all(map(len, embedded))
    missing = send("POST", "/api/chat", {"model": "nobody:latest", "messages": COUNT})
    assert re.match(r"model '(.*)' not found", missing.json()["error"])[1] == "nobody:latest"  # type: ignore[index]


def test_open_webui_verifies_lists_chats_and_unloads(send: Send) -> None:
    assert all(part.isdigit() for part in send("GET", "/api/version").json()["version"].split("."))
    names = {model["model"] for model in send("GET", "/api/tags").json()["models"]}
    assert "llama3:latest" in names
    for loaded in send("GET", "/api/ps").json()["models"]:
        datetime.datetime.fromisoformat(loaded["expires_at"].replace("Z", "+00:00"))
    answer = send("POST", "/api/chat", {"model": "llama3:latest", "messages": COUNT, "options": {}, "stream": True},
                  **{"Content-Type": "application/json"})
    raw = answer.content.split(b"\n")
    assert raw.pop() == b"" and all(0 < len(line) < 1 << 16 and json.loads(line) for line in raw)
    unloaded = send("POST", "/api/generate", {"model": "llama3:latest", "keep_alive": 0, "prompt": ""})
    assert unloaded.json()["done_reason"] == "unload"


def test_the_command_of_ollama_asks_before_each_command(send: Send) -> None:
    assert send("HEAD", "/").status_code == 200
    shown = send("POST", "/api/show", {"model": "llama3.2", "system": "", "template": "", "verbose": False,
                                       "options": None, "name": "llama3.2"}, Accept="application/json")
    assert shown.status_code == 200 and shown.json()["details"]["format"] == "gguf"
    for model in send("GET", "/api/tags").json()["models"]:
        assert len(model["digest"]) >= 12 and ":" not in model["digest"]
        assert datetime.datetime.fromisoformat(model["modified_at"].replace("Z", "+00:00")).tzinfo
    # It says what it sends by no Content-Type, and `curl -d` says that it is a form.
    body = b'{"model":"llama3.2","messages":[{"role":"user","content":"count"}],"format":"","options":{}}'
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert json.loads(send("POST", "/api/chat", body, **headers).text.splitlines()[-1])["done"]
