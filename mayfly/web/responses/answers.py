"""The form of responses, for the OpenAPI document; see mayfly.web.answer_schemas."""

from __future__ import annotations

from typing import Any, Literal

from mayfly.web.answer_schemas import Answer, ContentLogprob, Count

Status = Literal["completed", "incomplete"]


class OutputText(Answer):
    """What is said."""

    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[ContentLogprob]


class ReasoningText(Answer):
    """What is thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputMessage(Answer):
    """The model's turn."""

    type: Literal["message"]
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(Answer):
    """What the model has thought before it."""

    type: Literal["reasoning"]
    id: str
    status: Status
    summary: list[None]
    content: list[ReasoningText]


class OutputCall(Answer):
    """A function that the model calls; `arguments` is JSON text."""

    type: Literal["function_call"]
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


class InputDetails(Answer):
    """What is told of the prompt's tokens."""

    cached_tokens: Count
    cache_write_tokens: Count


class OutputDetails(Answer):
    """What is told of the answer's tokens."""

    reasoning_tokens: Count


class ResponseUsage(Answer):
    """Tokens evaluated and made."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class IncompleteDetails(Answer):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Response(Answer):
    """A response, with what was asked for."""

    id: str
    object: Literal["response"]
    created_at: Count
    model: str
    status: Status
    error: None
    incomplete_details: IncompleteDetails | None
    output: list[OutputMessage | OutputReasoning | OutputCall]
    usage: ResponseUsage
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, str | None]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: Count
    top_p: float
    truncation: Literal["auto", "disabled"]
