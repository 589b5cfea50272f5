"""The bodies of Ollama's routes, and what they mean in the fields of OpenAI's, which are what is validated further.

Ollama's clients send fields that mean nothing (an empty `suffix`, no `tools`, options that are null), and programs more
of them than Ollama itself knows; so what isn't known is ignored, and what is neutral asks for nothing.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mayfly.errors import InvalidRequest
from mayfly.web.catalogue import shown_name
from mayfly.web.openai_schemas import MOST_CALLS, MOST_MESSAGES
from mayfly.web.schemas import TEXT, OpenAIBody, Text, at_most
from mayfly.web.tool_schemas import MOST_TOOLS, ToolBody

_NOTHING_HERE = "which changes nothing here"
_DURATION = r"^[+-]?(0|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_KEEP_ALIVE = 'a number of seconds, or a duration such as "5m" or "1h30m"'

_KeepAlive = float | Annotated[str, Field(pattern=_DURATION)] | None
# What Ollama does where nothing is said.
_KEPT = 300.0
_FOR_EVER = 1e9


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole = Annotated[int, BeforeValidator(_whole)]
_Unused = Annotated[_Whole | None, Field(description=f"a whole number, {_NOTHING_HERE}")]


class NamedBody(OpenAIBody):
    """A model, by either name of the field."""

    model: str = Field("", description="a model's name")
    name: str = Field("", description="a model's name, as older clients send it")

    def named(self) -> str:
        """Return the model's name.

        Raises:
            InvalidRequest: there is none.
        """
        if not (self.model or self.name):
            raise InvalidRequest("model is required", param="model", code="missing_field")
        return self.model or self.name


class ShowBody(NamedBody):
    """`POST /api/show`."""

    verbose: bool = Field(False, description=f"true or false, {_NOTHING_HERE}")


class DeleteBody(NamedBody):
    """`DELETE /api/delete`."""


class OllamaPullBody(NamedBody):
    """`POST /api/pull`."""

    stream: bool = Field(True, description="true or false")
    insecure: bool = Field(False, description=f"true or false, {_NOTHING_HERE}")


class CopyBody(OpenAIBody):
    """`POST /api/copy`."""

    source: str = Field(description="a model's name")
    destination: str = Field(description="another name for it: letters, digits and ._:/-")


class Options(OpenAIBody):
    """How an answer is made. The bounds are those of OpenAI's routes."""

    num_predict: _Whole | None = Field(None, description="a whole number; below 1 means up to the window's end")
    temperature: float = Field(0.8, description="a number from 0 to 2")
    top_k: _Whole = Field(40, description="a whole number from 0 (all tokens) to 100000")
    top_p: float = Field(0.9, description="a number from 0 to 1")
    min_p: float = Field(0.0, description="a number from 0 to 1")
    typical_p: float = Field(1.0, description="a number above 0, up to 1")
    repeat_penalty: float = Field(1.0, description="a number above 0, up to 10")
    repeat_last_n: _Whole = Field(64, description="a whole number; 0 looks at nothing, -1 at the whole window")
    presence_penalty: float = Field(0.0, description="a number from -2 to 2")
    frequency_penalty: float = Field(0.0, description="a number from -2 to 2")
    seed: _Whole = Field(-1, description="a whole number; -1 draws one")
    stop: str | list[str] | None = Field(None, description="a string or a list of strings")
    num_ctx: _Unused = None
    num_keep: _Unused = None
    num_batch: _Unused = None
    num_gpu: _Unused = None
    num_thread: _Unused = None
    main_gpu: _Unused = None
    use_mmap: bool | None = Field(None, description=f"true or false, {_NOTHING_HERE}")

    def translated(self, n_ctx: int) -> dict[str, Any]:
        """Return them as fields of OpenAI's bodies, for a window of at most `n_ctx` tokens."""
        most, last = self.num_predict or 0, self.repeat_last_n
        return {**{name: getattr(self, name) for name in SAME}, "max_tokens": most if most > 0 else n_ctx,
                "repeat_last_n": n_ctx if last == -1 else min(last, n_ctx),
                "seed": None if self.seed == -1 else self.seed}


