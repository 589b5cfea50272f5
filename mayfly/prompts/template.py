"""Chat templates: a conversation becomes the prompt that the model was trained on.

The template is the model's own (`tokenizer.chat_template` in its file), a program in jinja2 (see `sandbox`). Text from
the client is told apart from text of the template (see `provenance`), so that the engine can tokenise `</s>` in a
prompt as five characters and not as the end of the turn.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mayfly.errors import EngineFailed, InvalidRequest
from mayfly.models.call_forms import form_of, thought_of
from mayfly.models.dialects import GPT4ALL
from mayfly.prompts.arrangements import Turn, arrangements, first_said, later_folded
from mayfly.prompts.limits import TimeIsUp, bounded
from mayfly.prompts.provenance import Origin, followed, origin_of, parts, traced, whole
from mayfly.prompts.segments import Segment, lay_out
from mayfly.prompts.tool_words import arguments_of, described
from mayfly.prompts.turn_marks import turn_marks
from mayfly.wire.calls import Message, Tool

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
_ADVICE = "; use another model, or, if it is that of MODEL_NAME, set PROMPT_TEMPLATE"

_BLANK_LINE = traced("\n\n")
# What a caller gives beside the messages comes from nowhere in them.
_BESIDE: Origin = frozenset((-2,))


@dataclass(frozen=True)
class _Conversation:
    """What a template is given.

    Attributes:
        tools: those that the model may call.
        variables: others, by their names.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    def size(self) -> int:
        """Return how much there is to write, in characters."""
        return (sum(_A_TURN + message.characters() for message in self.messages) + len(str(self.variables))
                + sum(_A_TURN + len(tool.description) + len(tool.parameters) for tool in self.tools))


# One turn any template can write; two of one role it can't where the roles have to alternate.
_TURN = _Conversation((Message("user", "Hello"),))
_RUN = _Conversation((Message("user", "Hello"), Message("user", "Hello")))
_TRIED = Tool("a_tool_of_no_use", "It does nothing.", '{"type": "object", "properties": {}}')


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

    Attributes:
        turn_marks: the texts that begin a turn, where no tokens do.
        form: in which calls of tools are written; None if it knows no tools.
        thought: the marks of what the model thinks before it answers; None if it declares none.
    """

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        # Imported here: only the process that renders pays for it.
        from mayfly.prompts.sandbox import Refused, Sandbox

        source = source or GPT4ALL.template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._refused = Refused
        self.turn_marks = turn_marks(source)
        self.form = form_of(source)
        self.thought = thought_of(source)
        self._unreadable = ""
        try:
            self._template = bounded(lambda: Sandbox().from_string(source), memory=_MEMORY, seconds=_SECONDS)
        except (Exception, TimeIsUp) as exc:  # jinja2's errors, and Python's own for what is nested too deep
            self._unreadable = f"the model's chat template can't be read: {_reason(exc, str(exc)[:_MOST_WORDS])}"

    @functools.cached_property
    def tells_of_tools(self) -> bool:
        """Whether it writes those that it is given."""
        if self._unreadable or self.form is None:
            return False
        tried = replace(_TURN, tools=(_TRIED,))
        try:
            text = bounded(lambda: self._render(tried, [Turn("user", (0,))]), memory=_MEMORY, seconds=_SECONDS)
        except (EngineFailed, InvalidRequest, MemoryError, TimeIsUp):
            return False
        return _TRIED.name in text

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (),
               variables: Mapping[str, Any] | None = None) -> list[Segment]:
        """Return the prompt for a conversation, ending where the assistant's turn begins.

        Args:
            tools: those that the model may call, for a template that tells of them.
            variables: for the template, by their names.

        Raises:
            InvalidRequest: the template refuses this order of roles, and says why, or fails at it; or there is too much
                of it.
            EngineFailed: the template can't be read, fails whatever it is given, or takes more than it may.
        """
        if self._unreadable:
            raise EngineFailed(self._unreadable + _ADVICE)
        conversation = _Conversation(messages, tools, variables or {})
        size = conversation.size()
        seconds = min(_SECONDS + _MORE_SECONDS * size, _MOST_SECONDS)
        try:
            text = bounded(lambda: self._written(conversation), memory=_MEMORY + _MORE_MEMORY * size, seconds=seconds)
        except (MemoryError, TimeIsUp) as exc:
            if size > _LARGE:
                raise InvalidRequest(f"the conversation is too large for the model's chat template: {_reason(exc)}",
                                     param="messages") from exc
            raise EngineFailed(f"the model's chat template fails: {_reason(exc)}{_ADVICE}") from exc
        except EngineFailed as exc:
            raise EngineFailed(exc.message + _ADVICE) from exc
        if len(text) > _WRITTEN + _MORE_WRITTEN * size:
            raise EngineFailed(f"the model's chat template fails: it writes {len(text)} characters{_ADVICE}")
        return lay_out(Segment(part, special=not origin) for part, origin in parts(text))

    def _written(self, conversation: _Conversation) -> str:
        failure: InvalidRequest | EngineFailed | None = None
        plain = [Turn(message.role, (index,)) for index, message in enumerate(conversation.messages)]
        later = any(turn.role == "system" for turn in plain[first_said(plain):])
        # Where turns have to alternate, a system text among them would pass for one of the other role.
        for turns in arrangements(later_folded(plain) if later and not self._can_write(_RUN) else plain):
            try:
                text = self._render(conversation, turns)
                if not self._leaves_out(text, conversation, turns):
                    return text
            except InvalidRequest as exc:
                failure = failure or exc
            except EngineFailed as exc:
                failure = failure or self._blame(exc, conversation)
        raise failure or InvalidRequest("the model's chat template leaves the system message out", param="messages")

    def _leaves_out(self, text: str, conversation: _Conversation, turns: Sequence[Turn]) -> bool:
        """Tell whether a prompt lacks a system text, because the template would leave out any such text."""
        written = origin_of(text)
        missing = {index for index, message in enumerate(conversation.messages)
                   if message.role == "system" and message.content.strip() and index not in written}
        if not missing:
            return False
        # Some templates take words out of it that are for them ("/no_think").
        ordinary = [Message(message.role, "x") if index in missing else message
                    for index, message in enumerate(conversation.messages)]
        return not missing <= origin_of(self._render(replace(conversation, messages=ordinary), turns))

    def _blame(self, failure: EngineFailed, conversation: _Conversation) -> InvalidRequest | EngineFailed:
        """Return the error for a template that fails at a conversation: the caller's, if it can write any at all."""
        if not self._can_write(_TURN):
            return failure
        if conversation.variables and not self._can_write(replace(_TURN, variables=conversation.variables)):
            return InvalidRequest(f"{failure.message}, with these variables and not without",
                                  param="chat_template_kwargs")
        return InvalidRequest(f"{failure.message}, at this conversation and not at others", param="messages")

    def _can_write(self, conversation: _Conversation) -> bool:
        try:
            self._render(conversation, [Turn(message.role, (index,))
                                        for index, message in enumerate(conversation.messages)])
        except (EngineFailed, InvalidRequest):
            return False
        return True

    def _render(self, conversation: _Conversation, turns: Sequence[Turn]) -> str:
        now = datetime.datetime.now()
        messages = _Shown(conversation.messages, self.form.id_length if self.form is not None else 0)
        try:
            return self._template.render({
                "documents": None, **followed(dict(conversation.variables), _BESIDE),
                "tools": [followed(described(tool), _BESIDE) for tool in conversation.tools] or None,
                "messages": [messages.turn(turn) for turn in turns], "add_generation_prompt": True,
                "strftime_now": lambda form: whole(now.strftime(form), origin_of(form)), **self._tokens})
        except self._refused as exc:
            raise InvalidRequest(f"the model's chat template refuses this conversation: {str(exc)[:_MOST_WORDS]}",
                                 param="messages") from exc
        except MemoryError:
            raise
        except Exception as exc:  # a program from a file: it may raise anything
            raise EngineFailed(f"the model's chat template fails: {_reason(exc)}") from exc


