"""Chat templates: a conversation becomes the prompt that the model was trained on.

The template is the model's own (`tokenizer.chat_template` in its file), rendered by jinja2's sandbox with what
Hugging Face's templates expect. Text from the client is told apart from text of the template, so that the engine
can tokenise `</s>` in a prompt as five characters and not as the end of the turn.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Sequence
from typing import Any, NoReturn

from mayfly.engines.base import Segment
from mayfly.errors import EngineFailed, InvalidRequest
from mayfly.lanes.calls import Message

#: Used when a model's file carries no template: gpt4all's own default form.
FALLBACK = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}### Human:\n{{ message.content }}\n\n"
    "{% else %}### Assistant:\n{{ message.content }}\n\n{% endif %}"
    "{% endfor %}"
    # Jinja drops a newline at a template's very end, but not one that an expression writes.
    "{{ '### Assistant:\\n' }}"
)


class ChatTemplate:
    """One model's chat template.

    Args:
        source: jinja2 source, or None for `FALLBACK`.
        bos_token: text of the token that begins a prompt; "" where the engine adds that token itself.
        eos_token: text of the token that ends a turn.
    """

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        # Imported here: only the process that renders pays for it.
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._failures = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError)
        try:
            self._template = environment.from_string(source or FALLBACK)
        except jinja2.TemplateError as exc:
            raise EngineFailed(f"the model's chat template can't be read: {exc}") from exc

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt for a conversation, ending where the assistant's turn begins.

        Raises:
            InvalidRequest: the template refuses this order of roles, and says why.
            EngineFailed: the template does something to the client's text that can't be followed.
        """
        rendered = self._render([message.content for message in messages], messages)
        # The same with a random mark in each text's place shows where the client's text went.
        marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
        marked = self._render(marks, messages)
        for form in (str, str.strip):
            contents = [form(message.content) for message in messages]
            segments = _split(marked, marks, contents)
            if "".join(segment.text for segment in segments) == rendered:
                return segments
        raise EngineFailed("the model's chat template changes the text of a message in a way that can't be followed")

    def _render(self, contents: Sequence[str], messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": content}
                 for message, content in zip(messages, contents, strict=True)]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._tokens)
        except _Refused as exc:
            raise InvalidRequest(f"the model's chat template refuses this conversation: {exc}",
                                 param="messages") from exc
        except self._failures as exc:
            raise EngineFailed(f"the model's chat template fails: {type(exc).__name__}") from exc


class _Refused(Exception):
    """The template called raise_exception."""


def _raise(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _split(marked: str, marks: Sequence[str], contents: Sequence[str]) -> list[Segment]:
    """Cut a rendered prompt at its marks and put the client's texts in."""
    segments: list[Segment] = []
    rest = marked
    while rest:
        found = [(rest.find(mark), index) for index, mark in enumerate(marks)]
        position, index = min((pair for pair in found if pair[0] >= 0), default=(len(rest), None))
        if position:
            segments.append(Segment(rest[:position], special=True))
        if index is None:
            break
        if contents[index]:
            segments.append(Segment(contents[index], special=False, message=index))
        rest = rest[position + len(marks[index]):]
    return segments
