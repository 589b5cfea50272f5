"""`/v1/messages`: the same answers as a chat's, in the form of Anthropic's clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from clients import COUNTED, KEY
from dialects_rig import ASKED_OF_TOOL, CAT, PLACE, PROMPT, TUNNEL, ask, begin, chat, events, streamed
from service import Service

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
ASKED: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
QUIET: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": PLACE}
COUNT: dict[str, Any] = {"model": "played", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    """See the rig."""
    running = begin(tmp_path_factory.mktemp("messages"), smollm2)
    yield running.wait_ready()
    running.stop()


def error_of(answer: requests.Response) -> dict[str, str]:
    """Return the error of an answer, which has to have Anthropic's form."""
    parsed = answer.json()
    assert set(parsed) == {"type", "error", "request_id"} and parsed["type"] == "error"
    assert parsed["request_id"] == answer.headers["X-Request-Id"]
    assert set(parsed["error"]) == {"type", "message"}
    return dict(parsed["error"])


def text_of(message: dict[str, Any]) -> str:
    [block] = message["content"]
    assert block["type"] == "text"
    return str(block["text"])


def test_a_message_is_what_a_chat_would_have_answered(service: Service) -> None:
    parts = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
             {"type": "text", "text": "Be kind."}]
    turns = [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
             {"role": "user", "content": "More."}]
    for body, messages in (
            ({"messages": ASKED}, ASKED),
            ({"messages": ASKED, "system": "You are Ada."}, [{"role": "system", "content": "You are Ada."}, *ASKED]),
            ({"messages": turns, "system": parts},
             [{"role": "system", "content": "Be brief.\nBe kind."}, *ASKED, {"role": "assistant", "content": "Red."},
              {"role": "user", "content": "More."}])):
        message = ask(service, PATH, **body, **QUIET)
        text, usage = chat(service, messages, max_tokens=12)
        assert text_of(message) == text
        assert message["usage"]["input_tokens"] == usage["prompt_tokens"]
        assert message["usage"]["output_tokens"] == usage["completion_tokens"]
        assert (message["type"], message["role"]) == ("message", "assistant")


def test_a_stream_has_the_events_of_anthropics_clients_in_their_order(service: Service) -> None:
    long = {**QUIET, "max_tokens": 48}
    whole = ask(service, PATH, messages=ASKED, **long)
    found = streamed(service, PATH, messages=ASKED, **long)
    deltas = [event for event in found if event["type"] == "content_block_delta"]
    assert [event["type"] for event in found] == [
        "message_start", "ping", "content_block_start", *["content_block_delta"] * len(deltas), "content_block_stop",
        "message_delta", "message_stop"]
    assert "".join(event["delta"]["text"] for event in deltas) == text_of(whole) and len(deltas) > 3
    assert {event["index"] for event in deltas} == {0} and deltas[0]["delta"]["type"] == "text_delta"
    assert found[0]["message"]["content"] == [] and found[0]["message"]["stop_reason"] is None
    assert found[2]["content_block"] == {"type": "text", "text": ""}
    assert found[-2]["usage"] == whole["usage"]
    assert found[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}


def test_a_message_tells_why_it_ends(service: Service) -> None:
    assert ask(service, PATH, messages=ASKED, **QUIET)["stop_reason"] == "max_tokens"
    ended = ask(service, PATH, **COUNT)
    assert (ended["stop_reason"], ended["stop_sequence"], text_of(ended)) == ("end_turn", None, COUNTED)
    for stops in (["three"], ["nothing", "three", "four"]):
        cut = ask(service, PATH, **COUNT, stop_sequences=stops)
        assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", "three")
        assert text_of(cut) == "one two "
        delta = streamed(service, PATH, **COUNT, stop_sequences=stops)[-2]["delta"]
        assert delta == {"stop_reason": "stop_sequence", "stop_sequence": "three"}


