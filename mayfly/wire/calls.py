"""What is asked of a lane, and what it answers: the messages of a lane's socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mayfly.errors import CallError, stack_of

#: Calls that a process for embeddings holds at the same time, to compute their texts side by side.
MOST_CALLS_HELD = 32

Role = Literal["system", "user", "assistant", "tool"]
LongText = Literal["mean", "truncate"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class ToolCall:
    """A tool's call by the model; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        tool_calls: what the assistant called in it.
        tool_call_id: of a turn of a tool: the call that it answers.
        reasoning: what the assistant thought before it.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""

    def characters(self) -> int:
        """Return how long it is, with all that belongs to it."""
        return len(self.content) + len(self.reasoning) + sum(len(call.arguments) for call in self.tool_calls)


@dataclass(frozen=True)
class Tool:
    """What the model may call.

    Attributes:
        parameters: the JSON schema of its arguments, as text.
        strict: the caller asks for arguments that are held to it; they always are.
    """

    name: str
    description: str
    parameters: str
    strict: bool = False


#: The schema of any JSON object.
ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True)
class Form:
    """What an answer is held to.

    Attributes:
        kind: of `text`: a JSON schema, a grammar in Lark's or in llama.cpp's form, or a regular expression that the
            whole answer matches.
        param: the field of the request that it came in.
        tools: the names of those whose arguments the rules `arguments_0` and so on of a grammar describe.
    """

    kind: Literal["json_schema", "lark", "gbnf", "regex"]
    text: str
    param: str = "response_format"
    tools: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are gpt4all's own (`GPT4All.generate`).

    `temperature` 0 is greedy. `max_tokens` None means: up to the end of the context window. What follows `stop` is for
    the engines that have it: `seed` makes what is random the same again, `logit_bias` is by token ids, the penalties
    count tokens of the answer, and `dry_...` and `xtc_...` are those samplers of llama.cpp. With `logprobs` each token
    is told with its log-probability and so many of the likeliest in its place, and with `prompt_logprobs` the prompt's
    tokens are too. `n_ctx` is a smaller window than the model's. `form` allows only tokens that it can go on with.
    What isn't `repeatable` may differ in its bytes when it is asked again, for nobody has named its seed.
    """

    max_tokens: int | None = 200
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.4
    min_p: float = 0.0
    repeat_penalty: float = 1.18
    repeat_last_n: int = 64
    stop: tuple[str, ...] = ()
    seed: int | None = None
    repeatable: bool = True
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logprobs: int | None = None
    prompt_logprobs: bool = False
    n_ctx: int | None = None
    form: Form | None = None


@dataclass(frozen=True)
class CompletionCall:
    """A completion to be made: either `messages`, put into the model's chat template, or bare `text`.

    Attributes:
        suffix: what follows the gap after `text` that the completion fills; "" if none follows.
        threads: compute threads at most, within the lane's share; None leaves it to the lane.
        prompt_batch: prompt tokens evaluated at once; None leaves it to the engine.
        features: what of it not every engine can (`Backend.features`).
        namespace: what of earlier prompts it may use: that of the caller's own.
        drop_oldest: messages that the window has no room for are left out, the oldest first, but for those of the
            system and the last one.
        tool_choice: "auto" (the model chooses), "none", "required" (it has to call one), or "function:" and a name.
        parallel_tool_calls: it may call several.
        template_kwargs: variables for the chat template, by their names.
    """

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    suffix: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    threads: int | None = None
    prompt_batch: int | None = None
    features: tuple[str, ...] = ()
    namespace: str = ""
    drop_oldest: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        return {
            "messages": len(self.messages),
            "characters": sum(message.characters() for message in self.messages)
            + len(self.text or "") + len(self.suffix),
            "max_tokens": self.sampling.max_tokens or 0,
        }


@dataclass(frozen=True)
class EmbedCall:
    """Texts to be embedded, in order."""

    id: str
    texts: tuple[str, ...]
    long_text: LongText = "mean"

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        return {"texts": len(self.texts), "characters": sum(map(len, self.texts))}


@dataclass(frozen=True)
class TokenizeCall:
    """Texts whose tokens are asked for, or with `counted_only` their numbers, in order; `model` is the model's id.

    Attributes:
        prompts: calls whose prompts are texts too, after the others.
    """

    id: str
    model: str
    texts: tuple[str, ...]
    counted_only: bool = False
    prompts: tuple[CompletionCall, ...] = ()

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        characters = sum(map(len, self.texts)) + sum(call.sizes()["characters"] for call in self.prompts)
        return {"texts": len(self.texts) + len(self.prompts), "characters": characters}


Call = EmbedCall | CompletionCall | TokenizeCall


def request_of(calls: Sequence[Call]) -> dict[str, Any]:
    """Return what a sentinel says of the calls that a process serves: ids and sizes, never text."""
    sizes = [call.sizes() for call in calls]
    ids = {} if len(calls) == 1 else {"ids": [call.id for call in calls]}
    return {"id": calls[0].id, **ids, **{name: sum(size[name] for size in sizes) for name in sizes[0]}}


@dataclass(frozen=True)
class Request:
    """A call as it is sent.

    Attributes:
        deadline: when nobody waits for it any more, on the clock of `time.monotonic`.
        keep: the caller keeps the connection for another call.
    """

    call: Call
    deadline: float
    keep: bool = False


@dataclass(frozen=True)
class Began:
    """A process has taken the call: the generation of this number."""

    generation: int


@dataclass(frozen=True)
class Embeddings:
    """Vectors for the texts of one call, in their order.

    Attributes:
        vectors: little-endian float32, one row of `dimensions` numbers a text.
        prompt_tokens: tokens that the engine evaluated, over all texts.
        model: the name of the model that made them.
        generation: number of the worker process that made them.
    """

    vectors: bytes
    dimensions: int
    prompt_tokens: int
    model: str
    generation: int


@dataclass(frozen=True)
class Likelihood:
    """How likely the model finds a token, whatever samplers make of that.

    Attributes:
        piece: the bytes that it adds to the text.
        name: of a token that adds none, such as "<|im_end|>".
        logprob: the natural logarithm of its probability; None if nothing comes before it.
    """

    piece: tuple[int, ...]
    name: str
    logprob: float | None


@dataclass(frozen=True)
class ScoredToken(Likelihood):
    """A token of an answer, or of a prompt; `alternatives` are the likeliest in its place, the best first."""

    alternatives: tuple[Likelihood, ...] = ()


@dataclass(frozen=True)
class ToolDelta:
    """A part of a tool's call: `id` and `name` in its first one alone, `arguments` to be joined to one JSON text.

    Attributes:
        index: which of the answer's calls it is of, from 0.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Piece:
    """A part of a completion's text: whole characters, never the beginning of a stop string.

    Attributes:
        tokens: those that begin in this part, where log-probabilities are asked for; those of the prompt come first,
            without text.
        reasoning: a part of what the model thinks before it answers, which isn't in `text`.
        tool_calls: parts of its calls of tools, which aren't either.
    """

    text: str
    tokens: tuple[ScoredToken, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolDelta, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of a completion.

    Attributes:
        mean_logprob: that of its tokens, where log-probabilities are asked for.
        dropped_messages: how many were left out, where `drop_oldest` allows it.
        prompt_seconds, completion_seconds: what the prompt and the answer took, from the moment the process had the
            call.
        stop_sequence: the one of `stop` that has ended it; "" if none has.
    """

    reason: FinishReason
    model: str
    generation: int
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float | None = None
    dropped_messages: int = 0
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0
    stop_sequence: str = ""


@dataclass(frozen=True)
class Completion:
    """A completion in one piece; see Piece."""

    text: str
    finished: Finished
    tokens: tuple[ScoredToken, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @classmethod
    def of(cls, pieces: Sequence[Piece], finished: Finished) -> Completion:
        """Return the completion that came in these pieces."""
        calls: dict[int, ToolCall] = {}
        for delta in (delta for piece in pieces for delta in piece.tool_calls):
            begun = calls.get(delta.index, ToolCall("", "", ""))
            calls[delta.index] = ToolCall(begun.id or delta.id, begun.name or delta.name,
                                          begun.arguments + delta.arguments)
        return cls("".join(piece.text for piece in pieces), finished,
                   tuple(token for piece in pieces for token in piece.tokens),
                   "".join(piece.reasoning for piece in pieces), tuple(calls[index] for index in sorted(calls)))


@dataclass(frozen=True)
class Tokens:
    """The tokens of the texts of one call.

    Attributes:
        counts: how many each text has.
        ids: those of all texts, one after another, as int32 of this machine; b"" if they weren't asked for.
    """

    counts: tuple[int, ...]
    ids: bytes


@dataclass(frozen=True)
class Failed:
    """The end of a call that can't be answered.

    Attributes:
        kinds: the names of the error's class and of those above it.
        told: the error's attributes.
    """

    kinds: tuple[str, ...]
    message: str
    told: dict[str, Any]

    @classmethod
    def of(cls, error: CallError) -> Failed:
        """Return what tells of an error."""
        # A log has to tell where a failure comes from; of what the caller did wrong the message says enough.
        stack = stack_of(error) if error.status == 500 else []
        kinds = tuple(kind.__name__ for kind in type(error).__mro__ if issubclass(kind, CallError))
        return cls(kinds, error.message, {**vars(error), "status": error.status, "code": error.code, "stack": stack})

    def error(self) -> CallError:
        """Return the error; if its class isn't known here, as the next one above it."""
        known = {kind.__name__: kind for kind in _tree(CallError)}
        kind = next((known[name] for name in self.kinds if name in known), CallError)
        error = kind.__new__(kind, self.message)
        vars(error).update(self.told)
        return error


def _tree(kind: type[CallError]) -> Iterator[type[CallError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


#: What comes of a call: one of these, or Pieces and then Finished where it was asked for in pieces.
Item = Embeddings | Completion | Tokens | Piece | Finished
#: What a worker says over a lane's socket.
Answer = Began | Piece | Finished | Embeddings | Tokens | Failed
