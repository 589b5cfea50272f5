"""`/v1/responses`: the same answers as a chat's, in the form that OpenAI's clients call by default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from clients import COUNTED
from dialects_rig import ASKED_OF_TOOL, CAT, PLACE, PROMPT, TUNNEL, ask, begin, chat, streamed
from service import Service

PATH = "/v1/responses"
WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": PLACE, "strict": True}
QUIET: dict[str, Any] = {"temperature": 0, "max_output_tokens": 12}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    """See the rig."""
    running = begin(tmp_path_factory.mktemp("responses"), smollm2)
    yield running.wait_ready()
    running.stop()


def text_of(response: dict[str, Any]) -> str:
    [item] = response["output"]
    [part] = item["content"]
    assert (item["type"], item["role"], part["type"]) == ("message", "assistant", "output_text")
    return str(part["text"])


def test_a_response_is_what_a_chat_would_have_answered(service: Service) -> None:
    for body, messages in (
            ({"input": PROMPT}, [{"role": "user", "content": PROMPT}]),
            ({"input": PROMPT, "instructions": "You are Ada."},
             [{"role": "system", "content": "You are Ada."}, {"role": "user", "content": PROMPT}]),
            ({"input": [{"role": "developer", "content": "Be brief."},
                        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": PROMPT}]},
                        {"role": "assistant", "content": "Red."}, {"role": "user", "content": "More."}]},
             [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT},
              {"role": "assistant", "content": "Red."}, {"role": "user", "content": "More."}])):
        response = ask(service, PATH, **body, **QUIET)
        text, usage = chat(service, messages, max_tokens=12)
        assert text_of(response) == text
        assert response["usage"]["input_tokens"] == usage["prompt_tokens"]
        assert response["usage"]["output_tokens"] == usage["completion_tokens"]
        assert response["instructions"] == body.get("instructions")


def test_a_stream_has_the_events_of_openais_clients_in_their_order(service: Service) -> None:
    long = {**QUIET, "max_output_tokens": 48}
    whole = ask(service, PATH, input=PROMPT, **long)
    found = streamed(service, PATH, input=PROMPT, **long)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [event["type"] for event in found] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * len(deltas), "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete"]
    assert "".join(event["delta"] for event in deltas) == text_of(whole) and len(deltas) > 3
    last = found[-1]["response"]
    assert text_of(last) == text_of(whole) == found[-4]["text"]
    assert found[0]["response"]["id"] == last["id"] and found[0]["response"]["status"] == "in_progress"
    assert {event["item_id"] for event in deltas} == {last["output"][0]["id"]}
    assert last["usage"] == whole["usage"] and found[-2]["item"] == last["output"][0]


def test_a_response_tells_whether_it_is_complete(service: Service) -> None:
    cut = ask(service, PATH, input=PROMPT, **QUIET)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"
    ended = ask(service, PATH, model="played", input="count")
    assert (ended["status"], ended["incomplete_details"], text_of(ended)) == ("completed", None, COUNTED)
    assert streamed(service, PATH, model="played", input="count")[-1]["type"] == "response.completed"


def test_what_was_answered_is_taken_as_a_turn(service: Service) -> None:
    first = ask(service, PATH, input=PROMPT, **QUIET)
    turns = [{"role": "user", "content": PROMPT}, *first["output"], {"role": "user", "content": "More."}]
    again = ask(service, PATH, input=turns, **QUIET)
    text, usage = chat(service, [{"role": "user", "content": PROMPT},
                                 {"role": "assistant", "content": text_of(first)},
                                 {"role": "user", "content": "More."}], max_tokens=12)
    assert text_of(again) == text and again["usage"]["input_tokens"] == usage["prompt_tokens"]


def test_what_asks_for_nothing_changes_nothing(service: Service) -> None:
    plain = ask(service, PATH, input=PROMPT, **QUIET)
    more = ask(service, PATH, input=PROMPT, **QUIET, store=True, metadata={"a": "b"}, user="u", background=False,
               previous_response_id=None, text={"format": {"type": "text"}, "verbosity": "low"}, tools=[],
               tool_choice="auto", parallel_tool_calls=False, truncation="disabled", prompt_cache_key="k",
               include=["reasoning.encrypted_content"], reasoning={"effort": None}, service_tier="auto")
    assert text_of(more) == text_of(plain)
    assert (more["metadata"], more["store"], plain["metadata"]) == ({"a": "b"}, False, {})


def test_the_log_probabilities_that_are_included_are_told(service: Service) -> None:
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = ask(service, PATH, input=PROMPT, **QUIET, **wanted)
    told = whole["output"][0]["content"][0]["logprobs"]
    assert len(told) == 12 and all(len(token["top_logprobs"]) == 2 for token in told)
    found = streamed(service, PATH, input=PROMPT, **QUIET, **wanted)
    assert [token for event in found if event["type"].endswith("text.delta") for token in event["logprobs"]] == told


def test_the_oldest_turns_are_left_out_only_if_that_is_allowed(service: Service) -> None:
    turns = [{"role": "user", "content": f"{number} " + "word " * 100} for number in range(9)]
    refused = service.post(PATH, {"input": turns, **QUIET})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert error["message"].startswith("'input' is too long")
    assert ask(service, PATH, input=turns, **QUIET, truncation="auto")["usage"]["input_tokens"] < 512


def test_a_text_is_held_to_its_format(service: Service) -> None:
    asked = {"input": "My cat Tom is five years old.", "temperature": 0, "max_output_tokens": 60}
    held = {"type": "json_schema", "name": "cat", "schema": CAT, "strict": True}
    whole = ask(service, PATH, **asked, text={"format": held})
    jsonschema.validate(json.loads(text_of(whole)), CAT)
    assert (whole["status"], whole["text"]) == ("completed", {"format": held})
    found = streamed(service, PATH, **asked, text={"format": held})
    assert text_of(found[-1]["response"]) == text_of(whole)
    [any_object] = ask(service, PATH, input=PROMPT, temperature=0, text={"format": {"type": "json_object"}},
                       max_output_tokens=100)["output"][0]["content"]
    assert any_object["text"].startswith("{")
    form, _ = chat(service, [{"role": "user", "content": asked["input"]}], max_tokens=60, response_format={
        "type": "json_schema", "json_schema": {"name": "cat", "schema": CAT}})
    assert form == text_of(whole)


def test_a_real_model_calls_a_function(service: Service) -> None:
    body = {"input": ASKED_OF_TOOL, "temperature": 0, "max_output_tokens": 60, "tools": [WEATHER],
            "parallel_tool_calls": False}
    for choice in ("required", {"type": "function", "name": "weather"}):
        whole = ask(service, PATH, **body, tool_choice=choice)
        [call] = whole["output"]
        assert (call["type"], call["name"], call["status"], whole["status"]) == (
            "function_call", "weather", "completed", "completed")
        jsonschema.validate(json.loads(call["arguments"]), PLACE)
        found = streamed(service, PATH, **body, tool_choice=choice)
        deltas = [event for event in found if event["type"] == "response.function_call_arguments.delta"]
        assert "".join(event["delta"] for event in deltas) == call["arguments"] and len(deltas) > 1
        [last] = found[-1]["response"]["output"]
        assert (last["name"], last["arguments"]) == ("weather", call["arguments"])
        assert whole["tools"] == found[-1]["response"]["tools"] == [{**WEATHER, "strict": True}]
    none = ask(service, PATH, **body, tool_choice="none")
    assert none["output"][0]["type"] == "message"


def test_calls_and_what_came_of_them_are_turns_of_the_conversation(service: Service) -> None:
    first = ask(service, PATH, input=ASKED_OF_TOOL, temperature=0, max_output_tokens=60, tools=[WEATHER],
                tool_choice="required", parallel_tool_calls=False)
    [call] = first["output"]
    turns = [{"role": "user", "content": ASKED_OF_TOOL}, call,
             {"type": "function_call_output", "call_id": call["call_id"], "output": "Snow."}]
    made = ask(service, PATH, input=turns, tools=[WEATHER], tool_choice="none", **QUIET)
    called = {"id": call["call_id"], "type": "function",
              "function": {"name": "weather", "arguments": call["arguments"]}}
    text, usage = chat(service, [{"role": "user", "content": ASKED_OF_TOOL},
                                 {"role": "assistant", "content": None, "tool_calls": [called]},
                                 {"role": "tool", "tool_call_id": call["call_id"], "content": "Snow."}], max_tokens=12,
                       tools=[{"type": "function", "function": {"name": "weather", "description": "Tells it.",
                                                                "parameters": PLACE}}], tool_choice="none")
    assert text_of(made) == text and made["usage"]["input_tokens"] == usage["prompt_tokens"]


def test_a_text_its_calls_and_a_thought_are_items_of_their_own(service: Service) -> None:
    said, *calls = ask(service, PATH, model="played", input="call twice", tools=[WEATHER])["output"]
    assert said["content"][0]["text"] == "I will look." and len(calls) == 2
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call["call_id"] for call in calls}) == 2
    thought, answer = ask(service, PATH, model="thinker", input="think")["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Hm, well.")
    assert answer["content"][0]["text"] == "It is so."
    again = ask(service, PATH, model="thinker", input=[{"role": "user", "content": "think"}, thought, answer,
                                                       {"role": "user", "content": "once more"}])
    assert [item["type"] for item in again["output"]] == ["reasoning", "message"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # body, param, a word of the message
    ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id", "nothing is kept"),
    ({"input": "a", "conversation": "conv_1"}, "conversation", "nothing is kept"),
    ({"input": "a", "background": True}, "background", "nothing is kept"),
    ({"input": "a", "prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0", "store: false"),
    ({"input": [{"role": "user", "content": "x"}, {"type": None, "id": "msg_1"}]}, "input.1", "store: false"),
    ({"input": [{"type": "computer_call_output", "call_id": "a"}]}, "input.0.type", "function_call_output"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.type",
     "reads nothing else"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input.0.content.0.type",
     "reads nothing else"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role", "developer"),
    ({"input": [{"content": "x"}]}, "input.0.role", "missing"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id", "missing"),
    ({"input": [{"role": "user", "content": []}]}, "input.0.content", "input_text"),
    ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0.type", "no other tools"),
    ({"input": "a", "tool_choice": {"type": "web_search"}}, "tool_choice", "function"),
    ({"input": "a", "tool_choice": "required"}, "tool_choice", "no tools"),
    ({"input": "a", "tools": [{"type": "function", "name": "a b"}]}, "tools.0.name", "letters"),
    ({"input": "a", "tools": [WEATHER, WEATHER]}, "tools.1.name", "no other tool"),
    ({"input": "a", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name",
     "one of"),
    ({"input": "a", "max_output_tokens": 0}, "max_output_tokens", "from 1 on"),
    ({"input": "a", "temperature": 3}, "temperature", "from 0 to 2"),
    ({"input": ""}, "input", "empty or blank"), ({"input": []}, "input", "non-empty"), ({}, "input", "missing"),
    ({"input": "a", "text": {"format": {"type": "xml"}}}, "text.format", "json_schema"),
    ({"input": "a", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "missing"),
    ({"input": "a", "text": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "text.format",
     "can't be used"),
    ({"input": "a", "model": "nobody"}, "model", "no model"),
]


@pytest.mark.parametrize(("body", "param", "word"), REFUSED, ids=[f"{param}-{word}" for _, param, word in REFUSED])
def test_what_can_not_be_done_is_refused_by_its_name(
        service: Service, body: dict[str, Any], param: str, word: str) -> None:
    for stream in (False, True):
        answer = service.post(PATH, {**body, "stream": stream})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (404 if param == "model" else 400, param)
        assert word in error["message"]


def test_a_crash_before_the_answer_is_an_error_and_within_it_the_last_events_are(service: Service) -> None:
    whole = service.post(PATH, {"model": "played", "input": "crash"})
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "model_crashed")
    found = streamed(service, PATH, model="played", input="crash")
    assert [event["type"] for event in found[-3:]] == ["response.output_text.delta", "error", "response.failed"]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[-2]["code"] == found[-1]["response"]["error"]["code"] == "model_crashed"
    assert "died" in found[-2]["message"] and found[-1]["response"]["status"] == "failed"
    assert text_of(found[-1]["response"]) == "ab"


def test_a_key_is_needed_from_elsewhere(service: Service) -> None:
    refused = service.post(PATH, {"input": "a"}, headers=TUNNEL)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
