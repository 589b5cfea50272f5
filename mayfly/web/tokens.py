"""Counting tokens without computing with them: `POST /v1/tokenize`, and `POST /api/v1/token_check` in FastChat's form.

The counts are those of a text given as it is: to an embedding model, or as the `prompt` of `/v1/completions`.
"""

from __future__ import annotations

import json

from flask import Flask, Response, g, request

from mayfly.errors import InvalidRequest, NotFound
from mayfly.lanes.calls import TokenizeCall, Tokens, Watch
from mayfly.web.bodies import json_object, most_values
from mayfly.web.catalogue import Catalogue
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
        found = _tokens(TokenizeCall(g.request_id, asked.id, texts), service.watch(request.environ))
        # numpy takes a third of the start-up time; the first request that needs it waits for it, not the start.
        from mayfly.web.vectors import token_lists

        return Response(token_lists(found, asked.id), mimetype="application/json")

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
            texts = tuple(items[place].prompt for place in places)
            found = _tokens(TokenizeCall(g.request_id, model.id, texts, counted_only=True), watch)
            for place, count in zip(places, found.counts, strict=True):
                counts[place] = count
        return Response(json.dumps({"prompts": [
            {"fits": count + item.max_tokens <= model.window, "tokenCount": count, "contextLength": model.window}
            for item, model, count in zip(items, asked, counts, strict=True)]}), mimetype="application/json")

    def _tokens(call: TokenizeCall, watch: Watch) -> Tokens:
        with service.seat(service.switchboard.vocabulary()) as lane:
            return lane.tokenize(call, watch)

    for path, view in (("/v1/tokenize", tokenize), ("/api/v1/token_check", token_check)):
        app.add_url_rule(path, path, view, methods=["POST"], provide_automatic_options=False)
