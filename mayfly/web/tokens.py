"""Counting tokens without computing with them: `POST /v1/tokenize`, and `POST /api/v1/token_check` in FastChat's form.

The counts are those of a text given as it is: to an embedding model, or as the `prompt` of `/v1/completions`.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, g, request

from mayfly.errors import InvalidRequest, NotFound
from mayfly.lanes.calls import TokenizeCall, Watch
from mayfly.web.bodies import json_object, most_values
from mayfly.web.catalogue import Catalogue, Model
from mayfly.web.schemas import validate
from mayfly.web.service import Service
from mayfly.web.token_schemas import TokenCheckBody, TokenizeBody


def install(app: Flask, service: Service) -> None:
    """Add the routes to an application."""
    most = service.settings.max_texts
    values = most_values(most)
    catalogue = Catalogue(service)

    def tokenize() -> Response:
        body = validate(TokenizeBody, json_object(request, values))
        g.ignored = body.ignored
        texts = body.texts(most)
        asked = catalogue.countable(body.model)
        ids = _tokens(asked, texts, service.watch(request.environ))
        data = [{"index": index, "tokens": tokens, "count": len(tokens)} for index, tokens in enumerate(ids)]
        return _json({"object": "list", "data": data, "model": asked.id})

    def token_check() -> Response:
        body = validate(TokenCheckBody, json_object(request, values))
        g.ignored = body.ignored
        items = body.items(most)
        watch = service.watch(request.environ)
        asked = []
        for index, item in enumerate(items):
            try:
                asked.append(catalogue.countable(item.model))
            except (InvalidRequest, NotFound) as exc:
                exc.param = f"prompts.{index}.model"
                raise
        counts = [0] * len(items)
        for model in {model.id: model for model in asked}.values():
            places = [place for place, other in enumerate(asked) if other.id == model.id]
            ids = _tokens(model, tuple(items[place].prompt for place in places), watch)
            for place, tokens in zip(places, ids, strict=True):
                counts[place] = len(tokens)
        return _json({"prompts": [
            {"fits": count + item.max_tokens <= model.window, "tokenCount": count, "contextLength": model.window}
            for item, model, count in zip(items, asked, counts, strict=True)]})

    def _tokens(model: Model, texts: tuple[str, ...], watch: Watch) -> list[list[int]]:
        with service.seat(service.switchboard.vocabulary()) as lane:
            return lane.tokenize(TokenizeCall(g.request_id, model.id, texts), watch)

    for path, view in (("/v1/tokenize", tokenize), ("/api/v1/token_check", token_check)):
        app.add_url_rule(path, path, view, methods=["POST"], provide_automatic_options=False)


def _json(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), mimetype="application/json")
