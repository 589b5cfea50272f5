"""What a model thinks, says and calls, in the forms of OpenAI's responses and of Anthropic's messages."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from web_rig import FINISHED, HOLD, ScriptedLane, http_post, one_answer, read_all, serving

from mayfly.errors import ModelCrashed
from mayfly.wire.calls import Piece, ToolDelta

ENDED = dataclasses.replace(FINISHED, reason="tool_calls")
ANSWER = [Piece("", reasoning="Let me "), Piece("", reasoning="think."), Piece("Hel"), Piece("lo"),
          Piece("", tool_calls=(ToolDelta(0, "call_a", "get", ""), ToolDelta(0, "", "", '{"a":'))),
          Piece("", tool_calls=(ToolDelta(0, "", "", "1}"),)),
          Piece("", tool_calls=(ToolDelta(1, "call_b", "put", "{}"),)), ENDED]
RESPONSES: tuple[str, dict[str, Any]] = ("/v1/responses", {"input": "hi"})
MESSAGES: tuple[str, dict[str, Any]] = ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}],
                                                         "max_tokens": 9})


def asked(route: tuple[str, dict[str, Any]], items: list[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return an answer of these pieces, whole, and the events of its stream."""
    path, body = route
    with serving(ScriptedLane(items=items)) as service:
        status, _, whole = service.post(path, body)
        assert status == 200
        _, _, stream = service.request("POST", path, json.dumps({**body, "stream": True}).encode(),
                                       Content_Type="application/json")
    return whole, [json.loads(event.partition("data: ")[2]) for event in stream.decode().split("\n\n") if event]


def test_a_response_has_an_item_for_each_thing_that_comes_of_a_model() -> None:
    whole, events = asked(RESPONSES, ANSWER)
    thought, said, *called = whole["output"]
    assert (thought["type"], thought["content"]) == (
        "reasoning", [{"type": "reasoning_text", "text": "Let me think."}])
    assert (said["type"], said["content"][0]["text"]) == ("message", "Hello")
    assert [(each["type"], each["call_id"], each["name"], each["arguments"]) for each in called] == [
        ("function_call", "call_a", "get", '{"a":1}'), ("function_call", "call_b", "put", "{}")]
    assert whole["status"] == "completed" and {item["status"] for item in whole["output"]} == {"completed"}
    streamed = events[-1]["response"]["output"]
    ids = [item.pop("id") for item in streamed]
    assert len(set(ids)) == 4 and [name[:3] for name in ids] == ["rs_", "msg", "fc_", "fc_"]
    assert streamed == [{key: value for key, value in item.items() if key != "id"} for item in whole["output"]]


def test_the_items_of_a_response_are_streamed_one_after_the_other() -> None:
    _, events = asked(RESPONSES, ANSWER)
    text, call = ("content_part.added", "content_part.done"), "function_call_arguments"
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", text[0], *["reasoning_text.delta"] * 2, "reasoning_text.done", text[1], "output_item.done",
        "output_item.added", text[0], *["output_text.delta"] * 2, "output_text.done", text[1], "output_item.done",
        "output_item.added", *[f"{call}.delta"] * 2, f"{call}.done", "output_item.done",
        "output_item.added", f"{call}.delta", f"{call}.done", "output_item.done", "completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["output_index"] for event in events if event["type"].endswith("item.done")] == [0, 1, 2, 3]
    first = next(event["item"] for event in events if event["type"].endswith("added") and event["output_index"] == 2)
    assert (first["name"], first["call_id"], first["arguments"], first["status"]) == ("get", "call_a", "",
                                                                                    "in_progress")