#: Options that OpenAI's bodies have by the same names.
SAME = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
        "frequency_penalty", "stop")


class _Computing(OpenAIBody):
    """What all bodies have in common that have a model compute."""

    model: str = Field("", description="a model's name")
    keep_alive: _KeepAlive = Field(None, description=_KEEP_ALIVE)

    def keeps(self) -> float:
        """Return how long the model stays idle after the answer, in seconds: 0 has it leave at once."""
        seconds = _KEPT if self.keep_alive is None else _seconds(self.keep_alive)
        return min(seconds, _FOR_EVER) if seconds >= 0 else _FOR_EVER


class _Completing(_Computing):
    """What both kinds of completions have in common."""

    stream: bool = Field(True, description="true or false")
    options: Options | None = Field(None, description="an object")
    format: Literal["", "json"] | dict[str, Any] = Field(
        "", description='"json" or a JSON schema, where the model\'s engine can be held to a form')
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None, description='true, false, "low", "medium", "high" or "max", and not true where the model doesn\'t reason')
    truncate: bool = Field(True, description="true or false")
    shift: bool = Field(True, description=f"true or false, {_NOTHING_HERE}")
    logprobs: bool = Field(False, description="true or false")
    top_logprobs: int = Field(0, ge=0, le=20, description="a whole number from 0 to 20")

    def translated(self, n_ctx: int) -> dict[str, Any]:
        """Return this as a body of OpenAI's, without what is to be completed.

        Raises:
            InvalidRequest: there is something that no model here can do.
        """
        options = self.options or Options.model_validate({})
        told = {**options.translated(n_ctx), "model": self.model, "stream": self.stream}
        if self.format == "json":
            told["response_format"] = {"type": "json_object"}
        elif self.format:
            told["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": self.format}}
        if isinstance(self.think, str):
            told["reasoning_effort"] = self.think
        elif self.think is not None:
            told["chat_template_kwargs"] = {"enable_thinking": self.think, "thinking": self.think}
        return told

    def lacking(self, what: str, field: str) -> InvalidRequest:
        """Return the error for what no model here can do."""
        return InvalidRequest(f"{shown_name(self.model)} does not support {what}: leave out '{field}'", param=field)


def _seconds(duration: float | str) -> float:
    if not isinstance(duration, str):
        return float(duration)
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"([0-9.]+)([a-zµ]+)", duration))
    return -seconds if duration.startswith("-") else seconds


class OllamaCalled(OpenAIBody):
    """What a call calls."""

    name: str = Field(description="the name of a tool")
    arguments: dict[str, Any] = Field({}, description="an object")


class OllamaCall(OpenAIBody):
    """A call by the assistant."""

    id: str = Field("", description="a string")
    function: OllamaCalled = Field(description="an object with 'name' and 'arguments'")


