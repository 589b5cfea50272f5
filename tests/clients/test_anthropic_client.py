"""The official Python client of Anthropic, as programs use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from clients import COUNTED, GREETING, KEY, package
from service import Service

anthropic: Any = None

class Cat(pydantic.BaseModel):
    """What an answer is held to."""

    age: int
    likes_fish: bool


COUNT: dict[str, Any] = {"max_tokens": 50, "messages": [{"role": "user", "content": "count"}]}
GREET: dict[str, Any] = {"max_tokens": 50, "messages": [{"role": "user", "content": "greet"}]}
TUNNEL = {"X-Forwarded-For": "203.0.113.9"}


def connect(service: Service, **options: Any) -> Any:
    return anthropic.Anthropic(base_url=service.url, **{"api_key": KEY, "max_retries": 0, **options})


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    global anthropic
    anthropic = package("anthropic")


@pytest.fixture(params=["here", "a tunnel"])
def client(request: pytest.FixtureRequest, served: Service) -> Iterator[Any]:
    """On this machine, and from elsewhere, where its key is looked at."""
    with connect(served, default_headers=TUNNEL if request.param != "here" else {}) as opened:
        yield opened


def test_a_message_and_its_stream_agree(client: Any) -> None:
    made = client.messages.create(model="played", system="You are Ada.", extra_body={"temperature": 0.5}, **COUNT)
    assert (made.content[0].text, made.stop_reason, made.role) == (COUNTED, "end_turn", "assistant")
    assert made.usage.output_tokens == 4 and made.usage.input_tokens > 3
    with client.messages.stream(model="played", system="You are Ada.", **COUNT) as stream:
        assert "".join(stream.text_stream) == COUNTED
        final = stream.get_final_message()
    assert final.content[0].text == COUNTED and final.usage == made.usage
    assert (final.stop_reason, final.model, final.type) == ("end_turn", made.model, "message")
    events = list(client.messages.create(model="played", stream=True, **GREET))
    assert [event.type for event in events[:2]] == ["message_start", "content_block_start"]
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == GREETING


def test_an_answer_can_be_sent_back_as_a_turn(client: Any) -> None:
    made = client.messages.create(model="played", **COUNT)
    turns = [*COUNT["messages"], made.to_param(), {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    assert client.messages.create(model="played", max_tokens=5, messages=turns).content[0].text == COUNTED


def test_a_string_that_stops_it_is_told(client: Any) -> None:
    made = client.messages.create(model="played", stop_sequences=["three"], **COUNT)
    assert (made.stop_reason, made.stop_sequence, made.content[0].text) == ("stop_sequence", "three", "one two ")
    cut = client.messages.create(model="played", max_tokens=2, messages=COUNT["messages"])
    assert cut.stop_reason == "max_tokens"


def test_tokens_are_counted(client: Any) -> None:
    messages = COUNT["messages"]
    counted = client.messages.count_tokens(model="played", messages=messages, system="You are Ada.")
    made = client.messages.create(model="played", system="You are Ada.", **COUNT)
    assert counted.input_tokens == made.usage.input_tokens


def test_a_tool_is_used_and_what_it_answers_is_taken(client: Any) -> None:
    tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    turns: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    made = client.messages.create(model="played", max_tokens=200, messages=turns, tools=tools)
    [used] = made.content
    assert (used.type, used.name, used.input, made.stop_reason) == ("tool_use", "weather", {"city": "Oslo"}, "tool_use")
    with client.messages.stream(model="played", max_tokens=200, messages=turns, tools=tools) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        [streamed] = stream.get_final_message().content
    assert streamed.input == used.input and len(parts) > 1
    turns += [made.to_param(), {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": used.id, "content": "Snow."}]}]
    assert client.messages.create(model="played", max_tokens=200, messages=turns,
                                  tools=tools).content[0].text == "It snows."


def test_an_answer_is_parsed_into_a_class(start: Callable[..., Service], smollm2: Path) -> None:
    service = start(MODEL_PATH=smollm2.parent, MODEL_NAME=smollm2.name, EMBED_MODEL="none")
    told = [{"role": "user", "content": "My cat Tom is five years old."}]
    with connect(service) as client:
        made = client.messages.parse(model="gpt-4o-mini", max_tokens=60, messages=told, output_format=Cat,
                                     extra_body={"temperature": 0})
    assert isinstance(made.parsed_output, Cat) and made.stop_reason == "end_turn"


def test_each_failure_is_its_own_class(served: Service, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no model gpt-9 here"):
        client.messages.create(model="gpt-9", **COUNT)
    with pytest.raises(anthropic.BadRequestError, match="only reads text") as refused:
        client.messages.create(model="played", max_tokens=5, messages=[{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}}]}])
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with connect(served, api_key="a-wrong-key", default_headers=TUNNEL) as wrong, pytest.raises(
            anthropic.AuthenticationError):
        wrong.messages.create(model="played", **COUNT)
    crash = {"max_tokens": 5, "messages": [{"role": "user", "content": "crash"}]}
    with pytest.raises(anthropic.InternalServerError, match="died"):
        client.messages.create(model="played", **crash)
    with (pytest.raises(anthropic.APIError, match="died"),
          client.messages.stream(model="played", **crash) as stream):
        stream.get_final_message()
