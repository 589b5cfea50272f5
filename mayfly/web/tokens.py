"""Counting tokens without computing with them: `POST /v1/tokenize`, and `POST /api/v1/token_check` in FastChat's form.

The counts are those of a text given as it is: to an embedding model, or as the `prompt` of `/v1/completions`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from mayfly.errors import InvalidRequest, NotFound
from mayfly.flow import Compute, Flow, Wait
from mayfly.web.catalogue import Model
from mayfly.web.flows import as_json, result
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service
from mayfly.web.token_schemas import TokenCheckBody, TokenCheckItem, TokenizeBody
from mayfly.wire.calls import TokenizeCall, Tokens

TAG = "Models and tokens"


def routes(service: Service) -> list[Route]:
    """Return the routes of a service that count tokens."""
    most = service.settings.max_texts
    catalogue = service.catalogue

    def tokenize(asked: Asked) -> Flow:
        body = validate(TokenizeBody, asked.sent, asked.ignored)
        return _tokenize(asked, catalogue.countable(body.model), body.texts(most))

    def _tokenize(asked: Asked, model: Model, texts: tuple[str, ...]) -> Flow:
        made = yield from tokens_of(service, TokenizeCall(asked.id, model.id, texts), asked.deadline)

        def written() -> bytes:
            # numpy takes a third of the start-up time; the first request that needs it waits for it, not the start.
            from mayfly.web.vectors import token_lists

            return token_lists(made, model.id)

        yield as_json((yield Compute(written)))

    def token_check(asked: Asked) -> Flow:
        body = validate(TokenCheckBody, asked.sent, asked.ignored)
        items = body.items(most)
        models = []
        for index, item in enumerate(items):
            try:
                models.append(catalogue.countable(item.model))
            except (InvalidRequest, NotFound) as exc:
                exc.param = f"prompts.{index}.model"
                raise
        return _check(asked, items, models)

    def _check(asked: Asked, items: Sequence[TokenCheckItem], models: list[Model]) -> Flow:
        counts = [0] * len(items)
        for model in {model.id: model for model in models}.values():
            places = [place for place, other in enumerate(models) if other.id == model.id]
            texts = tuple(items[place].prompt for place in places)
            call = TokenizeCall(asked.id, model.id, texts, counted_only=True)
            made = yield from tokens_of(service, call, asked.deadline)
            for place, count in zip(places, made.counts, strict=True):
                counts[place] = count
        yield as_json({"prompts": [
            {"fits": count + item.max_tokens <= model.window, "tokenCount": count, "contextLength": model.window}
            for item, model, count in zip(items, models, counts, strict=True)]})

    return [
        Route("POST", "/v1/tokenize", tokenize, "Show the tokens of texts", TAG, body=TokenizeBody,
              answer="TokenizedTexts", examples={"One text": {"input": "The cat sat on the mat."}}),
        Route("POST", "/api/v1/token_check", token_check, "See whether prompts fit, as FastChat's API", TAG,
              body=TokenCheckBody, answer="TokenChecks", examples={"A prompt": {"prompts": [
                  {"model": "gpt-3.5-turbo", "prompt": "Once upon a time", "max_tokens": 20}]}}),
    ]


def tokens_of(service: Service, call: TokenizeCall, deadline: float) -> Generator[Wait, None, Tokens]:
    """Wait for the tokens of a call's texts.

    Raises:
        CallError: see LaneCall.
    """
    lane = service.switchboard.lane(service.switchboard.vocabulary())
    made = yield from result(lane.begin(call, deadline))
    assert isinstance(made, Tokens)
    return made
