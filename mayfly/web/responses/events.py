"""Responses, as one object, and as the events of a stream, whose names and order are those that OpenAI's clients
know."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any

from mayfly.problem import Problem
from mayfly.web import logprobs
from mayfly.web.blocks import Block, Blocks, Step
from mayfly.web.choices import Part
from mayfly.web.flows import Form, named_event
from mayfly.wire.calls import Completion, Finished, Piece

_PREFIX = {"text": "msg_", "reasoning": "rs_", "call": "fc_"}


class Events:
    """One response.

    Args:
        model: the name of the model that serves.
        shown: what is repeated of the request.
    """

    def __init__(self, model: str, shown: dict[str, Any]) -> None:
        self._heading = {"id": "resp_" + secrets.token_hex(16), "object": "response", "created_at": int(time.time()),
                         "model": model, **shown}
        self._blocks = Blocks()
        self._ids: list[str] = []
        self._sequence = 0
        self._begun = False

    def whole(self, made: Completion) -> dict[str, Any]:
        """Return a response that isn't streamed."""
        blocks = Blocks.of(made) or [Block(0, "text")]
        return self._response(_status(made.finished), blocks, made.finished)

    def form(self) -> Form:
        """Return how the events are streamed."""
        return Form("text/event-stream; charset=utf-8", named_event, self._failed, b": ping\n\n")

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the events that show a part."""
        item = part.item
        yield from self._begin()
        if isinstance(item, Piece):
            for step in self._blocks.steps(item):
                yield from self._step(step)
            return
        assert isinstance(item, Finished)
        if not self._blocks.all:
            # Clients expect a text, if it is an empty one.
            for step in self._blocks.nothing():
                yield from self._step(step)
        status = _status(item)
        for step in self._blocks.end():
            yield from self._end(step.block, status)
        yield self._said(f"response.{status}", response=self._response(status, self._blocks.all, item))

    def _begin(self) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            for name in ("created", "in_progress"):
                yield self._said(f"response.{name}", response=self._response("in_progress", []))

    def _failed(self, problem: Problem) -> bytes:
        error = {"code": problem.code, "message": problem.message}
        # Nothing may have come yet but signs of life.
        events = (*self._begin(),
                  self._said("error", **error, param=problem.param),
                  self._said("response.failed", response={**self._response("failed", self._blocks.all),
                                                          "error": {**error, "code": problem.code or problem.type}}))
        return b"".join(map(named_event, events))

    def _step(self, step: Step) -> Iterator[dict[str, Any]]:
        block, where = step.block, self._where(step.block)
        if step.what == "begin":
            yield self._said("response.output_item.added", output_index=block.number,
                             item=self._item(block, "in_progress"))
            if block.kind != "call":
                yield self._said("response.content_part.added", **where, part=self._part(block))
        elif step.what == "end":
            yield from self._end(block, "completed")
        elif block.kind == "text":
            yield self._said("response.output_text.delta", **where, delta=step.text,
                             logprobs=logprobs.of_chat(step.tokens)["content"])
        elif block.kind == "reasoning":
            yield self._said("response.reasoning_text.delta", **where, delta=step.text)
        else:
            yield self._said("response.function_call_arguments.delta", **where, delta=step.text)

    def _end(self, block: Block, status: str) -> Iterator[dict[str, Any]]:
        where = self._where(block)
        if block.kind == "call":
            yield self._said("response.function_call_arguments.done", **where, arguments=block.text)
        else:
            part = self._part(block)
            told = {"logprobs": part["logprobs"]} if block.kind == "text" else {}
            yield self._said(f"response.{part['type']}.done", **where, text=block.text, **told)
            yield self._said("response.content_part.done", **where, part=part)
        yield self._said("response.output_item.done", output_index=block.number, item=self._item(block, status))

    def _said(self, name: str, **more: Any) -> dict[str, Any]:
        event = {"type": name, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return event

    def _id(self, block: Block) -> str:
        while len(self._ids) <= block.number:
            self._ids.append(_PREFIX[block.kind] + secrets.token_hex(16))
        return self._ids[block.number]

    def _where(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._id(block), "output_index": block.number}
        return place if block.kind == "call" else {**place, "content_index": 0}

    def _part(self, block: Block) -> dict[str, Any]:
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        return {"type": "output_text", "text": block.text, "annotations": [],
                "logprobs": logprobs.of_chat(block.tokens)["content"]}

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._id(block), "status": status}
        if block.kind == "call":
            return {**item, "type": "function_call", "call_id": block.call_id, "name": block.name,
                    "arguments": block.text}
        parts = [] if status == "in_progress" else [self._part(block)]
        if block.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": parts}
        return {**item, "type": "message", "role": "assistant", "content": parts}

    def _response(self, status: str, blocks: list[Block], end: Finished | None = None) -> dict[str, Any]:
        last = len(blocks) - 1
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {**self._heading, "status": status, "error": None, "incomplete_details": cut,
                "output": [self._item(block, "completed" if block.number < last or status == "completed"
                                      else "incomplete") for block in blocks],
                "usage": None if end is None else _usage(end)}


def _status(end: Finished) -> str:
    return "incomplete" if end.reason == "length" else "completed"


def _usage(end: Finished) -> dict[str, Any]:
    return {"input_tokens": end.prompt_tokens, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": end.completion_tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": end.prompt_tokens + end.completion_tokens}