class OllamaChatMessage(OpenAIBody):
    """One turn of a conversation."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(
        lambda role: role.lower() if isinstance(role, str) else role)] = Field(
        description='"system", "user", "assistant" or "tool"')
    content: Text = Field("", description=TEXT)
    images: list[str] = Field([], description="left out: the models of this service only read text")
    tool_calls: list[OllamaCall] = Field(
        [], fail_fast=True, max_length=MOST_CALLS, description=f"a list of up to {MOST_CALLS} calls of an assistant")
    thinking: Text = Field("", description=f"{TEXT}: what an assistant thought")
    tool_name: str = Field("", description="a string: the name of the tool whose result this is")
    tool_call_id: str = Field("", description="a string: the id of the call whose result this is")


class OllamaChatBody(_Completing):
    """`POST /api/chat`."""

    messages: list[OllamaChatMessage] = Field(
        [], fail_fast=True, max_length=MOST_MESSAGES, description=f"a list of up to {MOST_MESSAGES} messages")
    tools: list[ToolBody] = Field(
        [], fail_fast=True, max_length=MOST_TOOLS, description=f"a list of up to {MOST_TOOLS} tools")

    def translated(self, n_ctx: int) -> dict[str, Any]:
        """See the base."""
        if any(message.images for message in self.messages):
            raise self.lacking("vision", "images")
        return {**super().translated(n_ctx), "logprobs": self.logprobs, "top_logprobs": self.top_logprobs,
                "tools": [tool.model_dump() for tool in self.tools], "messages": self._turns()}

    def _turns(self) -> list[dict[str, Any]]:
        """Return the messages as those of OpenAI's, where each call has an id, and each result that of its call."""
        turns: list[dict[str, Any]] = []
        unanswered: list[tuple[str, str]] = []
        for message in self.messages:
            turn: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.role == "tool":
                found = next((called for called in unanswered if called[0] == message.tool_name), None)
                found = found or next(iter(unanswered), None)
                if not message.tool_call_id and found is not None:
                    unanswered.remove(found)
                turn["tool_call_id"] = message.tool_call_id or (found[1] if found else "call")
            elif message.role == "assistant":
                calls = [(call.function, call.id or f"call_{len(turns)}_{number}")
                         for number, call in enumerate(message.tool_calls)]
                unanswered += [(function.name, called) for function, called in calls]
                turn["reasoning_content"] = message.thinking
                turn["tool_calls"] = [{"id": called, "function": {
                    "name": function.name, "arguments": json.dumps(function.arguments, ensure_ascii=False)}}
                    for function, called in calls]
            turns.append(turn)
        return turns


class GenerateBody(_Completing):
    """`POST /api/generate`."""

    prompt: Text = Field("", description=TEXT)
    system: Text = Field("", description=TEXT)
    suffix: Text = Field("", description=f"{TEXT}, where the model fills gaps")
    template: str = Field("", description="left out: a prompt is written as the model's file says")
    context: list[int] = Field([], description="left out: send the conversation to /api/chat")
    raw: bool = Field(False, description="true (the prompt is evaluated as it is) or false")
    images: list[str] = Field([], description="left out: the models of this service only read text")

    def translated(self, n_ctx: int) -> dict[str, Any]:
        """See the base."""
        if self.images:
            raise self.lacking("vision", "images")
        if self.raw and (self.template or self.system or self.context):
            raise InvalidRequest("raw mode does not support template, system, or context", param="raw")
        for name in ("template", "context"):
            if getattr(self, name):
                raise InvalidRequest(f"'{name}' has to be {type(self).model_fields[name].description}.", param=name)
        told = super().translated(n_ctx)
        if self.raw or self.suffix:
            return {**told, "prompt": self.prompt, "suffix": self.suffix,
                    "logprobs": self.top_logprobs if self.logprobs else None}
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {**told, "logprobs": self.logprobs, "top_logprobs": self.top_logprobs,
                "messages": [*system, {"role": "user", "content": self.prompt}]}


class OllamaEmbedBody(_Computing):
    """`POST /api/embed`."""

    input: str | list[str] | None = Field(None, description="a string or a list of strings")
    truncate: bool = Field(True, description="true or false")
    dimensions: int | None = Field(None, ge=1, description="a whole number from 1")
    options: dict[str, Any] = Field({}, description=f"an object, {_NOTHING_HERE}")

    def texts(self, most: int) -> tuple[str, ...]:
        """Return the texts to embed, at most `most` of them; an empty string alone is none."""
        if not self.input:
            return ()
        texts = [self.input] if isinstance(self.input, str) else self.input
        return tuple(text.replace("\0", "") for text in at_most("input", texts, most))


class OllamaEmbeddingsBody(_Computing):
    """`POST /api/embeddings`."""

    prompt: str = Field("", description="a string")
    options: dict[str, Any] = Field({}, description=f"an object, {_NOTHING_HERE}")
