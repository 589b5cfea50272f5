"""`POST /v1/responses`: the call that `/v1/chat/completions` would make, answered as a response."""

from __future__ import annotations

from typing import Any

from mayfly.flow import Flow
from mayfly.web import openai
from mayfly.web.responses.bodies import ResponsesBody
from mayfly.web.responses.events import Events
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service

_HELLO: dict[str, Any] = {"instructions": "You are Ada, a lighthouse keeper.", "input": "Who are you?",
                          "max_output_tokens": 20}


def routes(service: Service) -> list[Route]:
    """Return the route of a service."""
    def respond(asked: Asked) -> Flow:
        body = validate(ResponsesBody, asked.sent, asked.ignored)
        return body.translated().answered(service, asked, lambda model: Events(model, body.shown()))

    return [Route("POST", "/v1/responses", respond, "Respond, as OpenAI's API", openai.TAG, body=ResponsesBody,
                  answer="Response", stream="text/event-stream",
                  examples={"A question": _HELLO, "Streamed": {**_HELLO, "stream": True}})]
