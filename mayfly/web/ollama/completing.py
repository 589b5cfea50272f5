"""`POST /api/generate` and `POST /api/chat`: the calls that OpenAI's routes would make, answered in Ollama's form."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from mayfly.errors import InvalidRequest
from mayfly.flow import Flow
from mayfly.web.catalogue import Model, shown_name
from mayfly.web.choices import Choices, Part
from mayfly.web.flows import as_json, result, stream
from mayfly.web.ollama.bodies import SAME, GenerateBody, OllamaChatBody
from mayfly.web.ollama.keeping import kept
from mayfly.web.ollama.lines import NDJSON, Lines
from mayfly.web.ollama.routing import named, route
from mayfly.web.openai import call_of
from mayfly.web.openai_schemas import TextBody
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.seeds import seeded, tell
from mayfly.web.service import Service
from mayfly.web.translating import Translated, in_words
from mayfly.wire.calls import CompletionCall, Finished, Sampling

# What fields of OpenAI's bodies are called here.
_CALLED = {"response_format": "format", "max_tokens": "options.num_predict",
           **{name: f"options.{name}" for name in (*SAME, "seed", "repeat_last_n")}}
_HELLO: dict[str, Any] = {"model": "llama3.2", "options": {"num_predict": 20}}
_TURNS = [{"role": "user", "content": "Who are you?"}]


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""
    def generate(asked: Asked) -> Flow:
        body = validate(GenerateBody, asked.sent, asked.ignored)
        return _answer(service, asked, body, Lines("generate", body.model), "generate")

    def chat(asked: Asked) -> Flow:
        body = validate(OllamaChatBody, asked.sent, asked.ignored)
        return _answer(service, asked, body, Lines("chat", body.model), "chat")

    return [
        route("POST", "/api/generate", generate, "Complete a prompt, as Ollama's API", body=GenerateBody,
              answer="Generated", stream=NDJSON,
              examples={"A prompt": {**_HELLO, "prompt": "Who are you?", "stream": False}}),
        route("POST", "/api/chat", chat, "Complete a conversation, as Ollama's API", body=OllamaChatBody,
              answer="OllamaChat", stream=NDJSON,
              examples={"A question": {**_HELLO, "messages": _TURNS, "stream": False},
                        "Streamed": {**_HELLO, "messages": _TURNS}}),
    ]


def _answer(service: Service, asked: Asked, body: GenerateBody | OllamaChatBody, lines: Lines,
            kind: Literal["chat", "generate"]) -> Flow:
    model = named(service, body.model)
    if model.kind == "embedding":
        raise body.lacking(kind, "model")
    prompt = body.prompt or body.suffix if isinstance(body, GenerateBody) else body.messages
    if not prompt:
        return _load(service, asked, service.catalogue.resolve(body.model, "completion"), lines, body.keeps())
    if body.think and not (model.file is not None and model.file.thinks):
        raise InvalidRequest(f'"{shown_name(body.model)}" does not support thinking', param="think")
    if isinstance(body, OllamaChatBody) and body.tools and not service.catalogue.tools(model):
        raise body.lacking("tools", "tools")
    call, model = _call(service, asked, body)
    [call] = seeded(model, [call])
    lane = service.switchboard.lane(model.lane)
    choices = Choices(lane, [call], asked.deadline, at_once=1, in_pieces=body.stream,
                      on_first=functools.partial(tell, asked, lane, call))
    made = _streamed(choices, lines, asked.id) if body.stream else _whole(choices, lines, asked.id)
    made = kept(service, model, body.keeps(), made)
    made = service.catalogue.naming("prompt" if isinstance(body, GenerateBody) else "messages", model, made)
    return _in_its_words(made)


def _in_its_words(made: Flow) -> Flow:
    with in_words(_CALLED):
        yield from made


def _call(service: Service, asked: Asked, body: GenerateBody | OllamaChatBody) -> tuple[CompletionCall, Model]:
    n_ctx = service.settings.n_ctx
    told = body.translated(n_ctx)
    if "prompt" not in told:
        return Translated(told, _CALLED, drop_oldest=body.truncate).call(service, asked)
    with in_words(_CALLED):
        text = validate(TextBody, told, [], n_ctx=n_ctx)
        call = replace(call_of(service, asked, text), text=text.prompts()[0], suffix=text.suffix)
        return call, service.catalogue.completing(text)


def _whole(choices: Choices, lines: Lines, request_id: str) -> Flow:
    [made] = yield from choices.completions()
    _tell_of_dropped(made.finished, request_id)
    yield as_json(lines.whole(made))


def _streamed(choices: Choices, lines: Lines, request_id: str) -> Flow:
    def render(part: Part) -> Iterator[dict[str, Any]]:
        if isinstance(part.item, Finished):
            _tell_of_dropped(part.item, request_id)
        yield from lines.render(part)

    return stream(choices, render, request_id, lines.form())


def _tell_of_dropped(end: Finished, request_id: str) -> None:
    if end.dropped_messages:
        sys.stderr.write(f"request {request_id}: its {end.dropped_messages} oldest messages were left out, because the "
                         "window has no room for them\n")


def _load(service: Service, asked: Asked, model: Model, lines: Lines, seconds: float) -> Flow:
    yield from kept(service, model, seconds, _loaded(service, asked, model) if seconds else ())
    yield as_json(lines.without_text("load" if seconds else "unload"))


def _loaded(service: Service, asked: Asked, model: Model) -> Flow:
    lane = service.switchboard.lane(model.lane)
    if not lane.ready():
        # A lane opens for a call.
        yield from result(lane.begin(CompletionCall(asked.id, text="Hello", sampling=Sampling(max_tokens=1)),
                                     asked.deadline))
