"""What an engine is: the protocols that the workers know, whatever computes behind them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from mayfly.errors import EngineFailed
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, LongText, Sampling

if TYPE_CHECKING:  # not needed by the workers that complete
    import numpy as np
    import numpy.typing as npt


#: Gives the token ids of a text, some milliseconds of work at a time; some of the steps have none.
Tokenize = Callable[[str], "Iterator[array[int]]"]


@dataclass(frozen=True)
class Generated:
    """How a generation ended.

    Attributes:
        reason: "end" (the model ended its turn), "limit" (max_tokens or the context window), or "refused" (a
            callback returned False).
        prompt_tokens, completion_tokens: tokens of the prompt and tokens sampled.
    """

    reason: Literal["end", "limit", "refused"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Tokenized:
    """A part of a text as an engine that computes in batches takes it.

    Attributes:
        chunks: the token ids of each; a chunk fits the model's window, with the tokens that begin and end it.
        count: the tokens that are evaluated, those that begin and end a chunk not counted.
    """

    chunks: tuple[Sequence[int], ...]
    count: int


class EmbeddingEngine(Protocol):
    """Makes vectors. One call at a time."""

    @property
    def model(self) -> str:
        """The model's public name."""

    @property
    def facts(self) -> dict[str, str]:
        """What /health shows of it: `engine`, its name, and `precision`, the numbers that it computes with."""

    @property
    def dimensions(self) -> int:
        """Numbers a vector."""

    def parts(self, text: str, long_text: LongText) -> Iterator[str | None]:
        """Yield the parts of a text of any length: one, unless it is very long.

        Each is some milliseconds of work, and None is a step without a part, of which the first may need many.

        Args:
            long_text: what becomes of what the window doesn't hold.
        """

    def set_threads(self, threads: int) -> None:
        """Use this many compute threads from the next text on."""


@runtime_checkable
class PartEmbeddingEngine(EmbeddingEngine, Protocol):
    """Makes vectors part by part."""

    def embed(self, part: str, long_text: LongText) -> tuple[bytes, int]:
        """Embed one part of a text.

        Returns:
            The vector as little-endian float32 (`dimensions` numbers, norm 1) and the number of tokens evaluated.

        Raises:
            EngineFailed: the engine reported an error.
        """


@runtime_checkable
class ParallelEmbeddingEngine(PartEmbeddingEngine, Protocol):
    """Makes vectors part by part, and several of them side by side. One call at a time."""

    @property
    def at_once(self) -> int:
        """How many parts are best computed at the same time with the threads that there are."""

    def set_spinning(self, threads: int) -> None:
        """Use at most this many of the threads within parts, from the next one on: they spin while they wait for one
        another. Parts side by side with a thread each don't mind programs that compute beside them."""

    def embed_each(self, parts: Sequence[tuple[str, LongText]],
                   on_done: Callable[[int, tuple[bytes, int] | EngineFailed], tuple[str, LongText] | None]) -> None:
        """Embed parts side by side, `at_once` of them at the same time; see `embed`.

        Args:
            parts: at most one more, which begins without waiting for anybody when another is done.
            on_done: called when a part is done, with its number and what `embed` would return or raise. What it returns
                is the next part, computed in the place of that one; they are numbered as they come. It is called by the
                calling thread, and what it raises ends the work.
        """


@runtime_checkable
class BatchEmbeddingEngine(EmbeddingEngine, Protocol):
    """Makes vectors of several texts at once, and is faster so. One call at a time.

    Its threads sleep while they wait for one another; those of other engines may spin.
    """

    @property
    def batch_tokens(self) -> int:
        """How many tokens, those of padding counted, are best computed at once. A chunk may have more."""

    def prepare(self) -> None:
        """Called once while nothing is to be done: get ready for what would delay a later text, in under a second."""

    def tokenize(self, part: str, long_text: LongText) -> Tokenized:
        """Return the tokens of a part of a text, and where it is cut."""

    def embed_batch(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Embed chunks side by side, the shorter ones padded to the longest.

        Returns:
            A row of norm 1 for each chunk; shape [chunks, dimensions].

        Raises:
            EngineFailed: the engine reported an error.
        """


class CompletionEngine(Protocol):
    """Makes completions. One call at a time; several forks of one loaded engine may work side by side."""

    @property
    def model(self) -> str:
        """The model's public name."""

    @property
    def context_length(self) -> int:
        """Tokens that prompt and completion share."""

    def reseed(self) -> None:
        """Give the sampler fresh random numbers and a state in which nothing is evaluated; forks would otherwise all
        draw the same."""

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """Put a call's messages into the model's template (or take its bare text)."""

    def turn_marks(self, call: CompletionCall) -> Sequence[str]:
        """Return the texts that end an answer because the next turn begins with them: for models that mark their turns
        with text ("### Human:") and not with tokens."""

    def generate(
        self,
        segments: Sequence[Segment],
        sampling: Sampling,
        on_progress: Callable[[], bool],
        on_token: Callable[[bytes], bool],
        prompt_batch: int | None = None,
    ) -> Generated:
        """Evaluate a prompt and sample tokens.

        Args:
            segments: the prompt.
            sampling: `max_tokens` None goes on to the end of the window; `stop` is the caller's business.
            prompt_batch: prompt tokens evaluated at once, from 1; None is the engine's own choice.
            on_progress: called while the prompt is tokenised and evaluated, at least once a batch; False stops.
            on_token: called with each token's bytes (which may end inside a character); False stops.

        Raises:
            ContextLengthExceeded: the prompt doesn't fit.
            EngineFailed: the engine reported an error.
        """

    def set_threads(self, threads: int) -> None:
        """Use this many compute threads from the next token or batch on."""
