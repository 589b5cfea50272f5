"""OpenAI's routes: `/v1/models`, `/v1/embeddings`, `/v1/completions` and `/v1/chat/completions`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, Response, g, request

from mayfly.errors import InvalidRequest
from mayfly.lanes.calls import CompletionCall
from mayfly.web.batch import Batch
from mayfly.web.bodies import json_object, most_values
from mayfly.web.catalogue import Catalogue, Model
from mayfly.web.embedding import Reader, Wanted
from mayfly.web.events import EventStream
from mayfly.web.openai_answers import Chunks, Form, answer
from mayfly.web.openai_schemas import ALIASES, ChatBody, EmbeddingsBody, TextBody, refuse_token_ids
from mayfly.web.schemas import validate
from mayfly.web.service import Service


def install(app: Flask, service: Service) -> dict[str, Reader]:
    """Add OpenAI's routes to an application; return how those for embeddings read a request, by their paths."""
    settings = service.settings
    catalogue = Catalogue(service)
    most = most_values(settings.max_texts)

    def models() -> Response:
        return _json({"object": "list", "data": [model.as_object() for model in catalogue.list()]})

    def model(name: str) -> Response:
        return _json(catalogue.resolve(name, None).as_object())

    def read(sent: dict[str, Any], identity: str, lane_of: Callable[[str], str | None]) -> Wanted | None:
        refuse_token_ids("input", sent.get("input"))
        return Wanted.of(validate(EmbeddingsBody, sent), identity, settings.max_texts, lane_of)

    def embeddings(engine: str = "") -> Response:
        def lane_of(model: str) -> str:
            asked = catalogue.resolve(engine or model, "embedding")
            if engine and model and catalogue.resolve(model, "embedding") != asked:
                raise InvalidRequest("'model' has to be the model that the path names, or left out.", param="model")
            return asked.lane

        wanted = read(json_object(request, most), g.request_id, lane_of)
        assert wanted is not None
        g.ignored = wanted.ignored
        with service.seat(wanted.lane, request.environ) as lane:
            made = lane.embed(wanted.call, service.watch(request.environ))
        return Response(wanted.answer(made), mimetype="application/json")

    def completions() -> Response:
        sent = json_object(request, most)
        refuse_token_ids("prompt", sent.get("prompt"))
        body = validate(TextBody, sent, n_ctx=settings.n_ctx, aliases=ALIASES)
        g.ignored = body.ignored
        candidates = body.candidates()
        texts = [text for text in body.prompts() for _ in range(candidates)]
        sampling = body.sampling(settings.n_ctx)
        calls = [CompletionCall(g.request_id, text=text, sampling=sampling, threads=body.thread_count,
                                prompt_batch=body.prompt_batch_size) for text in texts]
        return _complete("text", catalogue.resolve(body.model, "completion"), calls, body, candidates,
                         body.prompt if body.echo else [])

    def chat() -> Response:
        body = validate(ChatBody, json_object(request, most), n_ctx=settings.n_ctx, aliases=ALIASES)
        g.ignored = body.ignored
        call = CompletionCall(g.request_id, messages=body.turns(), sampling=body.sampling(settings.n_ctx),
                              threads=body.thread_count, prompt_batch=body.prompt_batch_size)
        return _complete("chat", catalogue.resolve(body.model, "completion"), [call] * body.n, body, body.n, [])

    def _complete(form: Form, asked: Model, calls: Sequence[CompletionCall], body: TextBody | ChatBody,
                  candidates: int, echoes: Sequence[str]) -> Response:
        include_usage = body.include_usage()
        batch = Batch(service, asked.lane, calls, service.watch(request.environ))
        with catalogue.naming("prompt" if form == "text" else "messages", asked):
            if body.stream:
                chunks = Chunks(form, asked.id, len(calls), candidates=candidates, include_usage=include_usage,
                                echoes=echoes)
                return EventStream(contextlib.nullcontext(batch), Batch.stream, chunks.render, request.environ,
                                   g.request_id, chunks.is_end).response()
            return _json(answer(form, batch.complete(), candidates=candidates, wanted=body.n, echoes=echoes))

    for path, view, method in (
        ("/v1/models", models, "GET"),
        ("/v1/models/<path:name>", model, "GET"),
        ("/v1/embeddings", embeddings, "POST"),
        ("/v1/engines/<path:engine>/embeddings", embeddings, "POST"),
        ("/v1/completions", completions, "POST"),
        ("/v1/chat/completions", chat, "POST"),
    ):
        app.add_url_rule(path, path, view, methods=[method], provide_automatic_options=False)
    return {"/v1/embeddings": lambda sent, identity: read(sent, identity, catalogue.embedding_lane_at_hand)}


def _json(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), mimetype="application/json")