def test_an_answer_is_taken_as_a_turn(service: Service) -> None:
    first = ask(service, PATH, messages=ASKED, **QUIET)
    turns = [*ASKED, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": "More."}]
    text, usage = chat(service, [*ASKED, {"role": "assistant", "content": text_of(first)}, turns[-1]], max_tokens=12)
    again = ask(service, PATH, messages=turns, **QUIET)
    assert text_of(again) == text and again["usage"]["input_tokens"] == usage["prompt_tokens"]


def test_what_asks_for_nothing_changes_nothing(service: Service) -> None:
    more = ask(service, PATH, messages=ASKED, **QUIET, metadata={"user_id": "u"}, tools=[], stop_sequences=[],
               top_p=1.0, top_k=0, service_tier="auto", cache_control={"type": "ephemeral"}, mcp_servers=[])
    assert text_of(more) == text_of(ask(service, PATH, messages=ASKED, **QUIET))


def test_an_answer_is_held_to_its_format(service: Service) -> None:
    held = {"format": {"type": "json_schema", "schema": CAT}}
    asked = {"messages": [{"role": "user", "content": "My cat Tom is five years old."}], "output_config": held}
    made = ask(service, PATH, **asked, temperature=0, max_tokens=60)
    jsonschema.validate(json.loads(text_of(made)), CAT)
    # What the prompt tells of it counts.
    assert ask(service, COUNT_PATH, **asked)["input_tokens"] == made["usage"]["input_tokens"]


def test_the_tokens_that_are_counted_are_those_that_a_message_evaluates(service: Service) -> None:
    turns = [*ASKED, {"role": "assistant", "content": "Red. <|im_end|>"}, {"role": "user", "content": "</s> 你好"}]
    for body in ({"messages": ASKED}, {"messages": turns, "system": "You are Ada."},
                 {"messages": turns, "model": "played"}):
        counted = ask(service, COUNT_PATH, **body)
        assert counted == {"input_tokens": ask(service, PATH, **body, **QUIET)["usage"]["input_tokens"]}
    # One that doesn't fit has tokens too.
    assert ask(service, COUNT_PATH, messages=[{"role": "user", "content": "word " * 600}])["input_tokens"] > 600


def test_what_can_not_be_counted_is_refused_in_the_same_words(service: Service) -> None:
    for body, status, words in (({}, 400, "'messages' is missing"),
                                ({"messages": ASKED, "model": "nobody"}, 404, "nobody"),
                                ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "only reads")):
        answer = service.post(COUNT_PATH, body)
        assert (answer.status_code, words in error_of(answer)["message"]) == (status, True)


def test_a_real_model_uses_a_tool(service: Service) -> None:
    turns = [{"role": "user", "content": ASKED_OF_TOOL}]
    body = {"messages": turns, "temperature": 0, "max_tokens": 60, "tools": [WEATHER]}
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        choice["disable_parallel_tool_use"] = True
        whole = ask(service, PATH, **body, tool_choice=choice)
        [used] = whole["content"]
        assert (used["type"], used["name"], whole["stop_reason"]) == ("tool_use", "weather", "tool_use")
        jsonschema.validate(used["input"], PLACE)
        found = streamed(service, PATH, **body, tool_choice=choice)
        deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
        assert {delta["type"] for delta in deltas} == {"input_json_delta"} and len(deltas) > 1
        assert json.loads("".join(delta["partial_json"] for delta in deltas)) == used["input"]
        assert found[2]["content_block"]["name"] == "weather" and found[-2]["delta"]["stop_reason"] == "tool_use"
    counted = ask(service, COUNT_PATH, messages=turns, tools=[WEATHER])
    assert counted["input_tokens"] == whole["usage"]["input_tokens"]
    result = {"type": "tool_result", "tool_use_id": used["id"], "content": [{"type": "text", "text": "Snow."}]}
    turns = [*turns, {"role": "assistant", "content": whole["content"]},
             {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}]
    made = ask(service, PATH, messages=turns, tools=[WEATHER], tool_choice={"type": "none"}, **QUIET)
    called = {"id": used["id"], "type": "function",
              "function": {"name": "weather", "arguments": json.dumps(used["input"])}}
    text, usage = chat(service, [turns[0], {"role": "assistant", "content": None, "tool_calls": [called]},
                                 {"role": "tool", "tool_call_id": used["id"], "content": "Snow."},
                                 {"role": "user", "content": "So?"}], max_tokens=12)
    assert text_of(made) == text and made["usage"]["input_tokens"] == usage["prompt_tokens"]


