"""Completions in OpenAI's forms: as one object, and as the chunks of a stream."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mayfly.web import logprobs
from mayfly.web.catalogue import Model
from mayfly.web.choices import Part
from mayfly.wire.calls import Completion, CompletionCall, Finished, Piece, ScoredToken

Form = Literal["text", "chat"]

_PREFIX = {"text": "cmpl-", "chat": "chatcmpl-"}
_OBJECT = {"text": "text_completion", "chat": "chat.completion"}
_CHUNK = {"text": "text_completion", "chat": "chat.completion.chunk"}


@dataclass(frozen=True)
class Shown:
    """What of a request's completions is shown, and how.

    Attributes:
        prompts: what is completed; none in a chat.
        candidates: completions of each, one after another.
        echo: each completion begins with its prompt.
        logprobs: log-probabilities are told.
    """

    form: Form
    prompts: Sequence[str] = ()
    candidates: int = 1
    echo: bool = False
    logprobs: bool = False

    def echoed(self, number: int) -> str:
        """Return what goes before a completion, counted from 0 over all prompts."""
        return self.prompts[number // self.candidates] if self.echo else ""

    def likelihoods(self, number: int) -> Callable[[Sequence[ScoredToken]], dict[str, Any] | None]:
        """Return what makes a form of a completion's tokens, part by part; None if they aren't told."""
        if not self.logprobs:
            return lambda tokens: None
        if self.form == "chat":
            return logprobs.of_chat
        # The prompt counts, whether it is shown or not.
        return logprobs.OfText(0 if self.echo else len(self.prompts[number // self.candidates]))


def ranked(model: Model, calls: Sequence[CompletionCall]) -> list[CompletionCall]:
    """Return calls whose completions tell how likely they are, if the model's engine can, so that `answer` chooses."""
    if "logprobs" not in model.features:
        return list(calls)
    return [replace(call, sampling=replace(call.sampling, logprobs=call.sampling.logprobs or 0)) for call in calls]


def answer(shown: Shown, completions: Sequence[Completion], wanted: int = 1) -> dict[str, Any]:
    """Return the answer to a request that isn't streamed.

    Args:
        completions: `candidates` for each prompt, prompt by prompt.
        wanted: how many of the candidates are shown, all of them in their order. Of more, those with the highest
            log-probability a token; without probabilities, those that came to their own end before those that were cut.
    """
    choices: list[dict[str, Any]] = []
    for start in range(0, len(completions), shown.candidates):
        best: Sequence[int] = range(start, start + shown.candidates)
        if wanted < shown.candidates:
            best = sorted(best, key=lambda number: _rank(completions[number].finished))[:wanted]
        for number in best:
            made = completions[number]
            text = {"text": shown.echoed(number) + made.text} if shown.form == "text" else {"message": message(made)}
            choices.append({"index": len(choices), **text, "logprobs": shown.likelihoods(number)(made.tokens),
                            "finish_reason": made.finished.reason})
    return {**_heading(_PREFIX[shown.form], _OBJECT[shown.form], completions[0].finished.model), "choices": choices,
            "usage": usage([made.finished for made in completions], shown.candidates)}


def message(made: Completion) -> dict[str, Any]:
    """Return the assistant's turn that a completion is."""
    calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
             for call in made.tool_calls]
    return {"role": "assistant", "content": made.text or (None if calls else ""), "refusal": None,
            **({"reasoning_content": made.reasoning} if made.reasoning else {}),
            **({"tool_calls": calls} if calls else {})}


def _delta(piece: Piece) -> dict[str, Any]:
    """Return what a part of a completion adds to the assistant's turn."""
    calls = [{"index": call.index, **({"id": call.id, "type": "function"} if call.id else {}),
              "function": {**({"name": call.name} if call.name else {}), "arguments": call.arguments}}
             for call in piece.tool_calls]
    return {**({"reasoning_content": piece.reasoning} if piece.reasoning else {}),
            **({"content": piece.text} if piece.text or not (piece.reasoning or calls) else {}),
            **({"tool_calls": calls} if calls else {})}


def _rank(end: Finished) -> tuple[float, bool]:
    return (math.inf if end.mean_logprob is None else -end.mean_logprob), end.reason == "length"


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
        include_usage: whether the last chunk is one with the usage.
    """

    def __init__(self, shown: Shown, model: str, calls: int, *, include_usage: bool) -> None:
        self._shown = shown
        self._heading = _heading(_PREFIX[shown.form], _CHUNK[shown.form], model)
        self._include_usage = include_usage
        self._begun: set[int] = set()
        self._likelihoods = [shown.likelihoods(number) for number in range(calls)]
        self._finished: list[Finished | None] = [None] * calls

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the chunks that show a part."""
        item, chat = part.item, self._shown.form == "chat"
        if part.index not in self._begun:
            self._begun.add(part.index)
            if chat:
                yield self._chunk(part.index, {"role": "assistant", "content": ""})
            elif self._shown.echo:
                # Where they are told, the first piece is the prompt's log-probabilities and nothing else.
                scores = item.tokens if isinstance(item, Piece) and self._shown.logprobs else None
                yield self._chunk(part.index, self._shown.echoed(part.index), tokens=scores)
                if scores is not None:
                    return
        if isinstance(item, Piece):
            yield self._chunk(part.index, _delta(item) if chat else item.text, tokens=item.tokens)
            return
        assert isinstance(item, Finished)
        self._finished[part.index] = item
        yield self._chunk(part.index, {} if chat else "", item.reason)
        if part.last and self._include_usage:
            ends = [end for end in self._finished if end is not None]
            yield {**self._heading, "choices": [], "usage": usage(ends, self._shown.candidates)}

    def _chunk(self, index: int, shown: dict[str, Any] | str, reason: str | None = None,
               tokens: Sequence[ScoredToken] | None = None) -> dict[str, Any]:
        told = None if tokens is None else self._likelihoods[index](tokens)
        choice = {"index": index, "delta" if self._shown.form == "chat" else "text": shown, "logprobs": told,
                  "finish_reason": reason}
        chunk = {**self._heading, "choices": [choice]}
        # With a usage to come, the other chunks say that they have none.
        return {**chunk, "usage": None} if self._include_usage else chunk


def _heading(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}
