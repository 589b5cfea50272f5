"""LangChain and LlamaIndex, through their OpenAI integrations."""

from __future__ import annotations

import numpy as np
import pytest
from clients import COUNTED, KEY, package
from service import Service


def test_langchain_embeds_a_hundred_texts_in_order(served: Service) -> None:
    langchain = package("langchain_openai")
    model = langchain.OpenAIEmbeddings(base_url=served.url + "/v1", api_key=KEY, model="all-MiniLM-L6-v2",
                                       check_embedding_ctx_length=False, chunk_size=30)
    texts = [f"Text number {number} of a hundred." for number in range(100)]
    vectors = np.array(model.embed_documents(texts))
    assert vectors.shape == (100, 384)
    expected = np.array(served.post("/embed", {"input": texts}, headers={"Authorization": f"Bearer {KEY}"}).json()[
        "data"][0]["embedding"])
    assert np.dot(vectors[0], expected) > 0.9999
    for number in (0, 29, 30, 99):
        assert np.argmax(vectors @ np.array(model.embed_query(texts[number]))) == number


def test_langchain_by_default_is_told_the_option_that_it_needs(
        served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    langchain = package("langchain_openai")
    import openai
    import tiktoken

    # Its tokenizer would fetch its vocabulary from the network; what it sends is token ids, whichever these are.
    class Encoding:
        def encode_ordinary(self, text: str) -> list[int]:
            return [len(word) for word in text.split()]

        def encode(self, text: str, **_: object) -> list[int]:
            return self.encode_ordinary(text)

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: Encoding())
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: Encoding())
    model = langchain.OpenAIEmbeddings(base_url=served.url + "/v1", api_key=KEY, model="text-embedding-ada-002")
    with pytest.raises(openai.BadRequestError) as refused:
        model.embed_documents(["Some words to be embedded."])
    assert "check_embedding_ctx_length=False" in str(refused.value)


def test_langchain_chats_and_streams(served: Service) -> None:
    langchain = package("langchain_openai")
    model = langchain.ChatOpenAI(base_url=served.url + "/v1", api_key=KEY, model="gpt-3.5-turbo", temperature=0)
    assert model.invoke("count").content == COUNTED
    assert "".join(chunk.content for chunk in model.stream("count")) == COUNTED
    plain = langchain.OpenAI(base_url=served.url + "/v1", api_key=KEY, model="played", max_tokens=2)
    assert plain.batch(["count", "count"]) == ["one two ", "one two "]


def test_llama_index_has_the_same_vectors_in_a_batch_as_one_by_one(served: Service) -> None:
    llama_index = package("llama_index.embeddings.openai_like")
    model = llama_index.OpenAILikeEmbedding(model_name="all-MiniLM-L6-v2", api_base=served.url + "/v1", api_key=KEY,
                                            embed_batch_size=7)
    texts = [f"Text number {number}." for number in range(20)]
    batch = np.array(model.get_text_embedding_batch(texts))
    singles = np.array([model.get_text_embedding(text) for text in texts])
    assert batch.shape == (20, 384)
    print("batch and singles differ by at most", np.abs(batch - singles).max())
    assert np.abs(batch - singles).max() < 1e-6
