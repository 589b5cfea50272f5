"""Completions in OpenAI's forms: as one object, and as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from mayfly.web.choices import Part
from mayfly.wire.calls import Completion, Finished, Piece

Form = Literal["text", "chat"]

_PREFIX = {"text": "cmpl-", "chat": "chatcmpl-"}
_OBJECT = {"text": "text_completion", "chat": "chat.completion"}
_CHUNK = {"text": "text_completion", "chat": "chat.completion.chunk"}


def answer(form: Form, completions: Sequence[Completion], *, candidates: int = 1, wanted: int = 1,
           echoes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer to a request that isn't streamed.

    Args:
        completions: `candidates` for each prompt, prompt by prompt.
        wanted: how many of the candidates are shown. Without probabilities, those that came to their own end are
            better than those that were cut.
        echoes: what goes before each prompt's completions.
    """
    choices: list[dict[str, Any]] = []
    for start in range(0, len(completions), candidates):
        best = sorted(completions[start:start + candidates], key=lambda made: made.finished.reason != "stop")
        echo = echoes[start // candidates] if echoes else ""
        for made in best[:wanted]:
            shown: dict[str, Any] = {"text": echo + made.text} if form == "text" else {
                "message": {"role": "assistant", "content": made.text, "refusal": None}}
            choices.append({"index": len(choices), **shown, "logprobs": None, "finish_reason": made.finished.reason})
    return {**_heading(_PREFIX[form], _OBJECT[form], completions[0].finished.model), "choices": choices,
            "usage": usage([made.finished for made in completions], candidates)}


def usage(finished: Sequence[Finished], candidates: int) -> dict[str, int]:
    """Return the tokens of a request: each prompt's once, though each candidate's process has evaluated it.

    Args:
        finished: `candidates` for each prompt, prompt by prompt.
    """
    prompt = sum(end.prompt_tokens for end in finished[::candidates])
    completion = sum(end.completion_tokens for end in finished)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Chunks:
    """The chunks of one stream, made from the parts of its completions.

    Args:
        model: the name of the model that serves.
        calls: how many completions there are; each is a choice.
        candidates: how many of them each prompt has.
        include_usage: whether the last chunk is one with the usage.
        echoes: what goes before each prompt's completions.
    """

    def __init__(self, form: Form, model: str, calls: int, *, candidates: int, include_usage: bool,
                 echoes: Sequence[str] = ()) -> None:
        self._form = form
        self._heading = _heading(_PREFIX[form], _CHUNK[form], model)
        self._candidates = candidates
        self._include_usage = include_usage
        self._echoes = echoes
        self._begun: set[int] = set()
        self._finished: list[Finished | None] = [None] * calls

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the chunks that show a part."""
        if part.index not in self._begun:
            self._begun.add(part.index)
            if self._form == "chat":
                yield self._chunk(part.index, {"role": "assistant", "content": ""})
            elif self._echoes:
                yield self._chunk(part.index, self._echoes[part.index // self._candidates])
        if isinstance(part.item, Piece):
            yield self._chunk(part.index, {"content": part.item.text} if self._form == "chat" else part.item.text)
            return
        assert isinstance(part.item, Finished)
        self._finished[part.index] = part.item
        yield self._chunk(part.index, {} if self._form == "chat" else "", part.item.reason)
        if part.last and self._include_usage:
            ends = [end for end in self._finished if end is not None]
            yield {**self._heading, "choices": [], "usage": usage(ends, self._candidates)}

    def _chunk(self, index: int, shown: dict[str, Any] | str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta" if self._form == "chat" else "text": shown, "logprobs": None,
                  "finish_reason": reason}
        chunk = {**self._heading, "choices": [choice]}
        # With a usage to come, the other chunks say that they have none.
        return {**chunk, "usage": None} if self._include_usage else chunk


def _heading(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}
