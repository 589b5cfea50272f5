"""Frameworks that speak to Ollama: LangChain, LlamaIndex and LiteLLM, on this machine and with a key in the path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clients import COUNTED, GREETING, KEY, apart, package
from service import Service

TEXT = "The cat sat on the mat."
COUNT = [{"role": "user", "content": "count"}]
# With what nobody else here needs. It wants a newer certifi than requirements.txt has, and does with that one.
LITELLM = ("litellm==1.110.2", "fastuuid==0.14.0", "h2==4.4.1", "hpack==4.2.0", "hyperframe==6.1.0",
           "importlib-metadata==8.9.0", "pydantic-settings==2.16.3", "zipp==4.1.2")


@pytest.fixture(params=["here", "key in the path"])
def where(request: pytest.FixtureRequest, served: Service) -> tuple[str, dict[str, str]]:
    """A base URL, and headers as a tunnel adds them where the key is in the path."""
    if request.param == "here":
        return served.url, {}
    return f"{served.url}/k/{KEY}", {"X-Forwarded-For": "203.0.113.9"}


@pytest.fixture
def vector(served: Service) -> Any:
    """What the vector of TEXT has to be."""
    return pytest.approx(served.embed(TEXT)[0], abs=1e-6)


def test_langchain_chats_streams_and_embeds(where: tuple[str, dict[str, str]], vector: Any) -> None:
    langchain = package("langchain_ollama")
    url, headers = where
    options = {"base_url": url, "client_kwargs": {"headers": headers}}
    model = langchain.ChatOllama(model="llama3.2", validate_model_on_init=True, temperature=0, num_ctx=4096, **options)
    made = model.invoke([("system", "You are Ada."), ("human", "count")])
    assert made.content == COUNTED and made.usage_metadata["output_tokens"] == 4
    assert made.response_metadata["done_reason"] == "stop"
    assert "".join(chunk.content for chunk in model.stream("greet")) == GREETING
    assert langchain.OllamaLLM(model="played", **options).invoke("count") == COUNTED
    vectors = langchain.OllamaEmbeddings(model="all-minilm", validate_model_on_init=True, **options)
    assert vectors.embed_query(TEXT) == vector
    assert [len(each) for each in vectors.embed_documents([TEXT, "", "More."])] == [384] * 3
    with pytest.raises(ValueError, match="not found"):
        langchain.ChatOllama(model="nobody", validate_model_on_init=True, **options)


def test_llama_index_completes_chats_and_streams(where: tuple[str, dict[str, str]]) -> None:
    llama_index = package("llama_index.llms.ollama")
    from llama_index.core.llms import ChatMessage

    model = llama_index.Ollama(model="llama3:latest", base_url=where[0], headers=where[1], request_timeout=60)
    assert model.metadata.context_window == 2048
    assert model.complete("count").text == COUNTED
    assert model.chat([ChatMessage(role="user", content="greet")]).message.content == GREETING
    parts = model.stream_chat([ChatMessage(role="user", content="count")])
    assert "".join(part.delta or "" for part in parts) == COUNTED


@pytest.fixture(scope="module")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """LiteLLM, from a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        # Otherwise it fetches a list of prices when it is imported.
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        with apart(tmp_path_factory.mktemp("litellm"), "litellm", *LITELLM) as found:
            yield found


def test_litellm_completes_chats_streams_and_embeds(
        where: tuple[str, dict[str, str]], vector: Any, litellm: Any) -> None:
    url, headers = where
    told: dict[str, Any] = {"api_base": url, "extra_headers": headers}
    for model in ("ollama/llama3.2", "ollama_chat/llama3.2"):
        made = litellm.completion(model=model, messages=COUNT, temperature=0, max_tokens=50, stop=["five"], **told)
        assert made.choices[0].message.content == COUNTED and made.usage.completion_tokens == 4
        parts = litellm.completion(model=model, messages=[{"role": "user", "content": "greet"}], stream=True, **told)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == GREETING
    cut = litellm.completion(model="ollama_chat/played", messages=COUNT, max_tokens=2, **told)
    assert cut.choices[0].message.content == "one two " and cut.choices[0].finish_reason == "length"
    made = litellm.embedding(model="ollama/all-minilm", input=[TEXT, "More."], **told)
    assert made.data[0]["embedding"] == vector and len(made.data) == 2
    with pytest.raises(litellm.NotFoundError, match="model 'nobody' not found"):
        litellm.completion(model="ollama_chat/nobody", messages=COUNT, num_retries=0, **told)
