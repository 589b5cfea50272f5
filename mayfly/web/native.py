"""mayfly's own routes: `POST /embed` and `POST /gpt4all_api` (whose path is the setting ROUTE)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, g, request

from mayfly.lanes.calls import CompletionCall, EmbedCall, Finished, Piece
from mayfly.web.bodies import json_object
from mayfly.web.embedding import Reader, Wanted
from mayfly.web.events import EventStream
from mayfly.web.schemas import ALIASES, CompletionBody, EmbedBody, validate
from mayfly.web.service import Service


def install(app: Flask, service: Service) -> dict[str, Reader]:
    """Add the native routes to an application; return how those for embeddings read a request, by their paths."""
    settings = service.settings

    def read(sent: dict[str, Any], identity: str) -> Wanted:
        body = validate(EmbedBody, sent)
        call = EmbedCall(identity, body.texts(settings.max_texts), body.long_text)
        return Wanted(call, "embed", body.encoding_format)

    def embed() -> Response:
        wanted = read(json_object(request), g.request_id)
        with service.seat(wanted.lane, request.environ) as lane:
            made = lane.embed(wanted.call, service.watch(request.environ))
        return Response(wanted.answer(made), mimetype="application/json")

    def complete() -> Response:
        body = validate(CompletionBody, json_object(request), n_ctx=settings.n_ctx, aliases=ALIASES)
        call = CompletionCall(g.request_id, messages=body.messages(), sampling=body.sampling(settings.n_ctx))
        watch = service.watch(request.environ)
        if body.stream:
            return EventStream(service.seat("chat"), lambda lane: lane.stream(call, watch), _events, request.environ,
                               g.request_id).response()
        with service.seat("chat") as lane:
            answer = lane.complete(call, watch)
        return Response(json.dumps(_answer(answer.text, answer.finished)), mimetype="application/json")

    app.add_url_rule("/embed", "embed", embed, methods=["POST"], provide_automatic_options=False)
    app.add_url_rule(settings.route, "complete", complete, methods=["POST"], provide_automatic_options=False)
    return {"/embed": read}


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
