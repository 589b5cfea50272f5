"""`POST /v1/messages`: the call that `/v1/chat/completions` would make, answered as a message."""

from __future__ import annotations

import functools
from typing import Any

from mayfly.flow import Flow
from mayfly.web.choices import Choices
from mayfly.web.flows import as_json, stream
from mayfly.web.messages.answers import AnsweredMessage, AnthropicError
from mayfly.web.messages.bodies import MessagesBody
from mayfly.web.messages.events import PATH, Events
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service

_HELLO: dict[str, Any] = {"system": "You are Ada, a lighthouse keeper.", "max_tokens": 20,
                          "messages": [{"role": "user", "content": "Who are you?"}]}
_route = functools.partial(Route, tag="Anthropic's API", error=AnthropicError)


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""
    def messages(asked: Asked) -> Flow:
        body = validate(MessagesBody, asked.sent, asked.ignored)
        meant = body.translated()
        choices, model = meant.begun(service, asked)
        events = Events(model.id, asked.id)
        made = stream(choices, events.render, asked.id, events.form()) if body.stream else _whole(choices, events)
        return meant.naming(service, model, made)

    return [_route("POST", PATH, messages, "Complete a conversation, as Anthropic's API", body=MessagesBody,
                   answer=AnsweredMessage, stream="text/event-stream",
                   examples={"A question": _HELLO, "Streamed": {**_HELLO, "stream": True}})]


def _whole(choices: Choices, events: Events) -> Flow:
    [made] = yield from choices.completions()
    yield as_json(events.whole(made))
