"""The forms of answers, for the OpenAPI document. Nothing is built by these: tests hold the answers against them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Reason = Literal["stop", "length"]
ChatReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class ErrorDetail(Answer):
    """What went wrong: `message` says what to change, `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """Any failure."""

    error: ErrorDetail


class EmbeddingUsage(Answer):
    """Tokens evaluated."""

    prompt_tokens: Count
    total_tokens: Count


class Usage(EmbeddingUsage):
    """Tokens evaluated and made."""

    completion_tokens: Count


class Embedding(Answer):
    """A text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(Answer):
    """Vectors in the texts' order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Completed(Answer):
    """A completion of the native route; `generation` is the number of the process that made it, `seed` what the engine
    drew with, if it takes one, `reasoning` what the model thought before it answered, if it did."""

    response: str
    reasoning: str = ""
    model: str
    finish_reason: Reason
    generation: Count
    usage: Usage
    seed: int | None = None


class ListedModel(Answer):
    """A model of MODEL_PATH, with what its file says; `usable` is false if no engine can run it, or if it couldn't be
    loaded when that was last tried, and `reason` why. Of one that is loaded also the `engine` that computes and, of an
    embedding model, its `precision`."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    kind: Literal["embedding", "completion"] = "completion"
    size: Count = 0
    architecture: str = ""
    quantization: str = ""
    parameter_count: Count = 0
    embedding_length: Count = 0
    context_length: Count = 0
    chat_template: str = Field("", description=(
        "where the template of its prompts is from: 'file' (the model's own), 'setting' (PROMPT_TEMPLATE), or "
        "'default:' and the name of a known form, chosen by the model's vocabulary or architecture"))
    tools: Literal["native", "generic"] = Field("generic", description=(
        "how a completion model is told of tools: 'native' (by its own template) or 'generic' (in words)"))
    usable: bool = True
    reason: str = ""
    engine: str = ""
    precision: str = ""


class ModelList(Answer):
    """The models of MODEL_PATH."""

    object: Literal["list"]
    data: list[ListedModel]


class TextLogprobs(Answer):
    """How likely the tokens of a completion were, in lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class TextChoice(Answer):
    """A completion of a text."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason


class _OpenAIAnswer(Answer):
    id: str
    created: Count
    model: str
    usage: Usage


class TextCompletion(_OpenAIAnswer):
    """Completions of texts: `n` for each prompt, prompt by prompt."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class AssistantMessage(Answer):
    """The model's turn; `content` is null where it calls tools and says nothing."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = Field("", description="what the model thought before it answered")
    tool_calls: list[ToolCalled] = []


class FunctionCalled(Answer):
    """What a call calls; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCalled(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCalled


class TokenLogprob(Answer):
    """How likely a token was; `bytes` is null for one that adds nothing to a text."""

    token: str
    logprob: float
    bytes: list[Count] | None


class ContentLogprob(TokenLogprob):
    """How likely a token of an answer was, and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Answer):
    """How likely the tokens of an answer were."""

    content: list[ContentLogprob]
    refusal: None


class ChatChoice(Answer):
    """A completion of a conversation."""

    index: Count
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatReason


class ChatCompletion(_OpenAIAnswer):
    """Completions of a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Health(Answer):
    """What the service does; callers who may use the rest also see its lanes."""

    status: Literal["ok", "degraded", "stopping"]
    version: str = ""
    node: str = ""
    uptime_s: float = 0
    lanes: dict[str, dict[str, Any]] = {}


class Ready(Answer):
    """Every configured model can answer."""

    status: Literal["ready"]


class Unready(Answer):
    """Not every configured model can answer."""

    status: Literal["unready"]
    waiting_for: list[str] = []
    error: ErrorDetail | None = None


class DeletedModel(Answer):
    """A model whose files have been deleted."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class TokenizedText(Answer):
    """A text's token ids, as its model evaluates them."""

    index: Count
    tokens: list[int]
    count: Count


class TokenizedTexts(Answer):
    """Token ids in the texts' order."""

    object: Literal["list"]
    data: list[TokenizedText]
    model: str


class TokenChecked(Answer):
    """Whether a prompt and its completion fit the model's window."""

    fits: bool
    tokenCount: Count
    contextLength: Count


class TokenChecks(Answer):
    """FastChat's answer, in the prompts' order."""

    prompts: list[TokenChecked]
