"""`POST /api/embed` and `POST /api/embeddings`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from mayfly.errors import ContextLengthExceeded, InvalidRequest, NotFound
from mayfly.flow import Flow
from mayfly.web.catalogue import Model, can_be_pulled, shown_name
from mayfly.web.embedding import vectors
from mayfly.web.flows import result
from mayfly.web.ollama.bodies import OllamaEmbedBody, OllamaEmbeddingsBody
from mayfly.web.ollama.keeping import kept
from mayfly.web.ollama.lines import nanoseconds
from mayfly.web.ollama.routing import named, route
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service
from mayfly.wire.calls import EmbedCall, Embeddings, TokenizeCall, Tokens


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""
    def embed(asked: Asked) -> Flow:
        if not isinstance(asked.sent.get("input") or "", str | list):
            raise InvalidRequest("invalid input type: 'input' has to be a string or a list of strings", param="input")
        body = validate(OllamaEmbedBody, asked.sent, asked.ignored)
        model = _embedding_model(service, body.model)
        return kept(service, model, body.keeps(), _embed(service, asked, body, model))

    def embeddings(asked: Asked) -> Flow:
        body = validate(OllamaEmbeddingsBody, asked.sent, asked.ignored)
        model = _embedding_model(service, body.model)
        call = EmbedCall(asked.id, (body.prompt.replace("\0", ""),), "truncate")

        def written(rows: list[Any], made: Embeddings) -> dict[str, Any]:
            return {"embedding": rows[0] if body.prompt else []}

        # Its callers make many calls at once, look at no status, and keep what isn't there as a vector.
        made = vectors(service.switchboard.lane(model.lane), call, asked.deadline, _writer(call, written), patient=True)
        return kept(service, model, body.keeps(), made)

    return [
        route("POST", "/api/embed", embed, "Embed texts, as Ollama's API", body=OllamaEmbedBody,
              answer="OllamaEmbeddings",
              examples={"Two texts": {"model": "all-minilm", "input": ["The cat sat on the mat.", "Shares fell."]}}),
        route("POST", "/api/embeddings", embeddings, "Embed a text, as older clients of Ollama ask",
              body=OllamaEmbeddingsBody, answer="OllamaEmbedding",
              examples={"A text": {"model": "all-minilm", "prompt": "The cat sat on the mat."}}),
    ]


def _embed(service: Service, asked: Asked, body: OllamaEmbedBody, model: Model) -> Flow:
    began = time.monotonic()
    texts = body.texts(service.settings.max_texts)
    # Without any the model is loaded all the same.
    call = EmbedCall(asked.id, texts or ("",), "truncate")

    def written(rows: list[Any], made: Embeddings) -> dict[str, Any]:
        return {"model": body.model, "embeddings": rows if texts else [],
                "total_duration": nanoseconds(time.monotonic() - began), "load_duration": 0,
                "prompt_eval_count": made.prompt_tokens if texts else 0}

    if texts and not body.truncate:
        yield from _require_room(service, asked, model, texts)
    yield from vectors(service.switchboard.lane(model.lane), call, asked.deadline,
                       _writer(call, written, body.dimensions))


def _require_room(service: Service, asked: Asked, model: Model, texts: tuple[str, ...]) -> Flow:
    call = TokenizeCall(asked.id, model.id, texts, counted_only=True)
    counted = yield from result(service.switchboard.lane(service.switchboard.vocabulary()).begin(call, asked.deadline))
    assert isinstance(counted, Tokens)
    if max(counted.counts) > model.window:
        raise ContextLengthExceeded(f"the input length exceeds the context length: {max(counted.counts)} tokens, but "
                                    f"{model.id} takes {model.window}", param="input")


def _writer(call: EmbedCall, written: Callable[[list[Any], Embeddings], dict[str, Any]], dimensions: int | None = None
            ) -> Callable[[Embeddings], bytes]:
    def write(made: Embeddings) -> bytes:
        from mayfly.web.vectors import shortened

        return orjson.dumps(written(shortened(made, len(call.texts), dimensions), made),
                            option=orjson.OPT_SERIALIZE_NUMPY)

    return write


def _embedding_model(service: Service, name: str) -> Model:
    """Return the model of a name, which has to make vectors.

    Raises:
        InvalidRequest: it doesn't.
        NotFound: there is none.
    """
    try:
        model = named(service, name)
    except NotFound as exc:
        # Some clients pull what they are told to.
        advice = ", try pulling it first" if can_be_pulled(name, service.settings.model_path) else ""
        raise NotFound(f'model "{shown_name(name)}" not found{advice}', param="model", code="model_not_found") from exc
    if model.kind == "completion":
        raise InvalidRequest(f"{shown_name(name)} does not support embedding", param="model",
                             code="wrong_kind_of_model")
    return service.catalogue.resolve(name, "embedding")
