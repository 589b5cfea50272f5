"""What the routes in other forms than OpenAI's have in common: their bodies are translated to one of OpenAI's, which is
what is checked further and what makes the call. What is wrong with it is said in the words of the one that was sent.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mayfly.errors import InvalidRequest
from mayfly.flow import Flow
from mayfly.web.catalogue import Model
from mayfly.web.choices import Choices, Part
from mayfly.web.flows import Form, as_json, stream
from mayfly.web.openai import chat_call
from mayfly.web.openai_schemas import ChatBody
from mayfly.web.routes import Asked
from mayfly.web.schemas import validate
from mayfly.web.seeds import seeded, tell
from mayfly.web.service import Service
from mayfly.wire.calls import Completion, CompletionCall


class Shown(Protocol):
    """An answer in another form."""

    def whole(self, made: Completion) -> dict[str, Any]:
        """Return it where it isn't streamed."""

    def form(self) -> Form:
        """Return how its events are streamed."""

    def render(self, part: Part) -> Iterable[dict[str, Any]]:
        """Return the events that show a part."""


@dataclass(frozen=True)
class Translated:
    """A body in another form, as one for OpenAI's chats.

    Attributes:
        told: that one, as JSON.
        called: what its fields are called in the one that was sent, where that isn't the same; numbers of list entries
            are stars. A field without a name of its own has that of the one that it is in.
        drop_oldest: see CompletionCall.
    """

    told: dict[str, Any]
    called: Mapping[str, str] = field(default_factory=dict)
    drop_oldest: bool = False

    def call(self, service: Service, asked: Asked) -> tuple[CompletionCall, Model]:
        """Return the call that it means, and the model that serves it.

        Raises:
            InvalidRequest: something is wrong with it.
        """
        with in_words(self.called):
            body = validate(ChatBody, self.told, [], n_ctx=service.settings.n_ctx)
            call = replace(chat_call(service, asked, body), drop_oldest=self.drop_oldest)
            return call, service.catalogue.completing(body)

    def answered(self, service: Service, asked: Asked, shown: Callable[[str], Shown]) -> Flow:
        """Return the flow that answers it, whole or as a stream.

        Args:
            shown: returns how, from the name of the model that serves.

        Raises:
            InvalidRequest: something is wrong with it.
        """
        call, model = self.call(service, asked)
        [call] = seeded(model, [call])
        in_pieces = self.told.get("stream", False)
        lane = service.switchboard.lane(model.lane)
        choices = Choices(lane, [call], asked.deadline, at_once=1, in_pieces=in_pieces,
                          on_first=functools.partial(tell, asked, lane, call))
        answer = shown(model.id)
        made = stream(choices, answer.render, asked.id, answer.form()) if in_pieces else _whole(choices, answer)
        return self.naming(service, model, made)

    def naming(self, service: Service, model: Model, flow: Flow) -> Flow:
        """Have what the model's process refuses said in the words of the body that was sent."""
        with in_words(self.called):
            yield from service.catalogue.naming("messages", model, flow)


def _whole(choices: Choices, shown: Shown) -> Flow:
    [made] = yield from choices.completions()
    yield as_json(shown.whole(made))


@contextlib.contextmanager
def in_words(called: Mapping[str, str]) -> Iterator[None]:
    """Have what is wrong with OpenAI's body said of the one that was sent.

    Args:
        called: see Translated.

    Raises:
        InvalidRequest: what was raised, in other words.
    """
    try:
        yield
    except InvalidRequest as exc:
        param = exc.param or ""
        numbers = re.findall("[0-9]+", param)
        name = called.get(re.sub("[0-9]+", "*", param)) or called.get(param.partition(".")[0]) or param
        name = re.sub("[*]", lambda _: numbers.pop(0), name)
        exc.message = exc.message.replace(f"'{param}'", f"'{name}'")
        exc.param = name or None
        raise