class _Shown:
    """The messages of a conversation as a template is shown them.

    Args:
        id_length: of the ids of calls; see CallForm.
    """

    def __init__(self, messages: Sequence[Message], id_length: int) -> None:
        self._messages = messages
        self._id_length = id_length
        self._names = {call.id: call.name for message in messages for call in message.tool_calls}

    def turn(self, turn: Turn) -> dict[str, Any]:
        """Return a turn, whose texts know which messages they come from."""
        said = [(frozenset((index,)), self._messages[index]) for index in turn.texts]
        shown: dict[str, Any] = {"role": turn.role, "content": _BLANK_LINE.join(
            filter(None, (whole(message.content, origin) for origin, message in said)))}
        reasoning = _BLANK_LINE.join(filter(None, (whole(message.reasoning, origin) for origin, message in said)))
        if reasoning:
            shown["reasoning_content"] = reasoning
        calls = [{"id": self._id(call.id, origin), "type": "function", "function": {
            "name": whole(call.name, origin), "arguments": followed(arguments_of(call), origin)}}
            for origin, message in said for call in message.tool_calls]
        # Templates ask whether there is such a field.
        if calls:
            shown["tool_calls"] = calls
        if turn.role == "tool":
            [(origin, message)] = said
            shown["tool_call_id"] = self._id(message.tool_call_id, origin)
            shown["name"] = whole(self._names.get(message.tool_call_id, ""), origin)
        return shown

    def _id(self, sent: str, origin: Origin) -> str:
        if self._id_length and not (len(sent) == self._id_length and sent.isalnum()):
            sent = hashlib.sha256(sent.encode("utf-8", "replace")).hexdigest()[:self._id_length]
        return whole(sent, origin)


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
