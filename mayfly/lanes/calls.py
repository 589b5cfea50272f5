"""What is asked of a lane and what it answers: the contract between the web room and the lanes.

The web room knows lanes only by the `Lane` protocol. `mayfly.lanes.client.SocketLane` answers through worker
processes, `mayfly.lanes.local.LocalLane` in this process (`python app.py` alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

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
class Tokens:
    """The tokens of the texts of one call.

    Attributes:
        counts: how many each text has.
        ids: those of all texts, one after another, as int32 of this machine; b"" if they weren't asked for.
    """

    counts: tuple[int, ...]
    ids: bytes


class Place(Protocol):
    """A call's place in its lane: it waits, or is served, until it leaves."""

    def wait(self) -> None:
        """Note that the call waits."""

    def serve(self) -> None:
        """Note that a process serves it."""

    def leave(self) -> None:
        """Give the place back, once; after that nothing."""


@dataclass
class Begun:
    """A call that somebody has begun and somebody else goes on with: it keeps its place.

    Attributes:
        deadline: on the clock of `time.monotonic`, in seconds.
        crashes: processes that have died of it, or beside it.
    """

    place: Place
    deadline: float
    crashes: int = 0


@dataclass(frozen=True)
class Watch:
    """The caller's side of a call: how long it may take, and whether anybody still waits.

    Attributes:
        deadline: on the clock of `time.monotonic`, in seconds.
        client_gone: True once the client has hung up; asked a few times a second.
        stopping: True once the service stops and waits no longer; the call ends with LaneUnavailable.
        begun: what became of the call until now, if somebody else has begun it.
    """

    deadline: float
    client_gone: Callable[[], bool] = lambda: False
    stopping: Callable[[], bool] = lambda: False
    begun: Begun | None = None


class ClientGone(Exception):
    """The client hung up: the call was cancelled and nobody waits for an answer."""


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
class Waiting:
    """Nothing new for a while: a streaming answer sends a comment line, so that proxies stay calm."""


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


class Lane(Protocol):
    """One model, as the web room sees it. All methods may be called from several threads at once.

    Each call raises a CallError (QueueFull, LaneUnavailable, DeadlinePassed, ModelCrashed, EngineFailed,
    InvalidRequest, ContextLengthExceeded) or ClientGone.
    """

    @property
    def model(self) -> str | None:
        """The name of the model that serves, or None when none is configured."""

    def embed(self, call: EmbedCall, watch: Watch) -> Embeddings:
        """Embed all texts of a call."""

    def complete(self, call: CompletionCall, watch: Watch) -> Completion:
        """Make a whole completion; a crash at any moment is retried once."""

    def stream(self, call: CompletionCall, watch: Watch) -> Iterator[Piece | Waiting | Finished]:
        """Make a completion piece by piece, Finished last; a crash is retried once until the first Piece.

        Errors that arise before the first item are raised by the first `next`, so that the web room can still
        choose the HTTP status. Closing the iterator cancels the completion.
        """

    def tokenize(self, call: TokenizeCall, watch: Watch) -> Tokens:
        """Return the tokens that the model would be given for each text; nothing is computed with them."""

    def status(self) -> dict[str, Any]:
        """Return the lane's part of `/health`: at least `state` ("ready", "loading", "failing", "off", ...)."""

    def ready(self) -> bool:
        """Tell whether a call would be served now. A lane without a model is not ready."""

    def configured(self) -> bool:
        """Tell whether the lane has a model to serve."""


class Pending(Protocol):
    """A call under way that nobody waits for in a thread; used by one thread."""

    begun: Begun

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to take."""

    def take(self) -> Embeddings | None:
        """Take what has come; None as long as it isn't the answer.

        Raises:
            CallError: the answer is an error.
            Interrupted: the process died.
        """

    def failing(self) -> bool:
        """Tell whether the call waits for a process that fails to start."""

    def close(self) -> None:
        """Stop listening; what isn't answered is cancelled. The place is kept."""


class Interrupted(Exception):
    """The process that served a call died; `Pending.begun` has it counted, and the call may be made again."""


@runtime_checkable
class PollableLane(Protocol):
    """A lane whose calls can be begun by one thread and waited for together."""

    def begin(self, call: EmbedCall, deadline: float) -> Pending | None:
        """Begin a call without waiting for anything; None if that can't be done now, or not with this call.

        Args:
            deadline: see Watch. Whoever waits has to keep it too.
        """
