"""The official Python client of OpenAI, as programs use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import scripts
from clients import COUNTED, GREETING, KEY, RULES, package
from service import Service

openai: Any = None

class Cat(pydantic.BaseModel):
    """What an answer is held to."""

    age: int
    likes_fish: bool


COUNT = [{"role": "user", "content": "count"}]


def connect(service: Service, **options: Any) -> Any:
    return openai.OpenAI(base_url=service.url + "/v1", **{"api_key": KEY, **options})


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    global openai
    openai = package("openai")


@pytest.fixture
def client(served: Service) -> Iterator[Any]:
    with connect(served, max_retries=0) as opened:
        yield opened


def test_vectors_have_384_numbers_and_base64_agrees_with_float(client: Any) -> None:
    texts = ["The cat sat on the mat.", "", "你好😀"]
    default = client.embeddings.create(model="text-embedding-3-small", input=texts)
    plain = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts, encoding_format="float", dimensions=384)
    assert [entry.index for entry in default.data] == [0, 1, 2] and default.model == "all-MiniLM-L6-v2"
    one, other = (np.array([entry.embedding for entry in made.data]) for made in (default, plain))
    assert one.shape == (3, 384)
    print("base64 and float differ by at most", np.abs(one - other).max())
    assert np.abs(one - other).max() < 1e-6
    assert default.usage.prompt_tokens == default.usage.total_tokens > 3


def test_a_completion_and_its_stream_agree(client: Any) -> None:
    made = client.completions.create(model="gpt-3.5-turbo", prompt="count", max_tokens=3)
    assert made.choices[0].text == "one two three " and made.choices[0].finish_reason == "length"
    assert made.usage.completion_tokens == 3 and made.id.startswith("cmpl-")
    chunks = list(client.completions.create(model="played", prompt="count", max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two three "
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_chat_and_its_stream_agree(client: Any) -> None:
    made = client.chat.completions.create(model="gpt-4o-mini", messages=COUNT, n=2)
    assert [choice.message.content for choice in made.choices] == [COUNTED, COUNTED]
    chunks = list(client.chat.completions.create(model="played", messages=COUNT, stream=True,
                                                 stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == COUNTED
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_an_answer_can_be_sent_back_as_a_turn(client: Any) -> None:
    made = client.chat.completions.create(model="played", messages=COUNT)
    turns = [*COUNT, made.choices[0].message, {"role": "user", "content": "greet"}]
    again = client.chat.completions.create(model="played", messages=turns[1:])
    assert again.choices[0].message.content == GREETING


def test_the_stream_helper_and_the_raw_stream_give_the_whole_text(client: Any) -> None:
    greet = [{"role": "user", "content": "greet"}]
    with client.chat.completions.stream(model="played", messages=greet) as stream:
        assert stream.get_final_completion().choices[0].message.content == GREETING
    with client.chat.completions.with_streaming_response.create(model="played", messages=greet) as raw:
        assert raw.headers["X-Request-Id"] and raw.parse().choices[0].message.content == GREETING
    pieces = client.chat.completions.create(model="played", messages=greet, stream=True)
    assert [text for chunk in pieces if (text := chunk.choices[0].delta.content)] == list(GREETING)


def test_a_response_and_its_stream_agree(client: Any) -> None:
    made = client.responses.create(model="gpt-4o-mini", input="count", instructions="You are Ada.")
    assert (made.output_text, made.status, made.usage.output_tokens) == (COUNTED, "completed", 4)
    events = list(client.responses.create(model="played", input=[{"role": "user", "content": "greet"}], stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == GREETING
    assert events[-1].response.output_text == GREETING
    with client.responses.stream(model="played", input="count", max_output_tokens=50) as stream:
        types = [event.type for event in stream]
        assert stream.get_final_response().output_text == COUNTED
    assert types[:2] == ["response.created", "response.in_progress"] and types[-1] == "response.completed"
    cut = client.responses.create(model="played", input="count", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_what_a_response_has_put_out_is_taken_as_its_next_input(client: Any) -> None:
    made = client.responses.create(model="played", input="count", store=True)
    turns = [{"role": "user", "content": "one"}, *made.output, {"role": "user", "content": "greet"}]
    # The scripted model finds what it is asked for in any turn.
    assert client.responses.create(model="played", input=turns[1:]).usage.input_tokens > made.usage.input_tokens
    with pytest.raises(openai.BadRequestError, match="nothing is kept here") as refused:
        client.responses.create(model="played", input="count", previous_response_id=made.id)
    assert refused.value.param == "previous_response_id"


def test_a_response_that_fails_says_so_in_its_last_events(client: Any) -> None:
    with pytest.raises(openai.InternalServerError, match="died"):
        client.responses.create(model="played", input="crash")
    error, failed = list(client.responses.create(model="played", input="crash", stream=True))[-2:]
    assert (error.type, error.code, failed.type) == ("error", "model_crashed", "response.failed")
    assert failed.response.error.code == "model_crashed" and failed.response.output_text == "ab"


def test_a_response_calls_a_function_and_goes_on_with_what_came_of_it(client: Any) -> None:
    tool = {"type": "function", "name": "weather", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False}}
    turns: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    made = client.responses.create(model="played", input=turns, tools=[tool])
    [call] = made.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Oslo"})
    with client.responses.stream(model="played", input=turns, tools=[tool]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        [streamed] = stream.get_final_response().output
    assert "".join(deltas) == streamed.arguments == call.arguments and len(deltas) > 1
    turns += [*made.output, {"type": "function_call_output", "call_id": call.call_id, "output": "Snow."}]
    assert client.responses.create(model="played", input=turns, tools=[tool]).output_text == "It snows."


def test_a_response_is_parsed_into_a_class(start: Callable[..., Service], smollm2: Path) -> None:
    service = start(MODEL_PATH=smollm2.parent, MODEL_NAME=smollm2.name, EMBED_MODEL="none")
    with connect(service, max_retries=0) as client:
        made = client.responses.parse(model="gpt-4o-mini", input="My cat Tom is five years old.", text_format=Cat,
                                      temperature=0, max_output_tokens=60)
        assert isinstance(made.output_parsed, Cat) and made.status == "completed"
        with client.responses.stream(model="gpt-4o-mini", input="My cat Tom is five years old.", text_format=Cat,
                                     temperature=0, max_output_tokens=60) as stream:
            assert stream.get_final_response().output_parsed == made.output_parsed


def test_models_are_listed_and_retrieved(client: Any) -> None:
    assert {model.id for model in client.models.list()} == {"all-MiniLM-L6-v2", "played"}
    assert client.models.retrieve("played").object == "model"


def test_each_failure_is_its_own_class(served: Service, client: Any) -> None:
    tunnel = {"X-Forwarded-For": "203.0.113.9"}
    with connect(served, api_key="not needed for a local LLM") as any_key:
        assert any_key.models.list().data
    with (pytest.raises(openai.AuthenticationError),
          connect(served, api_key="a-wrong-key", default_headers=tunnel) as wrong):
        wrong.models.list()
    with pytest.raises(openai.NotFoundError) as absent:
        client.chat.completions.create(model="gpt-9", messages=COUNT)
    assert absent.value.code == "model_not_found" and absent.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="played", messages=COUNT, seed=1)
    assert refused.value.param == "seed" and refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as ids:
        client.embeddings.create(model="all-MiniLM-L6-v2", input=[1, 2, 3])
    assert ids.value.param == "input"


def test_a_full_queue_is_a_rate_limit_from_which_the_client_recovers(
        start: Callable[..., Service], tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    service = start(MODEL_PATH=folder, MODEL_NAME=scripts.write(folder, *RULES), QUEUE_LIMIT=0, API_KEYS=KEY,
                    EMBED_MODEL=scripts.write(folder, name="vectors", kind="embedding"))
    slow = [{"role": "user", "content": "slow"}]
    with connect(service, max_retries=8) as patient, connect(service, max_retries=0) as hasty:
        with patient.chat.completions.create(model="played", messages=slow, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as full:
                hasty.chat.completions.create(model="played", messages=slow)
        assert full.value.code == "queue_full" and int(full.value.response.headers["Retry-After"]) >= 1
        answers: list[str] = []
        threads = [threading.Thread(target=lambda: answers.append(
            patient.chat.completions.create(model="played", messages=slow).choices[0].message.content))
            for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["abcd"] * 4
    refused = sum('" 429 ' in line for line in (service.log_folder / "access.log").read_text().splitlines())
    print(f"4 calls at once, one place: {refused - 1} times 429, all answered")
    assert refused >= 3


def test_a_real_model_answers_and_streams(start: Callable[..., Service]) -> None:
    service = start(API_KEYS=KEY, EMBED_MODEL="none")
    with connect(service, max_retries=0) as client:
        made = client.chat.completions.create(model="tiny-llama", messages=COUNT, max_tokens=5)
        assert made.choices[0].message.content and made.usage.completion_tokens == 5
        for stream in (client.completions.create(model="tiny-llama", prompt="Hello", stream=True),
                       client.chat.completions.create(model="tiny-llama", messages=COUNT, max_tokens=5, stream=True)):
            chunks = list(stream)
            assert chunks[-1].choices[0].finish_reason == "length"
            texts = [choice.text if hasattr(choice, "text") else choice.delta.content or ""
                     for choice in (chunk.choices[0] for chunk in chunks)]
            assert len([text for text in texts if text]) > 1 and len("".join(texts).split()) > 3
