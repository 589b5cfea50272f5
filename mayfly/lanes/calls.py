"""What is asked of a lane and what it answers: the contract between the web room and the lanes.

The web room knows lanes only by the `Lane` protocol. `mayfly.lanes.client.SocketLane` answers through worker
processes, `mayfly.lanes.local.LocalLane` in this process (`python app.py` alone).
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

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


class LaneCall(Protocol):
    """A call under way, which waits for nothing by itself. Used by one thread at a time.

    Whoever drives it calls `advance` when what is `watched` is ready, and at the latest when it is `due`. However the
    call ends, it has to be closed: that cancels what isn't answered, and gives its place in the lane back.
    """

    @property
    def watched(self) -> socket.socket | None:
        """What the call waits for, if it isn't for a time alone: to be read from, or, while `sending`, written to."""

    @property
    def sending(self) -> bool:
        """Whether the request hasn't been sent whole."""

    @property
    def due(self) -> float:
        """When `advance` is to be called though nothing has come, on the clock of `time.monotonic`."""

    def advance(self, now: float) -> list[Item]:
        """Go on as far as that needs no waiting; return what has come.

        Raises:
            CallError: the call has failed (LaneUnavailable, DeadlinePassed, ModelCrashed, EngineFailed, InvalidRequest,
                ContextLengthExceeded).
        """

    def close(self) -> None:
        """End the call, once; after that nothing."""


class Lane(Protocol):
    """One model, as the web room sees it. All methods may be called from several threads at once."""

    def begin(self, call: Call, deadline: float, *, in_pieces: bool = False) -> LaneCall:
        """Begin a call, without waiting for anything. A process that dies of it is replaced, and the call goes to the
        next one, once.

        Args:
            deadline: on the clock of `time.monotonic`, in seconds; then it raises DeadlinePassed.
            in_pieces: a completion is given piece by piece; then nothing is tried again after the first one.

        Raises:
            LaneUnavailable: the lane has no model to serve.
            QueueFull: too many calls wait already.
        """

    def status(self) -> dict[str, Any]:
        """Return the lane's part of `/health`: at least `state` ("ready", "loading", "failing", "off", ...)."""

    def ready(self) -> bool:
        """Tell whether a call would be served now. A lane without a model is not ready."""

    def configured(self) -> bool:
        """Tell whether the lane has a model to serve."""
