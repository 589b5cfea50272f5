"""Messages, as one object, and as the events of a stream. Their names and their order are those of Anthropic's
clients."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

from mayfly.problem import Problem
from mayfly.web.blocks import Block, Blocks, Step
from mayfly.web.choices import Part
from mayfly.web.flows import Form, named_event
from mayfly.wire.calls import Completion, Finished, Piece

PATH = "/v1/messages"

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
# A block without its text, and with it; and what a part of the text is called in a delta.
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""}, "reasoning": {"type": "thinking", "thinking": "", "signature": ""}}
_DELTAS = {"text": ("text_delta", "text"), "reasoning": ("thinking_delta", "thinking"),
           "call": ("input_json_delta", "partial_json")}


class Events:
    """One message.

    Args:
        model: the name of the model that serves.
        request_id: the request's.
    """

    def __init__(self, model: str, request_id: str) -> None:
        self._heading = {"id": "msg_" + secrets.token_hex(12), "type": "message", "role": "assistant", "model": model}
        self._request_id = request_id
        self._blocks = Blocks()
        self._begun = False

    def whole(self, made: Completion) -> dict[str, Any]:
        """Return a message that isn't streamed."""
        return {**self._heading, "content": [_whole(block) for block in Blocks.of(made)], **_reason(made.finished),
                "usage": _usage(made.finished)}

    def form(self) -> Form:
        """Return how the events are streamed."""
        return Form("text/event-stream; charset=utf-8", named_event, self._failed, named_event({"type": "ping"}))

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the events that show a part."""
        item = part.item
        if not self._begun:
            self._begun = True
            # How many tokens the prompt has is known at the end, and told there.
            yield {"type": "message_start", "message": {
                **self._heading, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(None)}}
            yield {"type": "ping"}
        if isinstance(item, Piece):
            for step in self._blocks.steps(item):
                yield _shown(step)
            return
        assert isinstance(item, Finished)
        for step in self._blocks.end():
            yield _shown(step)
        yield {"type": "message_delta", "delta": _reason(item), "usage": _usage(item)}
        yield {"type": "message_stop"}

    def _failed(self, problem: Problem) -> bytes:
        return named_event(problem.as_object(PATH, self._request_id))


def _shown(step: Step) -> dict[str, Any]:
    block = step.block
    if step.what == "begin":
        empty = _EMPTY.get(block.kind) or {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
        return {"type": "content_block_start", "index": block.number, "content_block": empty}
    if step.what == "end":
        return {"type": "content_block_stop", "index": block.number}
    kind, name = _DELTAS[block.kind]
    return {"type": "content_block_delta", "index": block.number, "delta": {"type": kind, name: step.text}}


def _whole(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": _arguments(block.text)}
    return {**_EMPTY[block.kind], _DELTAS[block.kind][1]: block.text}


def _arguments(text: str) -> dict[str, Any]:
    # An answer that max_tokens has cut may end within them.
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _reason(end: Finished) -> dict[str, Any]:
    if end.stop_sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_sequence}
    return {"stop_reason": _REASONS[end.reason], "stop_sequence": None}


def _usage(end: Finished | None) -> dict[str, int]:
    return {"input_tokens": end.prompt_tokens if end is not None else 0, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0, "output_tokens": end.completion_tokens if end is not None else 0}
