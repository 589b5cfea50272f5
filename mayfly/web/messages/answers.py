"""The forms of Anthropic's answers, for the OpenAPI document; see mayfly.web.answer_schemas."""

from __future__ import annotations

from typing import Any, Literal

from mayfly.web.answer_schemas import Answer, Count


class AnthropicErrorDetail(Answer):
    """What went wrong: `message` says what to change."""

    type: str
    message: str


class AnthropicError(Answer):
    """Any failure, on Anthropic's routes."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class SaidText(Answer):
    """What is said."""

    type: Literal["text"]
    text: str


class SaidThinking(Answer):
    """What is thought."""

    type: Literal["thinking"]
    thinking: str
    signature: Literal[""]


class ToolUse(Answer):
    """A tool that the model uses."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Answer):
    """Tokens evaluated and made."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


class AnsweredMessage(Answer):
    """The model's turn."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[SaidText | SaidThinking | ToolUse]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class CountedTokens(Answer):
    """How many tokens a conversation is."""

    input_tokens: Count
