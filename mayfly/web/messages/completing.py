"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: the call that `/v1/chat/completions` would make, answered
as a message, or with its prompt's tokens counted."""

from __future__ import annotations

import functools
from typing import Any

from mayfly.errors import LaneUnavailable
from mayfly.flow import Flow
from mayfly.web.catalogue import Model
from mayfly.web.flows import as_json
from mayfly.web.messages.bodies import CountTokensBody, MessagesBody
from mayfly.web.messages.events import PATH, Events
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service
from mayfly.web.tokens import tokens_of
from mayfly.wire.calls import CompletionCall, TokenizeCall

_HELLO: dict[str, Any] = {"system": "You are Ada, a lighthouse keeper.", "max_tokens": 20,
                          "messages": [{"role": "user", "content": "Who are you?"}]}
_route = functools.partial(Route, tag="Anthropic's API", error="AnthropicError")


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""
    def messages(asked: Asked) -> Flow:
        body = validate(MessagesBody, asked.sent, asked.ignored)
        return body.translated().answered(service, asked, lambda model: Events(model, asked.id))

    def count_tokens(asked: Asked) -> Flow:
        meant = validate(CountTokensBody, asked.sent, asked.ignored).translated()
        call, model = meant.call(service, asked)
        lane = service.switchboard.lane(model.lane)
        if not lane.configured():
            raise LaneUnavailable(lane.status()["reason"])
        return meant.naming(service, model, _counted(service, asked, model, call))

    said = {name: value for name, value in _HELLO.items() if name != "max_tokens"}
    return [_route("POST", PATH, messages, "Complete a conversation, as Anthropic's API", body=MessagesBody,
                   answer="AnsweredMessage", stream="text/event-stream",
                   examples={"A question": _HELLO, "Streamed": {**_HELLO, "stream": True}}),
            _route("POST", f"{PATH}/count_tokens", count_tokens, "Count a conversation's tokens, as Anthropic's API",
                   body=CountTokensBody, answer="CountedTokens", examples={"A question": said})]


def _counted(service: Service, asked: Asked, model: Model, call: CompletionCall) -> Flow:
    counted = TokenizeCall(asked.id, model.id, (), counted_only=True, prompts=(call,))
    made = yield from tokens_of(service, counted, asked.deadline)
    yield as_json({"input_tokens": made.counts[0]})
