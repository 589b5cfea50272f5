"""Log-probabilities as OpenAI's own client reads them, and as it sends for them; of a real model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import package
from service import Service

from mayfly.engines import backends

if not backends.LlamaCpp().installed():
    pytest.skip("there is no wheel of llama.cpp here", allow_module_level=True)

# It goes on with the capital, and a butterfly, whose four bytes are three tokens.
PROMPT = "Paris is the capital of France \U0001f98b \u00e9. Berlin is the capital of"
ASKED: dict[str, Any] = {"model": "SmolLM2-135M-Instruct.Q4_1", "temperature": 0, "max_tokens": 6}
GREEDY: dict[str, Any] = {**ASKED, "extra_body": {"repeat_penalty": 1.0}}
SAID = [{"role": "user", "content": "Say the word cat."}]
BUTTERFLY = " \U0001f98b"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    os.link(smollm2, folder / smollm2.name)
    running = Service(tmp_path_factory.mktemp("service"), {
        "MODEL_PATH": folder, "MODEL_NAME": smollm2.name, "EMBED_MODEL": "none", "N_CTX": 1024})
    yield running.wait_ready()
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    with package("openai").OpenAI(base_url=service.url + "/v1", api_key="any", max_retries=0) as connected:
        yield connected


def chat(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{**GREEDY, "messages": SAID, **fields})


def text(client: Any, **fields: Any) -> Any:
    return client.completions.create(**{**GREEDY, "prompt": PROMPT, **fields})


def test_a_chats_tokens_come_with_their_bytes_and_alternatives(client: Any) -> None:
    [choice] = chat(client, logprobs=True, top_logprobs=3).choices
    told = choice.logprobs.content
    assert bytes(byte for each in told for byte in each.bytes).decode() == choice.message.content
    assert "".join(each.token for each in told) == choice.message.content
    for each in told:
        assert len(each.top_logprobs) == 3 and each.top_logprobs[0].token == each.token
        likely = [one.logprob for one in each.top_logprobs]
        assert likely == sorted(likely, reverse=True) and each.logprob == likely[0] <= 0
        assert sum(map(math.exp, likely)) <= 1.0001
    [alone] = chat(client, logprobs=True).choices
    assert [each.logprob for each in alone.logprobs.content] == [each.logprob for each in told]
    assert all(each.top_logprobs == [] for each in alone.logprobs.content)
    assert chat(client).choices[0].logprobs is None


def test_a_streams_chunks_bring_the_log_probabilities_of_their_own_text(client: Any) -> None:
    whole = chat(client, logprobs=True, top_logprobs=2).choices[0]
    chunks = [chunk.choices[0] for chunk in chat(client, logprobs=True, top_logprobs=2, stream=True)]
    told = [each for chunk in chunks if chunk.logprobs for each in chunk.logprobs.content]
    assert told == whole.logprobs.content
    for chunk in chunks:
        if chunk.delta.content:
            assert "".join(each.token for each in chunk.logprobs.content) == chunk.delta.content
        else:
            assert chunk.logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_within_a_character_are_told_by_their_bytes(client: Any, stream: bool) -> None:
    made = text(client, logprobs=1, stream=stream)
    parts = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    whole = "".join(part.text for part in parts)
    assert whole.startswith(f" Germany{BUTTERFLY}")
    told = [part.logprobs for part in parts if part.logprobs]
    tokens = [token for each in told for token in each.tokens]
    assert tokens[:5] == [" Germany", r"bytes:\x20\xf0\x9f", r"bytes:\xa6", r"bytes:\x8b", "."]
    offsets = [offset - len(PROMPT) for each in told for offset in each.text_offset]
    # The blank before the butterfly is whole, so the token's end is the butterfly's beginning.
    assert offsets[:5] == [0, 8, 9, 9, 10]
    assert len(tokens) == 6 == sum(len(each.token_logprobs) for each in told)
    if stream:
        # The character comes in one piece, and with it the tokens that it is of; but for the first one's blank.
        [part] = [part for part in parts if BUTTERFLY[1] in part.text]
        assert {r"bytes:\xa6", r"bytes:\x8b"} <= set(part.logprobs.tokens)


def test_a_completion_of_a_text_has_the_likeliest_tokens_and_its_own(client: Any) -> None:
    [choice] = text(client, logprobs=2, temperature=1.9, seed=4, extra_body={"top_k": 0, "top_p": 1.0}).choices
    told = choice.logprobs
    for token, logprob, likely in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert likely[token] == logprob and len(likely) in (2, 3)
        assert [*likely.values()] == sorted(likely.values(), reverse=True)
    assert any(len(likely) == 3 for likely in told.top_logprobs)
    [alone] = text(client, logprobs=0).choices
    assert all(list(likely) == [token] for token, likely in zip(
        alone.logprobs.tokens, alone.logprobs.top_logprobs, strict=True))
    assert text(client).choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_is_told_token_by_token_before_the_answer(client: Any, stream: bool) -> None:
    made = text(client, prompt=[PROMPT, "One two"], logprobs=1, echo=True, max_tokens=2, stream=stream)
    parts = [chunk.choices[0] for chunk in made] if stream else made.choices
    for index, prompt in enumerate((PROMPT, "One two")):
        mine = [part for part in parts if part.index == index]
        whole = "".join(part.text for part in mine)
        assert whole.startswith(prompt) and len(whole) > len(prompt)
        told = [part.logprobs for part in mine if part.logprobs]
        tokens = [token for each in told for token in each.tokens]
        offsets = [offset for each in told for offset in each.text_offset]
        logprobs = [logprob for each in told for logprob in each.token_logprobs]
        assert logprobs[0] is None and told[0].top_logprobs[0] is None and all(each <= 0 for each in logprobs[1:])
        assert offsets[0] == 0 and offsets == sorted(offsets)
        for offset, token in zip(offsets, tokens, strict=True):
            assert token.startswith("bytes:") or whole[offset:].startswith(token)
        assert offsets[-2] == len(prompt)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_without_an_answer(client: Any, stream: bool) -> None:
    [longer] = text(client, logprobs=1, echo=True, max_tokens=1).choices
    made = text(client, logprobs=1, echo=True, max_tokens=0, stream=stream)
    parts = [chunk.choices[0] for chunk in made] if stream else made.choices
    assert "".join(part.text for part in parts) == PROMPT and parts[-1].finish_reason == "length"
    told = [part.logprobs for part in parts if part.logprobs]
    assert [logprob for each in told for logprob in each.token_logprobs] == longer.logprobs.token_logprobs[:-1]
    if not stream:
        assert made.usage.completion_tokens == 0 and made.usage.prompt_tokens == len(told[0].tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_cuts_the_tokens_with_the_text(client: Any, stream: bool) -> None:
    def tokens(**fields: Any) -> tuple[str, list[str]]:
        made = text(client, logprobs=0, stream=stream, **fields)
        parts = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
        return "".join(part.text for part in parts), [
            token for part in parts if part.logprobs for token in part.logprobs.tokens]

    assert tokens(stop="many") == (" Ger", [" Germany"])
    assert tokens(stop=" Germany") == ("", [])
    assert tokens(stop=BUTTERFLY) == (" Germany", [" Germany"])
    # What looks like one and isn't comes later, with its tokens.
    assert tokens(stop=f"{BUTTERFLY}!", max_tokens=4) == (f" Germany{BUTTERFLY}", [
        " Germany", r"bytes:\x20\xf0\x9f", r"bytes:\xa6", r"bytes:\x8b"])


def test_the_best_of_several_is_the_likeliest_by_token(client: Any) -> None:
    freely = {"temperature": 1.5, "max_tokens": 6, "seed": 5, "extra_body": {"top_k": 0, "top_p": 1.0}}
    every = text(client, n=4, logprobs=0, **freely).choices
    means = [sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in every]
    likeliest = sorted(range(4), key=lambda index: -means[index])
    assert likeliest[:2] != [0, 1], "another seed shows more"
    best = text(client, n=2, best_of=4, **freely)
    assert [choice.text for choice in best.choices] == [every[index].text for index in likeliest[:2]]
    assert [choice.logprobs for choice in best.choices] == [None, None]
    assert best.usage.completion_tokens == 24
    told = text(client, n=1, best_of=4, logprobs=1, echo=True, **freely).choices[0]
    assert told.text == PROMPT + every[likeliest[0]].text and told.logprobs.token_logprobs[0] is None


def test_what_contradicts_itself_is_refused(client: Any) -> None:
    openai = package("openai")
    for ask, fields, param in (
            (chat, {"top_logprobs": 2}, "top_logprobs"), (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            (text, {"logprobs": 6}, "logprobs"), (text, {"logprobs": 0, "max_tokens": 0}, "max_tokens"),
            (text, {"echo": True, "max_tokens": 0}, "max_tokens"),
            (text, {"logprobs": 1, "echo": True, "extra_body": {"prompt_template": "Q: %1"}}, "prompt_template")):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, **fields)
        assert refused.value.param == param
