"""What an engine is: the protocols that the workers know, whatever computes behind them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from mayfly.errors import EngineFailed
from mayfly.lanes.calls import CompletionCall, LongText, Sampling

if TYPE_CHECKING:  # not needed by the workers that complete
    import numpy as np
    import numpy.typing as npt


#: Gives the token ids of a text, some milliseconds of work at a time; some of the steps have none.
Tokenize = Callable[[str], "Iterator[array[int]]"]


@dataclass(frozen=True)
class Segment:
    """A part of a prompt.

    Attributes:
        text: what is evaluated.
        special: True for text of the server's template, in which `</s>` means the token; False for text of the
            client, in which it is five characters.
    """

    text: str
    special: bool


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
    """A text as an engine that computes in batches takes it.

    Attributes:
        parts: the text's parts (one, unless it is very long), each the token ids of its chunks; a chunk fits the
            model's window, with the tokens that begin and end it.
        counts: of each part, the tokens that are evaluated for it, those that begin and end a chunk not counted.
    """

    parts: tuple[tuple[Sequence[int], ...], ...]
    counts: tuple[int, ...]


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

    def embed(self, text: str, long_text: LongText, on_progress: Callable[[], object]) -> tuple[bytes, int]:
        """Embed one text.

        Args:
            text: of any length.
            long_text: what becomes of what the window doesn't hold.
            on_progress: called between the parts of a very long text; what it raises ends the work.

        Returns:
            The vector as little-endian float32 (`dimensions` numbers, norm 1) and the number of tokens evaluated.

        Raises:
            EngineFailed: the engine reported an error.
        """

    def set_threads(self, threads: int) -> None:
        """Use this many compute threads from the next text on."""


@runtime_checkable
class ParallelEmbeddingEngine(EmbeddingEngine, Protocol):
    """Makes vectors text by text, and several of them side by side. One call at a time."""

    @property
    def at_once(self) -> int:
        """How many texts are best computed at the same time with the threads that there are."""

    def set_spinning(self, threads: int) -> None:
        """Use at most this many of the threads within texts, from the next one on: they spin while they wait for one
        another. Texts side by side with a thread each don't mind programs that compute beside them."""

    def embed_each(self, texts: Sequence[tuple[str, LongText]], on_progress: Callable[[], object],
                   on_done: Callable[[int, tuple[bytes, int] | EngineFailed], tuple[str, LongText] | None]) -> None:
        """Embed texts side by side, `at_once` of them at the same time; see `embed`.

        Args:
            texts: at most one more, which begins without waiting for anybody when another is done.
            on_progress: called while there is progress within a text.
            on_done: called when a text is done, with its number and what `embed` would return or raise. What it returns
                is the next text, computed in the place of that one; they are numbered as they come.

        Both are called by the calling thread, and what they raise ends the work.
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

    def tokenize(self, text: str, long_text: LongText) -> Tokenized:
        """Return the tokens of one text of any length, and where it is cut."""

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
