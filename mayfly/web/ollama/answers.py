"""The forms of Ollama's answers, for the OpenAPI document; see mayfly.web.answer_schemas."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mayfly.web.answer_schemas import Answer, Count, Reason, TokenLogprob


class OllamaError(Answer):
    """Any failure, on Ollama's routes."""

    error: str


class Version(Answer):
    """The version of Ollama whose API this is."""

    version: str


class Details(Answer):
    """What a model's file says."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: Count
    embedding_length: Count


class TaggedModel(Answer):
    """A model of MODEL_PATH, by its own name or by another."""

    name: str
    model: str
    modified_at: str
    size: Count
    digest: str
    details: Details
    capabilities: list[str]


class TagList(Answer):
    """The models of MODEL_PATH that can be used, by all their names; the newest first."""

    models: list[TaggedModel]


class LoadedModel(Answer):
    """A model that is loaded."""

    name: str
    model: str
    size: Count
    digest: str
    details: Details
    expires_at: str
    size_vram: Count
    context_length: Count


class LoadedModels(Answer):
    """The models that are loaded."""

    models: list[LoadedModel]


class ShownModel(Answer):
    """A model, with what its file says."""

    license: str
    modelfile: str
    parameters: str
    template: str
    system: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class _Completed(Answer):
    model: str
    created_at: str
    done: bool
    done_reason: Reason | Literal["load", "unload"]
    total_duration: Count = 0
    load_duration: Count = 0
    prompt_eval_count: Count = 0
    prompt_eval_duration: Count = 0
    eval_count: Count = 0
    eval_duration: Count = 0
    dropped_messages: Count = 0
    logprobs: list[OllamaLogprob] = Field([])


class OllamaLogprob(TokenLogprob):
    """How likely a token of an answer was, and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class Turn(Answer):
    """The model's turn."""

    role: Literal["assistant"]
    content: str
    thinking: str = Field("", description="what the model thought before it answered")
    tool_calls: list[OllamaToolCalled] = Field([])


class OllamaFunctionCalled(Answer):
    """What a call calls."""

    index: Count
    name: str
    arguments: dict[str, Any]


class OllamaToolCalled(Answer):
    """A call of a tool."""

    id: str
    function: OllamaFunctionCalled


class OllamaChat(_Completed):
    """An answer in a conversation. Durations are nanoseconds; `dropped_messages` is how many old ones were left out,
    because the window has no room for them."""

    message: Turn


class Generated(_Completed):
    """A completion. Durations are nanoseconds."""

    response: str
    thinking: str = Field("", description="what the model thought before it answered")


class OllamaEmbeddings(Answer):
    """Vectors in the texts' order. Durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: Count
    load_duration: Count
    prompt_eval_count: Count


class OllamaEmbedding(Answer):
    """A text's vector."""

    embedding: list[float]


class Pulled(Answer):
    """A model has been fetched."""

    status: Literal["success"]