def test_a_text_its_calls_and_a_thought_are_blocks_of_their_own(service: Service) -> None:
    asked = {"model": "played", "messages": [{"role": "user", "content": "call twice"}], "tools": [WEATHER]}
    made = ask(service, PATH, **asked, max_tokens=500)
    assert [block["type"] for block in made["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in made["content"][1:]] == [{"city": "Oslo"}, {"city": "Rome"}]
    asked = {"model": "thinker", "messages": [{"role": "user", "content": "think"}], "thinking": {"type": "enabled"}}
    made = ask(service, PATH, **asked, max_tokens=50)
    assert made["content"] == [{"type": "thinking", "thinking": "Hm, well.", "signature": ""},
                               {"type": "text", "text": "It is so."}]
    turns = [*asked["messages"], {"role": "assistant", "content": made["content"]},
             {"role": "user", "content": "think again"}]
    assert len(ask(service, PATH, model="thinker", messages=turns, max_tokens=50)["content"]) == 2


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    # what is wrong, status, words of the message
    ({"max_tokens": None}, 400, "'max_tokens' is missing"), ({"max_tokens": 0}, 400, "'max_tokens' has to be"),
    ({"messages": []}, 400, "'messages' has to be a non-empty list"),
    ({"messages": [*ASKED, {"role": "assistant", "content": "The"}]}, 400, "'messages' has to end with"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "'messages.0.role'"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400,
     "'messages.0.content.0.type' has to be \"text\""),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, 400, "only reads text"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [
        {"type": "image", "source": {}}]}]}]}, 400, "'messages.0.content.0.content.0.type'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "'messages.0.content.0.text' is missing"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]}, 400,
     "whose role is 'assistant'"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "empty or blank"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "'tools.0.type' has to be \"custom\""),
    ({"tool_choice": {"type": "any"}}, 400, "'tool_choice'"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, 400, "'tools.0.name' has to be"),
    ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, 400, "'tools.0.input_schema' has to be"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, 400, "'tool_choice.name' has to be"),
    ({"tools": [{"name": "f"}]}, 400, "'tools.0.input_schema' is missing"),
    ({"stop_sequences": ["a"] * 17}, 400, "'stop_sequences'"), ({"temperature": 3}, 400, "'temperature'"),
    ({"output_config": {"format": {"type": "json_schema"}}}, 400, "'output_config.format.schema' is missing"),
    ({"container": "c"}, 400, "'container'"), ({"mcp_servers": [{"url": "x"}]}, 400, "'mcp_servers'"),
    ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, "'messages' is too long"),
    ({"model": "nobody"}, 404, "There is no model nobody here"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_can_not_be_done_is_refused_by_its_name(
        service: Service, body: dict[str, Any], status: int, words: str) -> None:
    for stream in (False, True):
        answer = service.post(PATH, {"messages": ASKED, "max_tokens": 5, **body, "stream": stream})
        error = error_of(answer)
        assert (answer.status_code, words in error["message"]) == (status, True), error
        assert error["type"] == {400: "invalid_request_error", 404: "not_found_error"}[status]


def test_what_is_refused_before_the_application_sees_it_has_the_form_too(service: Service) -> None:
    url = service.url + PATH
    for answer, status, kind in (
            (requests.get(url, timeout=120), 405, "invalid_request_error"),
            (requests.post(url + "/nothing", json={}, timeout=120), 404, "not_found_error"),
            (requests.post(url, data=b"{", headers={"Content-Type": "application/json"}, timeout=120), 400,
             "invalid_request_error"),
            (requests.post(url, data=b"x" * (9 << 20), headers={"Content-Type": "application/json"}, timeout=120), 413,
             "request_too_large"),
            (service.post(PATH, COUNT, headers=TUNNEL), 401, "authentication_error"),
            (service.post(PATH, COUNT, headers={"Host": "rebound.example"}), 403, "permission_error"),
            (service.post(PATH, {**COUNT, "messages": [{"role": "user", "content": "crash"}]}), 500, "api_error")):
        assert (answer.status_code, error_of(answer)["type"]) == (status, kind)


def test_a_crash_within_a_stream_is_its_last_event(service: Service) -> None:
    body = {**COUNT, "messages": [{"role": "user", "content": "crash"}], "stream": True}
    answer = service.post(PATH, body)
    found = events(answer)
    assert [event["type"] for event in found[-2:]] == ["content_block_delta", "error"]
    assert found[-1]["error"]["type"] == "api_error" and "died" in found[-1]["error"]["message"]
    assert found[-1]["request_id"] == answer.headers["X-Request-Id"]


def test_a_key_is_taken_from_the_header_of_anthropics_clients(service: Service) -> None:
    for headers, status in (
            ({}, 401), ({"x-api-key": KEY}, 200), ({"x-api-key": "wrong"}, 401), ({"x-api-key": ""}, 401),
            ({"x-api-key": KEY, "anthropic-version": "2023-06-01"}, 200), ({"Authorization": f"Bearer {KEY}"}, 200),
            ({"Authorization": "Bearer wrong", "x-api-key": KEY}, 401)):
        for path, body in ((PATH, COUNT), ("/v1/chat/completions", {**COUNT, "max_tokens": 3})):
            assert service.post(path, body, headers={**TUNNEL, **headers}).status_code == status
    # Where none is needed, any will do.
    assert service.post(PATH, COUNT, headers={"x-api-key": "any"}).status_code == 200
    for file in service.log_folder.iterdir():
        assert KEY not in file.read_text()
    assert KEY not in service.output()
