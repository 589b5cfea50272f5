"""What is asked of a lane, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: Calls that a process for embeddings holds at the same time, to compute their texts side by side.
GATHERED = 32

Role = Literal["system", "user", "assistant"]
LongText = Literal["mean", "truncate"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are gpt4all's own (`GPT4All.generate`).

    `temperature` 0 is greedy. `max_tokens` None means: up to the end of the context window.
    """

    max_tokens: int | None = 200
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.4
    min_p: float = 0.0
    repeat_penalty: float = 1.18
    repeat_last_n: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompletionCall:
    """A completion to be made: either `messages`, put into the model's chat template, or bare `text`.

    Attributes:
        threads: compute threads at most, within the lane's share; None leaves it to the lane.
        prompt_batch: prompt tokens evaluated at once; None leaves it to the engine.
    """

    id: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    threads: int | None = None
    prompt_batch: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> CompletionCall:
        """Rebuild what `to_wire` made."""
        sampling = dict(wire["sampling"])
        sampling["stop"] = tuple(sampling["stop"])
        return cls(
            id=wire["id"],
            messages=tuple(Message(**message) for message in wire["messages"]),
            text=wire["text"],
            sampling=Sampling(**sampling),
            threads=wire["threads"],
            prompt_batch=wire["prompt_batch"],
        )

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        return {
            "messages": len(self.messages),
            "characters": sum(len(message.content) for message in self.messages) + len(self.text or ""),
            "max_tokens": self.sampling.max_tokens or 0,
        }


@dataclass(frozen=True)
class EmbedCall:
    """Texts to be embedded, in order."""

    id: str
    texts: tuple[str, ...]
    long_text: LongText = "mean"

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"id": self.id, "texts": list(self.texts), "long_text": self.long_text}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> EmbedCall:
        """Rebuild what `to_wire` made."""
        return cls(id=wire["id"], texts=tuple(wire["texts"]), long_text=wire["long_text"])

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        return {"texts": len(self.texts), "characters": sum(map(len, self.texts))}


@dataclass(frozen=True)
class TokenizeCall:
    """Texts whose tokens are asked for, or with `counted_only` their numbers, in order; `model` is the model's id."""

    id: str
    model: str
    texts: tuple[str, ...]
    counted_only: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"id": self.id, "model": self.model, "texts": list(self.texts), "counted_only": self.counted_only}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> TokenizeCall:
        """Rebuild what `to_wire` made."""
        return cls(id=wire["id"], model=wire["model"], texts=tuple(wire["texts"]), counted_only=wire["counted_only"])

    def sizes(self) -> dict[str, int]:
        """Return what a failure report may say of this call: sizes, never text."""
        return {"texts": len(self.texts), "characters": sum(map(len, self.texts))}


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
class Piece:
    """A part of a completion's text: whole characters, never the beginning of a stop string."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of a completion."""

    reason: FinishReason
    model: str
    generation: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Completion:
    """A completion in one piece."""

    text: str
    finished: Finished


@dataclass(frozen=True)
class Tokens:
    """The tokens of the texts of one call.

    Attributes:
        counts: how many each text has.
        ids: those of all texts, one after another, as int32 of this machine; b"" if they weren't asked for.
    """

    counts: tuple[int, ...]
    ids: bytes


Call = EmbedCall | CompletionCall | TokenizeCall
#: What comes of a call: one of these, or Pieces and then Finished where it was asked for in pieces.
Item = Embeddings | Completion | Tokens | Piece | Finished
