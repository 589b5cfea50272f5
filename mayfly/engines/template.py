"""Chat templates: a conversation becomes the prompt that the model was trained on.

The template is the model's own (`tokenizer.chat_template` in its file), rendered by jinja2's sandbox with what
Hugging Face's templates expect (`apply_chat_template` in transformers). Text from the client is told apart from text of
the template, so that the engine can tokenise `</s>` in a prompt as five characters and not as the end of the turn.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mayfly.engines.base import Segment
from mayfly.engines.segments import lay_out
from mayfly.engines.stop_words import turn_marks
from mayfly.errors import EngineFailed, InvalidRequest
from mayfly.lanes.calls import Message, Role
from mayfly.models.dialects import GPT4ALL

# A template strips some texts at one end and some at the other, so there may be several ways to find them in what it
# made. More than this many at a time are never needed; they bound the work on texts made of blanks.
_MOST_WAYS = 64

# What stands in the place of a client's text: 64 random bits that it can't guess.
_MARK = re.compile("(\ue000[0-9a-f]{16}\ue001)")


class ChatTemplate:
    """One model's chat template.

    What a template refuses although a caller would expect it to work is written as users of such models do:

    - A system text that the template refuses (Gemma), or leaves out without a word (the first Phi-3), goes before the
      next prompt, with a blank line between.
    - An answer before the first prompt (`assist` of `/gpt4all_api`), where turns have to alternate, is given an empty
      prompt.

    Args:
        source: jinja2 source, or None for gpt4all's own form.
        bos_token: text of the token that begins a prompt.
        eos_token: text of the token that ends a turn.
    """

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        # Imported here: only the process that renders pays for it.
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_blocks()])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._failures = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
        source = source or GPT4ALL.template
        self.turn_marks = turn_marks(source)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as exc:
            raise EngineFailed(f"the model's chat template can't be read: {exc}") from exc

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt for a conversation, ending where the assistant's turn begins.

        Raises:
            InvalidRequest: the template refuses this order of roles, and says why.
            EngineFailed: the template does something to the client's text that can't be followed.
        """
        refusal: InvalidRequest | None = None
        # A random mark in each text's place shows where the client's text goes. Blanks need none, and templates treat
        # an empty text differently.
        marks = [_mark() if message.content.strip() else message.content for message in messages]
        for turns in _arrangements(messages):
            try:
                marked = self._render(marks, turns)
            except InvalidRequest as exc:
                refusal = refusal or exc
                continue
            if any(mark.strip() and mark not in marked
                   for mark, message in zip(marks, messages, strict=True) if message.role == "system"):
                continue
            rendered = self._render([message.content for message in messages], turns)
            return _follow(rendered, _split(marked, marks), messages)
        raise refusal or InvalidRequest("the model's chat template leaves the system message out", param="messages")

    def _render(self, contents: Sequence[str], turns: Iterable[_Turn]) -> str:
        said = [{"role": turn.role, "content": "\n\n".join(contents[index] for index in turn.texts)} for turn in turns]
        try:
            return self._template.render(messages=said, tools=None, documents=None, add_generation_prompt=True,
                                         **self._tokens)
        except _Refused as exc:
            raise InvalidRequest(f"the model's chat template refuses this conversation: {exc}",
                                 param="messages") from exc
        except self._failures as exc:
            raise EngineFailed(f"the model's chat template fails: {type(exc).__name__}") from exc


def _mark() -> str:
    return f"\ue000{secrets.token_hex(8)}\ue001"


@dataclass(frozen=True)
class _Turn:
    """A turn as the template is shown it: the texts of some messages, by their indices."""

    role: Role
    texts: tuple[int, ...]


def _arrangements(messages: Sequence[Message]) -> Iterator[list[_Turn]]:
    """Yield the turns as they are, and then in the ways that a template may accept instead."""
    plain = [_Turn(message.role, (index,)) for index, message in enumerate(messages)]
    paired = _paired(plain)
    yield from (plain, _folded(plain), paired, _folded(paired))


def _paired(turns: list[_Turn]) -> list[_Turn]:
    """Put an empty prompt before an answer that none comes before."""
    first = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if first < len(turns) and turns[first].role == "assistant":
        return [*turns[:first], _Turn("user", ()), *turns[first:]]
    return turns


def _folded(turns: list[_Turn]) -> list[_Turn]:
    """Put system texts into the prompt that follows them."""
    folded: list[_Turn] = []
    waiting: tuple[int, ...] = ()
    for turn in turns:
        if turn.role == "system":
            waiting += turn.texts
        elif turn.role == "user":
            folded.append(_Turn("user", waiting + turn.texts))
            waiting = ()
        else:
            folded.append(turn)
    return [*folded, _Turn("user", waiting)] if waiting else folded


def _split(marked: str, marks: Sequence[str]) -> list[str | int]:
    """Cut a rendered prompt at its marks; return its parts: text of the template, and indices of marks."""
    places = {mark: index for index, mark in enumerate(marks)}
    return [places.get(part, part) if _MARK.fullmatch(part) else part for part in _MARK.split(marked)]


def _follow(rendered: str, parts: Sequence[str | int], messages: Sequence[Message]) -> list[Segment]:
    """Find the parts of a prompt in what the template made of the true texts, which it may have stripped.

    Raises:
        EngineFailed: it did something else to them.
    """
    # Where the parts so far may end, and how they then are.
    ways: dict[int, tuple[Any, ...]] = {0: ()}
    for part in parts:
        longer: dict[int, tuple[Any, ...]] = {}
        for end, way in ways.items():
            for segment in _forms(part, messages):
                if rendered.startswith(segment.text, end):
                    longer.setdefault(end + len(segment.text), (way, segment))
        ways = dict(itertools.islice(longer.items(), _MOST_WAYS))
    if len(rendered) not in ways:
        raise EngineFailed("the model's chat template changes the text of a message in a way that can't be followed")
    way = ways[len(rendered)]
    segments = []
    while way:
        way, segment = way
        segments.append(segment)
    return lay_out(reversed(segments))


def _forms(part: str | int, messages: Sequence[Message]) -> list[Segment]:
    """Return what may stand in a part's place."""
    if isinstance(part, str):
        return [Segment(part, special=True)]
    text = messages[part].content
    forms = dict.fromkeys((text, text.strip(), text.lstrip(), text.rstrip()))
    return [Segment(form, special=False) for form in forms]


class _Refused(Exception):
    """The template called raise_exception."""


def _raise(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(x: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    # The names are those of transformers, which templates use.
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _generation_blocks() -> type[Any]:
    """Return the extension for `{% generation %}`, by which transformers finds the assistant's tokens in training."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return GenerationBlocks