def test_a_message_has_a_block_for_each_thing_that_comes_of_a_model() -> None:
    whole, events = asked(MESSAGES, ANSWER)
    assert whole["content"] == [
        {"type": "thinking", "thinking": "Let me think.", "signature": ""}, {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "call_a", "name": "get", "input": {"a": 1}},
        {"type": "tool_use", "id": "call_b", "name": "put", "input": {}}]
    assert whole["stop_reason"] == events[-2]["delta"]["stop_reason"] == "tool_use"
    start, stop = "content_block_start", "content_block_stop"
    two = ["content_block_delta"] * 2
    assert [event["type"] for event in events] == [
        "message_start", "ping", start, *two, stop, start, *two, stop, start, *two, stop, start, two[0], stop,
        "message_delta", "message_stop"]
    deltas = [(event["index"], *event["delta"].values()) for event in events if event["type"] == two[0]]
    assert deltas == [(0, "thinking_delta", "Let me "), (0, "thinking_delta", "think."), (1, "text_delta", "Hel"),
                      (1, "text_delta", "lo"), (2, "input_json_delta", '{"a":'), (2, "input_json_delta", "1}"),
                      (3, "input_json_delta", "{}")]
    assert events[-5]["content_block"] == {"type": "tool_use", "id": "call_b", "name": "put", "input": {}}


def test_an_answer_without_a_word_has_the_form_of_one() -> None:
    whole, events = asked(RESPONSES, [FINISHED])
    assert whole["output"][0]["content"][0]["text"] == ""
    assert events[-1]["response"]["output"][0]["content"] == whole["output"][0]["content"]
    whole, events = asked(MESSAGES, [FINISHED])
    assert whole["content"] == [] and [event["type"] for event in events] == [
        "message_start", "ping", "message_delta", "message_stop"]


def test_a_silent_stream_shows_signs_of_life_and_may_fail_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mayfly.web.flows._SILENCE", 0.05)
    for (path, body), sign, named in (
            (RESPONSES, b": ping\n\n", ["response.created", "response.in_progress", "error", "response.failed"]),
            (MESSAGES, b'event: ping\ndata: {"type": "ping"}\n\n', ["error"])):
        lane = ScriptedLane(items=[HOLD, ModelCrashed("the model process died")])
        with serving(lane) as service, service.connect() as sock:
            sock.sendall(http_post(path, json.dumps({**body, "stream": True}).encode(), "Connection: close"))
            data = b""
            while sign not in data:
                data += sock.recv(1000)
            lane.release()
            said = one_answer(data + read_all(sock)).body.replace(b": ping\n\n", b"").replace(sign, b"")
        events = [json.loads(event.partition("data: ")[2]) for event in said.decode().split("\n\n") if event]
        assert [event["type"] for event in events] == named
        assert "died" in json.dumps(events)


def test_what_is_nested_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    used = {"type": "tool_use", "id": "a", "name": "f", "input": deep}
    turns = [{"role": "assistant", "content": [used]}, {"role": "user", "content": "a"}]
    held = {"type": "json_schema", "name": "a", "schema": deep}
    with serving(CHAT_ENGINE="llamacpp") as service:
        for (path, body), more, field in (
                (RESPONSES, {"text": {"format": held}}, "text.format"),
                (MESSAGES, {"output_config": {"format": held}}, "output_config.format"),
                (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": deep}]}, "tools.0.parameters"),
                (MESSAGES, {"tools": [{"name": "f", "input_schema": deep}]}, "tools.0.input_schema"),
                (MESSAGES, {"messages": turns}, "messages.0.content.0.input")):
            status, _, answer = service.post(path, {**body, **more})
            assert status == 400 and answer["error"]["message"].startswith(f"'{field}' has to be")
            assert "nested less" in answer["error"]["message"]


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "not JSON"])
def test_arguments_that_are_cut_are_none_of_a_message(arguments: str) -> None:
    cut = dataclasses.replace(FINISHED, reason="length")
    whole, _ = asked(MESSAGES, [Piece("", tool_calls=(ToolDelta(0, "call_a", "get", arguments),)), cut])
    assert whole["content"][0]["input"] == {} and whole["stop_reason"] == "max_tokens"
