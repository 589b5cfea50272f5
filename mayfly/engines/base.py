"""What an engine is: the protocols that the workers know, whatever computes behind them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mayfly.engines.prefixes import Prefixes
from mayfly.prompts.chat import Answering
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, LongText, Sampling, ScoredToken

if TYPE_CHECKING:  # not needed by the workers that complete
    import numpy as np
    import numpy.typing as npt


#: Gives the token ids of a text (a string), or where the model makes completions of a call's prompt (a CompletionCall):
#: some milliseconds of work at a time, and some of the steps have none.
Tokenize = Callable[[Any], "Iterator[array[int]]"]


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
class Part:
    """A part of a text, as it is computed. A text has one, unless it is very long.

    Attributes:
        chunks: the token ids of each; a chunk fits the model's window, with the tokens that begin and end it.
        count: the tokens that are evaluated, those that begin and end a chunk not counted.
        left: bytes of the text that later parts are made of, roughly; 0 in the last one and only there.
    """

    chunks: Sequence[Sequence[int]]
    count: int
    left: int = 0


class EmbeddingEngine(Protocol):
    """Makes vectors, of several texts at once. One call at a time."""

    @property
    def model(self) -> str:
        """The model's public name."""

    @property
    def facts(self) -> dict[str, str]:
        """What /health shows of it: `engine`, its name, and `precision`, the numbers that it computes with."""

    @property
    def dimensions(self) -> int:
        """Numbers a vector."""

    @property
    def batch_tokens(self) -> int:
        """How many tokens, those of padding counted, are best computed at once. A chunk may have more."""

    @property
    def threads_spin(self) -> bool:
        """Its threads use their cores while they wait for one another, so each needs a core that nobody else uses."""

    def prepare(self) -> None:
        """Called once while nothing is to be done: get ready for what would delay a later text, in under a second."""

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """Yield the parts of a text of any length.

        Each is some milliseconds of work, and None is a step without a part, of which the first may need many.

        Args:
            long_text: what becomes of what the window doesn't hold.
        """

    def compute(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Embed chunks side by side.

        Returns:
            A row of norm 1 for each chunk; shape [chunks, dimensions].

        Raises:
            EngineFailed: the engine reported an error.
        """

    def set_threads(self, threads: int) -> None:
        """Use this many compute threads from the next call on."""


class OnToken(Protocol):
    """What takes the tokens of a completion."""

    def __call__(self, piece: bytes | None, /, *scores: ScoredToken) -> bool:
        """Take a token's bytes (which may end inside a character); return False to stop.

        Args:
            piece: None brings the scores of the prompt's tokens, before any other.
            scores: the token's, where `sampling.logprobs` asks for it.
        """


class CompletionEngine(Protocol):
    """Makes completions. One call at a time; several forks of one loaded engine may work side by side."""

    @property
    def model(self) -> str:
        """The model's public name."""

    @property
    def facts(self) -> dict[str, str]:
        """What /health shows of it: `engine`, its name."""

    @property
    def context_length(self) -> int:
        """Tokens that prompt and completion share."""

    def self_test(self) -> None:
        """Evaluate and sample: what is wrong with the model shows now and not on a caller. Called once, in the process
        that serves, or in a fork of the one that forks; that one never computes.

        Raises:
            ModelUnavailable: the model is damaged.
        """

    def reseed(self) -> None:
        """Give the sampler fresh random numbers and a state in which nothing is evaluated; forks would otherwise all
        draw the same."""

    def equip(self) -> None:
        """Make what calls with a `form` need, once, after the first of them: in the process that forks, so that its
        later forks have it."""

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """Put a call's messages into the model's template (or take its bare text)."""

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """Return how a call is answered whose prompt these are.

        Raises:
            InvalidRequest: the model has no place for something that is asked.
        """

    def generate(
        self,
        segments: Sequence[Segment],
        sampling: Sampling,
        on_progress: Callable[[], bool],
        on_token: OnToken,
        prompt_batch: int | None = None,
        prefixes: Prefixes | None = None,
        steady: int | None = None,
    ) -> Generated:
        """Evaluate a prompt and sample tokens.

        Args:
            segments: the prompt.
            sampling: `max_tokens` None goes on to the end of the window; `stop` is the caller's business.
            prompt_batch: prompt tokens evaluated at once, from 1; None is the engine's own choice.
            prefixes: what an engine may use instead of evaluating the prompt's beginning, which changes no answer.
            steady: threads for what comes out otherwise with another number of them, so that the same call always gives
                the same bytes; None leaves it to `set_threads`.
            on_progress: called while the prompt is tokenised and evaluated, at least once a batch; False stops.
            on_token: called with each token.

        Raises:
            ContextLengthExceeded: the prompt doesn't fit.
            InvalidRequest: `sampling.form` can't be compiled, or no answer has it.
            EngineFailed: the engine reported an error.
        """

    def evaluate_ahead(self, beginning: Sequence[Segment], on_progress: Callable[[], bool], prefixes: Prefixes) -> None:
        """After a call that an engine used `prefixes` for: evaluate what the next one's prompt will begin with, and
        offer its state.

        Args:
            on_progress: as in `generate`; False stops, and nothing is offered.

        Raises:
            EngineFailed: the engine reported an error.
        """

    def set_threads(self, threads: int) -> None:
        """Use this many compute threads from the next token or batch on."""
