"""Ollama's own Python client, as programs use it: on this machine, and with a key through a tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from clients import COUNTED, GREETING, KEY, package
from service import Service

ollama: Any = None

COUNT = [{"role": "user", "content": "count"}]
TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    global ollama
    ollama = package("ollama")


@pytest.fixture(params=["here", "key in a header", "key in the path"])
def client(request: pytest.FixtureRequest, served: Service) -> Iterator[Any]:
    """A client on this machine, or one whose calls look as if they came through a tunnel."""
    host, headers = served.url, {} if request.param == "here" else {"X-Forwarded-For": "203.0.113.9"}
    if request.param == "key in a header":
        headers["Authorization"] = f"Bearer {KEY}"
    elif request.param == "key in the path":
        host += f"/k/{KEY}"
    with ollama.Client(host=host, headers=headers) as opened:
        yield opened


def test_models_are_listed_shown_and_seen_loaded(client: Any) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {"played:latest", "llama3:latest", "all-minilm:latest"} <= listed.keys()
    assert listed["all-minilm:latest"].details.quantization_level == "F16"
    shown = client.show("all-minilm")
    assert shown.modelinfo["bert.embedding_length"] == 384 and shown.capabilities == ["embedding"]
    assert {"played:latest", "all-MiniLM-L6-v2:latest"} <= {model.name for model in client.ps().models}


def test_texts_have_vectors(client: Any) -> None:
    one, many = client.embed("all-minilm", TEXT), client.embed("mxbai-embed-large", [TEXT, "Shares fell."])
    assert one.embeddings[0] == many.embeddings[0] and len(many.embeddings) == 2 and many.prompt_eval_count > 5
    assert client.embeddings("nomic-embed-text", TEXT).embedding == one.embeddings[0]
    assert len(client.embed("all-minilm", TEXT, dimensions=64, options={"num_ctx": 512}).embeddings[0]) == 64


def test_prompts_and_conversations_are_completed_both_ways(client: Any) -> None:
    made = client.generate("llama3.2", "count", system="You are Ada.", options={"temperature": 0, "num_predict": 2})
    assert made.response == "one two " and made.done_reason == "length" and made.eval_count == 2
    assert "".join(part.response for part in client.generate("llama3.2", "greet", stream=True)) == GREETING
    chat = client.chat("played", [*COUNT, {"role": "assistant"}, *COUNT], keep_alive="5m", think=False)
    assert chat.message.content == COUNTED and chat.message.role == "assistant" and chat.total_duration > 0
    parts = list(client.chat("played:latest", COUNT, stream=True, format=""))
    assert "".join(part.message.content for part in parts) == COUNTED and parts[-1].done
    assert client.generate("played").done_reason == "load"


def test_what_is_wrong_is_an_error_with_its_text(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as absent:
        client.chat("nobody", COUNT)
    assert absent.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="played does not support vision"):
        client.chat("played", [{**COUNT[0], "images": [b"of a cat"]}])
    with pytest.raises(ollama.ResponseError, match="'format' has to be"):
        list(client.chat("played", COUNT, format={"type": "object"}, stream=True))


def test_a_crash_in_mid_stream_is_an_error_with_its_text(client: Any) -> None:
    parts = client.chat("played", [{"role": "user", "content": "crash"}], stream=True)
    assert next(parts).message.content + next(parts).message.content == "ab"
    with pytest.raises(ollama.ResponseError, match="The model process died while it answered this request"):
        next(parts)


def test_models_are_pulled_copied_and_deleted_with_a_key(served: Service) -> None:
    with ollama.Client(host=served.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert client.pull("all-minilm").status == "success"
        assert [part.status for part in client.pull("llama3", stream=True)] == ["pulling manifest", "success"]
        assert client.copy("played", "copied").status == "success"
        assert client.chat("copied", COUNT).message.content == COUNTED
        assert client.delete("copied").status == "success"
        with pytest.raises(ollama.ResponseError, match="model 'copied' not found"):
            client.delete("copied")
    with ollama.Client(host=served.url) as stranger, pytest.raises(ollama.ResponseError, match="key"):
        stranger.pull("all-minilm")


def test_an_asynchronous_client_asks_for_several_at_once(served: Service) -> None:
    async def ask() -> list[Any]:
        async with ollama.AsyncClient(host=served.url) as client:
            return await asyncio.gather(*(client.chat("played", COUNT) for _ in range(4)))

    assert [made.message.content for made in asyncio.run(ask())] == [COUNTED] * 4
