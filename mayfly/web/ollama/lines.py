"""Completions in Ollama's form: as one object, and as the lines of a stream, of which each is a JSON object."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from mayfly.problem import Problem
from mayfly.web import logprobs
from mayfly.web.choices import Part
from mayfly.web.flows import Form
from mayfly.wire.calls import Completion, Finished, Piece, ScoredToken, ToolCall

NDJSON: Literal["application/x-ndjson"] = "application/x-ndjson"


def line(data: dict[str, Any]) -> bytes:
    """Return a line of a stream."""
    return json.dumps(data).encode() + b"\n"


def failure(problem: Problem) -> bytes:
    """Return the line that tells why a stream ends."""
    return line({"error": problem.message})


def rfc3339(seconds: float) -> str:
    """Return a time, in seconds since 1970, as Ollama writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """Return a duration as Ollama writes it."""
    return max(0, round(seconds * 1e9))


class Lines:
    """The lines of one answer.

    Args:
        kind: which of both forms it has.
        model: the model's name, as the caller has sent it.
    """

    def __init__(self, kind: Literal["chat", "generate"], model: str) -> None:
        self._kind = kind
        self._model = model
        self._began = time.monotonic()
        self._calling: list[Piece] = []

    def form(self) -> Form:
        """Return how the lines are streamed. There are no comments, so a line without text keeps proxies calm."""
        return Form(NDJSON, line, failure, ping=line(self._said("", done=False)))

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the lines that show a part. The last one has no text: some clients don't look at it there."""
        item = part.item
        if isinstance(item, Piece):
            if item.tool_calls:
                self._calling.append(item)
            if item.text or item.reasoning or item.tokens:
                yield self._said(item.text, item.reasoning, done=False, **_told(item.tokens))
        elif isinstance(item, Finished):
            # Calls come whole.
            if called := _called(Completion.of(self._calling, item).tool_calls):
                yield self._said("", calls=called, done=False)
            yield self._said("", done=True, **self._metrics(item))

    def whole(self, made: Completion) -> dict[str, Any]:
        """Return an answer that isn't streamed."""
        return self._said(made.text, made.reasoning, _called(made.tool_calls), done=True,
                          **self._metrics(made.finished), **_told(made.tokens))

    def without_text(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """Return the answer to a request in which nothing is asked."""
        return self._said("", done=True, done_reason=reason)

    def _said(self, text: str, thinking: str = "", calls: Sequence[dict[str, Any]] = (), *, done: bool, **more: Any
              ) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        said: dict[str, Any] = {"response": text, **thought}
        if self._kind == "chat":
            called = {"tool_calls": calls} if calls else {}
            said = {"message": {"role": "assistant", "content": text, **thought, **called}}
        return {"model": self._model, "created_at": rfc3339(time.time()), **said, "done": done, **more}

    def _metrics(self, end: Finished) -> dict[str, Any]:
        total, computed = time.monotonic() - self._began, end.prompt_seconds + end.completion_seconds
        dropped = {"dropped_messages": end.dropped_messages} if end.dropped_messages else {}
        reason = "stop" if end.reason == "tool_calls" else end.reason
        return {"done_reason": reason, "total_duration": nanoseconds(total),
                # What isn't computing is waiting: for a place, and for a model that was loaded first.
                "load_duration": nanoseconds(total - computed), "prompt_eval_count": end.prompt_tokens,
                "prompt_eval_duration": nanoseconds(end.prompt_seconds), "eval_count": end.completion_tokens,
                "eval_duration": nanoseconds(end.completion_seconds), **dropped}


def _told(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    return {"logprobs": logprobs.of_chat(tokens)["content"]} if tokens else {}


def _called(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Return calls with their arguments as objects; one that was cut has none, and is left out."""
    called = []
    for index, call in enumerate(calls):
        with contextlib.suppress(ValueError):
            called.append({"id": call.id, "function": {"index": index, "name": call.name,
                                                       "arguments": json.loads(call.arguments)}})
    return called
