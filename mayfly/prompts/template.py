"""Chat templates: a conversation becomes the prompt that the model was trained on.

The template is the model's own (`tokenizer.chat_template` in its file), a program in jinja2 (see `sandbox`). Text from
the client is told apart from text of the template (see `provenance`), so that the engine can tokenise `</s>` in a
prompt as five characters and not as the end of the turn.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mayfly.errors import EngineFailed, InvalidRequest
from mayfly.models.dialects import GPT4ALL
from mayfly.prompts.limits import TimeIsUp, bounded
from mayfly.prompts.provenance import origin_of, parts, traced, whole
from mayfly.prompts.segments import Segment, lay_out
from mayfly.prompts.turn_marks import turn_marks
from mayfly.wire.calls import Message, Role

# What a template may take to write a conversation, with so much more for each character that it is given, and as much
# for a turn as for some hundred characters. Real ones need some milliseconds and less than 1 MB.
_A_TURN = 250
_MEMORY, _MORE_MEMORY = 192 << 20, 64
_SECONDS, _MORE_SECONDS, _MOST_SECONDS = 2.0, 2e-6, 20.0
# What it may write, in characters.
_WRITTEN, _MORE_WRITTEN = 1_000_000, 4
# A conversation of more is the caller's to shorten, if it takes too much.
_LARGE = 250_000
# Of what a template says when it refuses a conversation.
_MOST_WORDS = 300

_BLANK_LINE = traced("\n\n")
# One turn any template can write; two of one role it can't where the roles have to alternate.
_RUN = (Message("user", "Hello"), Message("user", "Hello"))


class ChatTemplate:
    """One model's chat template.

    What a template refuses although a caller would expect it to work is written as users of such models do, with as
    little changed as is needed:

    - Several turns of one role in a row, where the roles have to alternate, are one turn, with blank lines between.
    - A system text that the template refuses (Gemma, or after the first turn), or leaves out without a word (the first
      Phi-3), goes before the next prompt, with a blank line between.
    - An answer before the first prompt (`assist` of `/gpt4all_api`), where turns have to alternate, is given an empty
      prompt.

    Args:
        source: jinja2 source, or None for gpt4all's own form.
        bos_token: text of the token that begins a prompt.
        eos_token: text of the token that ends a turn.

    A source that can't be read fails each `render`: the model serves texts without it.
    """

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        # Imported here: only the process that renders pays for it.
        from mayfly.prompts.sandbox import Refused, Sandbox

        source = source or GPT4ALL.template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._refused = Refused
        self.turn_marks = turn_marks(source)
        self._unreadable = ""
        try:
            self._template = bounded(lambda: Sandbox().from_string(source), memory=_MEMORY, seconds=_SECONDS)
        except (Exception, TimeIsUp) as exc:  # jinja2's errors, and Python's own for what is nested too deep
            self._unreadable = f"the model's chat template can't be read: {_reason(exc, str(exc)[:_MOST_WORDS])}"

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """Return the prompt for a conversation, ending where the assistant's turn begins.

        Raises:
            InvalidRequest: the template refuses this order of roles, and says why, or fails at it; or there is too much
                of it.
            EngineFailed: the template can't be read, fails whatever it is given, or takes more than it may.
        """
        if self._unreadable:
            raise EngineFailed(self._unreadable)
        size = sum(_A_TURN + len(message.content) for message in messages)
        seconds = min(_SECONDS + _MORE_SECONDS * size, _MOST_SECONDS)
        try:
            text = bounded(lambda: self._written(messages), memory=_MEMORY + _MORE_MEMORY * size, seconds=seconds)
        except (MemoryError, TimeIsUp) as exc:
            if size > _LARGE:
                raise InvalidRequest(f"the conversation is too large for the model's chat template: {_reason(exc)}",
                                     param="messages") from exc
            raise EngineFailed(f"the model's chat template fails: {_reason(exc)}") from exc
        if len(text) > _WRITTEN + _MORE_WRITTEN * size:
            raise EngineFailed(f"the model's chat template fails: it writes {len(text)} characters")
        return lay_out(Segment(part, special=not origin) for part, origin in parts(text))

    def _written(self, messages: Sequence[Message]) -> str:
        failure: InvalidRequest | EngineFailed | None = None
        plain = [_Turn(message.role, (index,)) for index, message in enumerate(messages)]
        later = any(turn.role == "system" for turn in plain[_first_said(plain):])
        # Where turns have to alternate, a system text among them would pass for one of the other role.
        for turns in _arrangements(_later_folded(plain) if later and not self._can_write(_RUN) else plain):
            try:
                text = self._render(messages, turns)
                if not self._leaves_out(text, messages, turns):
                    return text
            except InvalidRequest as exc:
                failure = failure or exc
            except EngineFailed as exc:
                failure = failure or self._blame(exc)
        raise failure or InvalidRequest("the model's chat template leaves the system message out", param="messages")

    def _leaves_out(self, text: str, messages: Sequence[Message], turns: Sequence[_Turn]) -> bool:
        """Tell whether a prompt lacks a system text, because the template would leave out any such text."""
        written = origin_of(text)
        missing = {index for index, message in enumerate(messages)
                   if message.role == "system" and message.content.strip() and index not in written}
        if not missing:
            return False
        # Some templates take words out of it that are for them ("/no_think").
        ordinary = [Message(message.role, "x") if index in missing else message
                    for index, message in enumerate(messages)]
        return not missing <= origin_of(self._render(ordinary, turns))

    def _blame(self, failure: EngineFailed) -> InvalidRequest | EngineFailed:
        """Return the error for a template that fails at a conversation: the caller's, if it can write any at all."""
        if not self._can_write(_RUN[:1]):
            return failure
        return InvalidRequest(f"{failure.message}, at this conversation and not at others", param="messages")

    def _can_write(self, messages: Sequence[Message]) -> bool:
        try:
            self._render(messages, [_Turn(message.role, (index,)) for index, message in enumerate(messages)])
        except (EngineFailed, InvalidRequest):
            return False
        return True

    def _render(self, messages: Sequence[Message], turns: Sequence[_Turn]) -> str:
        now = datetime.datetime.now()
        texts = [whole(message.content, frozenset((index,))) for index, message in enumerate(messages)]
        said = [{"role": turn.role, "content": _BLANK_LINE.join(filter(None, (texts[index] for index in turn.texts)))}
                for turn in turns]
        try:
            return self._template.render(
                messages=said, tools=None, documents=None, add_generation_prompt=True,
                strftime_now=lambda form: whole(now.strftime(form), origin_of(form)), **self._tokens)
        except self._refused as exc:
            raise InvalidRequest(f"the model's chat template refuses this conversation: {str(exc)[:_MOST_WORDS]}",
                                 param="messages") from exc
        except MemoryError:
            raise
        except Exception as exc:  # a program from a file: it may raise anything
            raise EngineFailed(f"the model's chat template fails: {_reason(exc)}") from exc


