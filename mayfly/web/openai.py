"""OpenAI's routes: `/v1/models`, `/v1/embeddings`, `/v1/completions` and `/v1/chat/completions`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mayfly.errors import InvalidRequest
from mayfly.flow import Answer, Flow
from mayfly.web.choices import Choices
from mayfly.web.embedding import embed
from mayfly.web.flows import as_json, stream
from mayfly.web.native import TEXTS
from mayfly.web.openai_answers import Chunks, Form, Shown, answer, ranked
from mayfly.web.openai_schemas import ChatBody, EmbeddingsBody, TextBody, refuse_token_ids
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.seeds import seeded, tell
from mayfly.web.service import Service
from mayfly.wire.calls import CompletionCall

TAG = "OpenAI's API"
_HELLO = [{"role": "system", "content": "You are Ada, a lighthouse keeper."},
          {"role": "user", "content": "Who are you?"}]
_CHATS: dict[str, dict[str, Any]] = {
    "A question": {"messages": _HELLO, "max_tokens": 20},
    "Streamed, with usage": {"messages": _HELLO, "max_tokens": 20, "stream": True,
                             "stream_options": {"include_usage": True}}}
_PROMPTS: dict[str, dict[str, Any]] = {
    "A text": {"prompt": "Once upon a time", "max_tokens": 20},
    "In a template": {"prompt": "Who are you?", "prompt_template": "### Human:\n%1\n### Ada:\n",
                      "max_tokens": 20, "stop": ["###"]}}


def routes(service: Service) -> list[Route]:
    """Return OpenAI's routes of a service."""
    settings, catalogue = service.settings, service.catalogue

    def models(asked: Asked) -> Answer:
        return as_json({"object": "list", "data": [catalogue.shown(model) for model in catalogue.list()]})

    def model(asked: Asked, name: str) -> Answer:
        return as_json(catalogue.shown(catalogue.resolve(name, None)))

    def embeddings(asked: Asked, engine: str = "") -> Flow:
        refuse_token_ids("input", asked.sent.get("input"))
        body = validate(EmbeddingsBody, asked.sent, asked.ignored)
        found = catalogue.resolve(engine or body.model, "embedding")
        if engine and body.model and catalogue.resolve(body.model, "embedding") != found:
            raise InvalidRequest("'model' has to be the model that the path names, or left out.", param="model")
        return embed(service, asked, body, found)

    def completions(asked: Asked) -> Flow:
        refuse_token_ids("prompt", asked.sent.get("prompt"))
        body = validate(TextBody, asked.sent, asked.ignored, n_ctx=settings.n_ctx)
        candidates = body.candidates()
        call = call_of(service, asked, body)
        calls = [replace(call, text=text, suffix=body.suffix) for text in body.prompts() for _ in range(candidates)]
        return _complete(service, "text", asked, calls, body, candidates, body.prompt)

    def chat(asked: Asked) -> Flow:
        body = validate(ChatBody, asked.sent, asked.ignored, n_ctx=settings.n_ctx)
        return _complete(service, "chat", asked, [chat_call(service, asked, body)] * body.n, body, body.n, [])

    return [
        Route("GET", "/v1/models", models, "List the models", TAG, answer="ModelList"),
        Route("GET", "/v1/models/{name}", model, "Find a model by its id or an alias", TAG,
              answer="ListedModel"),
        Route("POST", "/v1/embeddings", embeddings, "Embed texts, as OpenAI's API", TAG, body=EmbeddingsBody,
              answer="EmbeddingList", examples=TEXTS),
        Route("POST", "/v1/engines/{engine}/embeddings", embeddings, "Embed texts, as older clients ask", TAG,
              body=EmbeddingsBody, answer="EmbeddingList"),
        Route("POST", "/v1/completions", completions, "Complete texts, as OpenAI's API", TAG, body=TextBody,
              answer="TextCompletion", stream="text/event-stream", examples=_PROMPTS),
        Route("POST", "/v1/chat/completions", chat, "Complete a conversation, as OpenAI's API", TAG, body=ChatBody,
              answer="ChatCompletion", stream="text/event-stream", examples=_CHATS),
    ]


def call_of(service: Service, asked: Asked, body: TextBody | ChatBody) -> CompletionCall:
    """Return the call that a body means, without what is to be completed."""
    return CompletionCall(asked.id, sampling=body.sampling(service.settings.n_ctx), threads=body.thread_count,
                          prompt_batch=body.prompt_batch_size, features=body.features(),
                          namespace=service.gate.access.namespace(asked.environ))


def chat_call(service: Service, asked: Asked, body: ChatBody) -> CompletionCall:
    """Return the call that a body for a chat means."""
    return replace(call_of(service, asked, body), messages=body.turns(), tools=body.described(),
                   tool_choice=body.choice(), parallel_tool_calls=body.parallel_tool_calls,
                   template_kwargs=body.template_kwargs())


def _complete(service: Service, form: Form, asked: Asked, calls: Sequence[CompletionCall], body: TextBody | ChatBody,
              candidates: int, prompts: Sequence[str]) -> Flow:
    found = service.catalogue.completing(body)
    include_usage = body.include_usage()
    calls = seeded(found, calls, candidates)
    if candidates > body.n:
        calls = ranked(found, calls)
    shown = Shown(form, prompts, candidates, body.echoes(), logprobs=body.alternatives() is not None)
    lane = service.switchboard.lane(found.lane)
    choices = Choices(lane, calls, asked.deadline, in_pieces=body.stream, at_once=service.settings.chat_processes,
                      on_first=functools.partial(tell, asked, lane, calls[0]))
    if body.stream:
        chunks = Chunks(shown, found.id, len(calls), include_usage=include_usage)
        made = stream(choices, chunks.render, asked.id)
    else:
        made = _whole(shown, choices, body.n)
    return service.catalogue.naming("prompt" if form == "text" else "messages", found, made)


def _whole(shown: Shown, choices: Choices, wanted: int) -> Flow:
    made = yield from choices.completions()
    yield as_json(answer(shown, made, wanted))
