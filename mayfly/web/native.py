"""mayfly's own routes: `POST /embed` and `POST /gpt4all_api` (whose path is the setting ROUTE)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from mayfly.flow import Flow
from mayfly.web.choices import Choices, Part
from mayfly.web.embedding import embed
from mayfly.web.flows import as_json, stream
from mayfly.web.openai_answers import usage
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import CompletionBody, EmbedBody, validate
from mayfly.web.seeds import seeded, tell, used
from mayfly.web.service import Service
from mayfly.wire.calls import Completion, CompletionCall, Finished, Piece

_Answer = Callable[[str, Finished], dict[str, Any]]

TAG = "mayfly's own"
#: Bodies for embeddings, for the document.
TEXTS: dict[str, dict[str, Any]] = {
    "One text": {"input": "The cat sat on the mat."},
    "Several texts": {"input": ["The cat sat on the mat.", "A feline rested on the rug."],
                      "encoding_format": "base64"}}
_PROMPTS: dict[str, dict[str, Any]] = {
    "A prompt": {"prompt": "Who are you?", "max_tokens": 20},
    "A persona, streamed": {"prompt": "Who are you?", "persona": "You are Ada, a lighthouse keeper.",
                            "max_tokens": 20, "stream": True}}


def routes(service: Service) -> list[Route]:
    """Return the native routes of a service."""
    settings, catalogue = service.settings, service.catalogue

    def embed_texts(asked: Asked) -> Flow:
        body = validate(EmbedBody, asked.sent, asked.ignored)
        return embed(service, asked, body, catalogue.embedding_of_any(body.model))

    def complete(asked: Asked) -> Flow:
        body = validate(CompletionBody, asked.sent, asked.ignored, n_ctx=settings.n_ctx)
        model = catalogue.completing(body)
        call = CompletionCall(asked.id, messages=body.messages(), sampling=body.sampling(settings.n_ctx),
                              features=body.features(), template_kwargs=body.template_kwargs(),
                              namespace=service.gate.access.namespace(asked.environ))
        [call] = seeded(model, [call])
        lane = service.switchboard.lane(model.lane)
        choices = Choices(lane, [call], asked.deadline, at_once=1, in_pieces=body.stream,
                          on_first=functools.partial(tell, asked, lane, call))
        answer = functools.partial(_answer, functools.partial(used, lane, call))
        made = stream(choices, functools.partial(_events, answer), asked.id) if body.stream else _whole(
            choices, answer)
        return catalogue.naming("prompt", model, made)

    return [
        Route("POST", "/embed", embed_texts, "Embed texts", TAG, body=EmbedBody, answer="EmbeddingList",
              examples=TEXTS),
        Route("POST", settings.route, complete, "Complete a prompt", TAG, body=CompletionBody,
              answer="Completed", stream="text/event-stream", examples=_PROMPTS),
    ]


def _whole(choices: Choices, answer: _Answer) -> Flow:
    [completion] = yield from choices.completions()
    yield as_json({**answer(completion.text, completion.finished), **_reasoning(completion)})


def _reasoning(made: Completion | Piece) -> dict[str, Any]:
    return {"reasoning": made.reasoning} if made.reasoning else {}


def _answer(seed_used: Callable[[], int | None], text: str, finished: Finished) -> dict[str, Any]:
    seed = seed_used()
    return {
        "response": text,
        "model": finished.model,
        "finish_reason": finished.reason,
        "generation": finished.generation,
        "usage": usage([finished], 1),
        **({} if seed is None else {"seed": seed}),
    }


def _events(answer: _Answer, part: Part) -> Iterable[dict[str, Any]]:
    item = part.item
    if isinstance(item, Piece):
        yield {"response": item.text, **_reasoning(item)}
    elif isinstance(item, Finished):
        yield answer("", item)