def _reason(exc: BaseException, words: str = "") -> str:
    """Return what is wrong.

    Args:
        words: of the error itself, where no text of a caller can be in them.
    """
    if isinstance(exc, TimeIsUp):
        return "it takes too long"
    if isinstance(exc, MemoryError):
        return "it takes too much memory"
    if isinstance(exc, RecursionError):
        return "it is nested too deep, or without an end"
    if isinstance(exc, OverflowError):
        return "it makes too large a number or range"
    return words or type(exc).__name__


@dataclass(frozen=True)
class _Turn:
    """A turn as the template is shown it: the texts of some messages, by their indices."""

    role: Role
    texts: tuple[int, ...]


def _arrangements(plain: list[_Turn]) -> Iterator[list[_Turn]]:
    """Yield the turns as they are, and then in the ways that a template may accept instead."""
    tried: list[list[_Turn]] = []
    for folded in (_unchanged, _later_folded, _folded):
        for paired in (_unchanged, _paired):
            for run in (_unchanged, _run_together):
                turns = run(folded(paired(plain)))
                if turns not in tried:
                    tried.append(turns)
                    yield turns


def _unchanged(turns: list[_Turn]) -> list[_Turn]:
    return turns


def _paired(turns: list[_Turn]) -> list[_Turn]:
    """Put an empty prompt before an answer that none comes before."""
    first = _first_said(turns)
    if first < len(turns) and turns[first].role == "assistant":
        return [*turns[:first], _Turn("user", ()), *turns[first:]]
    return turns


def _run_together(turns: list[_Turn]) -> list[_Turn]:
    """Make one turn of those of one role in a row."""
    together: list[_Turn] = []
    for turn in turns:
        if together and together[-1].role == turn.role:
            turn = _Turn(turn.role, together.pop().texts + turn.texts)
        together.append(turn)
    return together


def _later_folded(turns: list[_Turn]) -> list[_Turn]:
    """Put system texts into the prompt that follows them, but for those with which the conversation begins."""
    first = _first_said(turns)
    return [*turns[:first], *_folded(turns[first:])]


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


def _first_said(turns: list[_Turn]) -> int:
    return next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
