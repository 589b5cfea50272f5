"""What a prompt says of the form that its answer is held to: an answer that is only valid, and that the model hasn't
planned, is nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mayfly.wire.calls import ANY_OBJECT, Form, Message


def with_form_told(messages: Sequence[Message], form: Form | None) -> Sequence[Message]:
    """Return a conversation whose system text tells of the form.

    A schema is told; a grammar or a regular expression no model would read, so that is left to the caller.
    """
    if form is None or form.kind != "json_schema":
        return messages
    words = "Answer with a JSON object." if form.text == ANY_OBJECT else (
        f"Answer with JSON that fits this JSON schema, and with nothing else:\n{form.text}")
    return with_words(messages, words)


def with_words(messages: Sequence[Message], words: str) -> list[Message]:
    """Return a conversation whose system text ends with some words."""
    if messages and messages[0].role == "system":
        first = messages[0]
        return [replace(first, content=f"{first.content}\n\n{words}" if first.content.strip() else words),
                *messages[1:]]
    return [Message("system", words), *messages]
