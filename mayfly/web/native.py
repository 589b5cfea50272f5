"""mayfly's own routes: `POST /embed` and `POST /gpt4all_api` (whose path is the setting ROUTE)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, request

from mayfly.lanes.calls import CompletionCall, Finished, Piece
from mayfly.web.bodies import json_object, most_values
from mayfly.web.catalogue import Catalogue
from mayfly.web.embedding import Reader, Wanted
from mayfly.web.events import EventStream
from mayfly.web.schemas import ALIASES, CompletionBody, EmbedBody, validate
from mayfly.web.service import Service


def install(app: Flask, service: Service) -> dict[str, Reader]:
    """Add the native routes to an application; return how those for embeddings read a request, by their paths."""
    settings = service.settings
    catalogue = Catalogue(service)
    most = most_values(settings.max_texts)

    def read(sent: dict[str, Any], identity: str, lane_of: Callable[[str], str | None]) -> Wanted | None:
        return Wanted.of(validate(EmbedBody, sent), identity, settings.max_texts, lane_of)

    def embed() -> Response:
        wanted = read(json_object(request, most), g.request_id, catalogue.embedding_lane_of_any)
        assert wanted is not None
        with service.seat(wanted.lane, request.environ) as lane:
            made = lane.embed(wanted.call, service.watch(request.environ))
        return Response(wanted.answer(made), mimetype="application/json")

    def complete() -> Response:
        body = validate(CompletionBody, json_object(request, most), n_ctx=settings.n_ctx, aliases=ALIASES)
        call = CompletionCall(g.request_id, messages=body.messages(), sampling=body.sampling(settings.n_ctx))
        watch = service.watch(request.environ)
        asked = catalogue.resolve(body.model, "completion")
        with catalogue.naming("prompt", asked):
            if body.stream:
                return EventStream(service.seat(asked.lane), lambda lane: lane.stream(call, watch), _events,
                                   request.environ, g.request_id).response()
            with service.seat(asked.lane) as lane:
                answer = lane.complete(call, watch)
        return Response(json.dumps(_answer(answer.text, answer.finished)), mimetype="application/json")

    app.add_url_rule("/embed", "embed", embed, methods=["POST"], provide_automatic_options=False)
    app.add_url_rule(settings.route, "complete", complete, methods=["POST"], provide_automatic_options=False)
    return {"/embed": lambda sent, identity: read(sent, identity, catalogue.embedding_lane_of_any_at_hand)}


def _answer(text: str, finished: Finished) -> dict[str, Any]:
    return {
        "response": text,
        "model": finished.model,
        "finish_reason": finished.reason,
        "generation": finished.generation,
        "usage": {
            "prompt_tokens": finished.prompt_tokens,
            "completion_tokens": finished.completion_tokens,
            "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        },
    }


def _events(item: Piece | Finished) -> Iterable[dict[str, Any]]:
    yield {"response": item.text} if isinstance(item, Piece) else _answer("", item)
