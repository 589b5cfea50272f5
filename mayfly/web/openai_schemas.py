"""The bodies of OpenAI's routes, validated by pydantic.

They differ from the native ones in two ways, because OpenAI's clients do: fields that aren't known are ignored, and a
known one that this service has nothing for is taken with its neutral value and refused by name with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mayfly.engines.backends import Backend
from mayfly.errors import InvalidRequest
from mayfly.web.answer_forms import form_of_object, form_of_schema
from mayfly.web.bodies import kind
from mayfly.web.refusals import allowed_in, missing
from mayfly.web.schemas import (
    MAX_TOKENS,
    TEXT,
    UNUSED,
    EmbedBody,
    OpenAIBody,
    SampledBody,
    TemplatedBody,
    Text,
    listed,
)
from mayfly.web.tool_schemas import CalledTool, ToolsBody
from mayfly.wire.calls import Form, Message, Sampling

MOST_CHOICES = 16
# LangChain asks for 20 prompts at a time; each may be asked for several choices.
MOST_PROMPTS = 64
MOST_COMPLETIONS = 128
MOST_MESSAGES = 4096
MOST_CALLS = 128
# Characters that all prompts of a request have at most, once they are put into its template.
MOST_CHARACTERS = 1 << 24


class EmbeddingsBody(EmbedBody, OpenAIBody):
    """`POST /v1/embeddings`."""


class StreamOptions(OpenAIBody):
    """What a stream holds beside the text."""

    include_usage: bool = Field(False, description="true or false")
    include_obfuscation: Literal[False] = Field(False, description="false or left out: nothing is padded here")


# What asks for nothing while it is empty. What is in it isn't looked at: it may be much.
_None = Annotated[list[Any], Field(max_length=0)]
_NO_FUNCTIONS = "left out: send 'tools'"


class ResponseFormat(OpenAIBody):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description='"text", or where the model\'s engine can be held to a form, "json_object" or "json_schema"')
    json_schema: dict[str, Any] = Field({}, description='an object such as {"name": "cat", "schema": a JSON schema}')

    def form(self) -> Form:
        """Return it as what an answer is held to, whether `strict` or not.

        Raises:
            InvalidRequest: there is no schema.
        """
        if self.type == "json_object":
            return form_of_object("response_format")
        param = "response_format.json_schema.schema"
        schema = self.json_schema.get("schema")
        if schema is None:
            raise missing(param, "a JSON schema")
        if not isinstance(schema, dict):
            raise InvalidRequest(f"'{param}' has to be a JSON schema, not {kind(schema)}.", param=param)
        return form_of_schema(schema, "response_format")


def _unless_text(form: ResponseFormat | None) -> ResponseFormat | None:
    return None if form is not None and form.type == "text" else form


class _Sampled(SampledBody, OpenAIBody):
    """What both kinds of completions have in common."""

    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, ge=0, le=1, description="a number from 0 to 1")
    # OpenAI's API has no such penalty, and clients don't expect one. gpt4all's 1.18 keeps small models from the right
    # answer where that repeats the question.
    repeat_penalty: float = Field(1.0, gt=0, le=10, description="a number above 0, up to 10")
    n: int = Field(1, ge=1, le=MOST_CHOICES, description=f"a whole number from 1 to {MOST_CHOICES}")
    stream_options: StreamOptions | None = Field(None, description="an object, and only with stream: true")
    prompt_batch_size: int | None = Field(None, ge=1, description="a whole number from 1 (above 128 it is 128)")
    thread_count: int | None = Field(None, ge=1, description="a whole number from 1 (above THREADS it is THREADS)")
    reload: bool = Field(True, description="true or false; every completion begins with an empty state anyway")
    user: str = Field("", description=UNUSED)
    response_format: Annotated[ResponseFormat | None, AfterValidator(_unless_text)] = Field(
        None, description='an object such as {"type": "text"}')

    def json_form(self) -> Form | None:
        """See SampledBody."""
        return self.response_format.form() if self.response_format is not None else None

    def echoes(self) -> bool:
        """Tell whether each completion begins with its prompt."""
        return False

    def include_usage(self) -> bool:
        """Tell whether a stream ends with its usage.

        Raises:
            InvalidRequest: there are stream options, but no stream.
        """
        if self.stream_options is None:
            return False
        if not self.stream:
            raise InvalidRequest("'stream_options' has to be left out unless 'stream' is true.", param="stream_options")
        return self.stream_options.include_usage


_PromptList = Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
_Prompts = Annotated[_PromptList, BeforeValidator(listed, json_schema_input_type=str | _PromptList)]


class TextBody(_Sampled):
    """`POST /v1/completions`."""

    prompt: _Prompts = Field(
        description=f"a string or a non-empty list of up to {MOST_PROMPTS} strings")
    max_tokens: int = Field(
        16, ge=0, description=f"{MAX_TOKENS}; 0 is for 'logprobs' with 'echo', which then are the prompt's alone")
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES, description=f"a whole number from n to {MOST_CHOICES}")
    echo: bool = Field(False, description="true or false")
    prompt_template: str = Field(
        "%1", pattern=r"^[^\x00]*%1[^\x00]*$",
        description="a string with %1 where the prompt goes, without NUL characters")
    suffix: Text = Field("", description=f"{TEXT}, where the model's engine can fill gaps")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="a whole number from 0 to 5, where the model's engine gives probabilities")

    def echoes(self) -> bool:
        """See the base."""
        return self.echo

    def alternatives(self) -> int | None:
        """See SampledBody."""
        return self.logprobs

    def sampling(self, n_ctx: int) -> Sampling:
        """See SampledBody. Where the prompt is echoed and log-probabilities are asked for, they are told of it too.

        Raises:
            InvalidRequest: as SampledBody, or what would be echoed isn't what is evaluated.
        """
        scored = self.echo and self.logprobs is not None
        if scored and (self.suffix or self.prompt_template != "%1"):
            other = "suffix" if self.suffix else "prompt_template"
            raise InvalidRequest(f"'{other}' has to be left out where 'logprobs' and 'echo' are asked for: the "
                                 "prompt's are those of its own tokens alone.", param=other)
        if self.max_tokens == 0 and not scored:
            raise InvalidRequest(f"'max_tokens' has to be {allowed_in(type(self), 'max_tokens', n_ctx)}.",
                                 param="max_tokens")
        return replace(super().sampling(n_ctx), prompt_logprobs=scored)

    def candidates(self) -> int:
        """Return how many completions are made for each prompt; the best `n` of them are the answer.

        Raises:
            InvalidRequest: `best_of` is below `n`, or streamed though above it, or there are too many in all.
        """
        candidates = self.best_of if self.best_of is not None else self.n
        if candidates < self.n:
            raise InvalidRequest(f"'best_of' has to be at least 'n', which is {self.n}.", param="best_of")
        if self.stream and candidates > self.n:
            raise InvalidRequest("'best_of' has to be equal to 'n' in a stream: which are best shows at their end.",
                                 param="best_of")
        if candidates * len(self.prompt) > MOST_COMPLETIONS:
            raise InvalidRequest(f"'prompt' has {len(self.prompt)} texts for {candidates} completions each, but at "
                                 f"most {MOST_COMPLETIONS} in all are allowed: send several requests.", param="prompt")
        return candidates

    def prompts(self) -> list[str]:
        """Return the texts to be completed, put into the client's template. That is the client's text too.

        Raises:
            InvalidRequest: a prompt is empty, and nothing follows it either, or the template makes too much of them.
        """
        places, rest = self.prompt_template.count("%1"), len(self.prompt_template)
        if sum(rest + places * len(prompt) for prompt in self.prompt) > MOST_CHARACTERS:
            raise InvalidRequest("'prompt_template' has to be shorter, or 'prompt': together they make more than "
                                 f"{MOST_CHARACTERS} characters.", param="prompt_template")
        texts = [self.prompt_template.replace("%1", prompt) for prompt in self.prompt]
        if not self.suffix and not all(text.strip() for text in texts):
            raise InvalidRequest("'prompt' has to hold strings that aren't empty or blank.", param="prompt")
        return texts


class TextPart(OpenAIBody):
    """A part of a message."""

    type: Literal["text"] = Field(description='"text": the model reads nothing else')
    text: Text = Field(description=TEXT)


def in_parts(kind: str) -> Callable[[Any], Any]:
    """Return what makes a list of one part of this type of a text that is sent instead of a list."""
    return lambda content: [{"type": kind, "text": content}] if isinstance(content, str) else content


_PartList = Annotated[list[TextPart], Field(fail_fast=True)]
#: A text, or a list of its parts.
TextParts = Annotated[_PartList, BeforeValidator(in_parts("text"), json_schema_input_type=str | _PartList)]
_TEXT_OR_PARTS = 'a string or a non-empty list of {"type": "text", "text": a string}'


class ChatMessage(OpenAIBody):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description='"system", "developer", "user", "assistant" or "tool"')
    content: TextParts = Field(
        [], description=f"{_TEXT_OR_PARTS}; an assistant's may be left out")
    reasoning_content: Text = Field("", description=f"{TEXT}: what an assistant thought")
    name: str = Field("", description="a string, which the model isn't told")
    refusal: None = Field(None, description="left out")
    audio: None = Field(None, description="left out: the model only reads text")
    tool_calls: list[CalledTool] = Field(
        [], fail_fast=True, max_length=MOST_CALLS, description=f"a list of up to {MOST_CALLS} calls of an assistant")
    tool_call_id: str = Field("", description="a string: the id of the call that a tool answers")
    function_call: None = Field(None, description=_NO_FUNCTIONS)

    def turn(self) -> Message:
        """Return it as a turn of the conversation."""
        return Message("system" if self.role == "developer" else self.role, self.text(),
                       tuple(call.called() for call in self.tool_calls), self.tool_call_id, self.reasoning_content)

    def text(self) -> str:
        """Return the content, its parts on lines of their own."""
        return "\n".join(part.text for part in self.content)


def _without_limit(value: Any) -> Any:
    return None if type(value) is int and value == -1 else value


_From1 = Annotated[int, Field(ge=1)]
_MostTokens = Annotated[_From1 | None, BeforeValidator(
    _without_limit, json_schema_input_type=_From1 | Literal[-1] | None)]


class ChatBody(_Sampled, TemplatedBody, ToolsBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(
        fail_fast=True, min_length=1, max_length=MOST_MESSAGES,
        description=f"a non-empty list of up to {MOST_MESSAGES} messages")
    max_tokens: _MostTokens = Field(None, description=MAX_TOKENS)
    max_completion_tokens: _MostTokens = Field(None, description=MAX_TOKENS)
    logprobs: bool = Field(False, description="true or false, and true where the model's engine gives probabilities")
    top_logprobs: int = Field(
        0, ge=0, le=20, description="a whole number from 0 to 20, where the model's engine gives probabilities")
    functions: _None = Field([], description=_NO_FUNCTIONS)
    function_call: Literal["none", "auto"] = Field("none", description=_NO_FUNCTIONS)
    modalities: Annotated[list[Literal["text"]], Field(max_length=1, fail_fast=True)] = Field(
        ["text"], description='["text"] or left out')
    audio: None = Field(None, description="left out: the model only writes")

    def alternatives(self) -> int | None:
        """See SampledBody."""
        return self.top_logprobs if self.logprobs else None

    def require_features(self, engine: Backend) -> None:
        """See SampledBody.

        Raises:
            InvalidRequest: as SampledBody, or alternatives are asked for, but not the log-probabilities.
        """
        super().require_features(engine)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("'top_logprobs' has to be left out unless 'logprobs' is true.", param="top_logprobs")

    def turns(self) -> tuple[Message, ...]:
        """Return the conversation.

        Raises:
            InvalidRequest: nothing is said in it.
        """
        turns = []
        for index, message in enumerate(self.messages):
            if message.tool_calls and message.role != "assistant":
                raise InvalidRequest(f"'messages.{index}.tool_calls' has to be left out: only an assistant calls "
                                     "tools.", param=f"messages.{index}.tool_calls")
            if message.role == "tool" and not message.tool_call_id:
                raise missing(f"messages.{index}.tool_call_id", "the id of the call that the tool answers")
            if not message.content and message.role not in ("assistant", "tool"):
                raise missing(f"messages.{index}.content", _TEXT_OR_PARTS)
            turns.append(message.turn())
        if not any(turn.content.strip() or turn.tool_calls for turn in turns):
            raise InvalidRequest("'messages' has to hold a text that isn't empty or blank.", param="messages")
        return tuple(turns)

    def most_tokens(self) -> int | None:
        """See SampledBody."""
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("'max_tokens' and 'max_completion_tokens' are two names of one field: send one of "
                                 "them.", param="max_tokens")
        return self.max_completion_tokens or self.max_tokens


def refuse_token_ids(name: str, value: object) -> None:
    """Refuse token ids where text is expected, before anything else is looked at.

    Raises:
        InvalidRequest: they are token ids. LangChain sends those of another vocabulary unless it is told not to, and
            its users can only know the cure by its name.
    """
    first = value[0] if isinstance(value, list) and value else None
    inner = first[0] if isinstance(first, list) and first else first
    if isinstance(inner, int) and not isinstance(inner, bool):
        raise InvalidRequest(f"'{name}' has to be text, not token ids: they belong to another model's vocabulary. "
                             "LangChain sends text with OpenAIEmbeddings(check_embedding_ctx_length=False).",
                             param=name, code="token_ids_not_supported")
