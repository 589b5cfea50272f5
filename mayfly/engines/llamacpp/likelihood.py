"""How likely a model finds tokens: the log-softmax of its logits, before any sampler or form has changed them.

That is what OpenAI, vLLM ("raw_logprobs") and llama-server tell too. A vocabulary has up to 262,144 tokens, so it is
llama.cpp that adds and sorts.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Sequence

from mayfly.engines.llamacpp.library import ChainParams, TokenData, TokenDataArray, logits_of
from mayfly.engines.llamacpp.vocabulary import Vocabulary
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import Likelihood, ScoredToken

# OpenAI's word for what can't be, which JSON has no number for.
_IMPOSSIBLE = -9999.0
# Fields of a TokenData, of four bytes each.
_FIELDS = ctypes.sizeof(TokenData) // 4


class Scorer:
    """Tells how likely tokens are after what a context has evaluated.

    Args:
        alternatives: how many of the likeliest are told with each.
    """

    def __init__(self, llama: ctypes.CDLL, vocabulary: Vocabulary, context: int, alternatives: int) -> None:
        self._llama = llama
        self._vocabulary = vocabulary
        self._context = context
        self._alternatives = alternatives
        self._size = len(vocabulary)
        self._data = (TokenData * self._size)()
        whole = memoryview(self._data).cast("B")
        self._ids, self._logits = whole.cast("i")[::_FIELDS], whole.cast("f")[1::_FIELDS]
        self._all = memoryview(array("i", range(self._size)))
        # The sampler that draws computes the probabilities of all; what it draws is of no use here.
        self._chain = llama.llama_sampler_chain_init(ChainParams(True))
        for sampler in (llama.llama_sampler_init_dist(0), llama.llama_sampler_init_top_k(max(1, alternatives))):
            llama.llama_sampler_chain_add(self._chain, sampler)

    def score(self, token: int, place: int = -1) -> ScoredToken:
        """Return how likely a token is as the next one.

        Args:
            place: after which of the tokens that were evaluated last; -1 is the last.
        """
        logits = logits_of(self._llama, self._context, self._size, place)
        # Sorting has left both in another order.
        self._ids[:], self._logits[:] = self._all, logits
        found = TokenDataArray(self._data, self._size, -1, False)
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(found))
        total = found.data[0].logit - math.log(found.data[0].p)
        likeliest = (found.data[index] for index in range(min(self._alternatives, found.size)))
        return ScoredToken(*self._shown(token), _known(logits[token] - total),
                           tuple(Likelihood(*self._shown(each.id), _known(each.logit - total)) for each in likeliest))

    def of_prompt(self, prompt: array[int]) -> PromptScorer:
        """Return what tells how likely each token of a prompt is."""
        return PromptScorer(self, self._vocabulary, prompt)

    def first(self, token: int) -> ScoredToken:
        """Return a token that nothing comes before."""
        return ScoredToken(*self._shown(token), None)

    def close(self) -> None:
        """Free it."""
        self._llama.llama_sampler_free(self._chain)

    def _shown(self, token: int) -> tuple[tuple[int, ...], str]:
        piece = self._vocabulary.shown(token)
        return tuple(piece), "" if piece else self._vocabulary.name(token)


class PromptScorer:
    """Tells how likely each token of a prompt is after those before it. It is called after each batch."""

    def __init__(self, scorer: Scorer, vocabulary: Vocabulary, prompt: array[int]) -> None:
        self._scorer = scorer
        self._prompt = prompt
        self._scores = [] if vocabulary.begins else [scorer.first(prompt[0])]

    def __call__(self, start: int, count: int) -> None:
        """Take note of what comes after the tokens from `start` on, which have just been evaluated."""
        following = self._prompt[start + 1:start + count + 1]
        self._scores += [self._scorer.score(token, place) for place, token in enumerate(following)]

    def scores(self, segments: Sequence[Segment]) -> list[ScoredToken]:
        """Return the tokens of the prompt's text, without one that stands before each prompt."""
        size = sum(len(segment.text.encode()) for segment in segments)
        if self._scores and sum(len(score.piece) for score in self._scores) > size:
            # SentencePiece puts a blank before a text.
            first = self._scores[0]
            self._scores[0] = ScoredToken(first.piece[1:], first.name, first.logprob, first.alternatives)
        return self._scores


def _known(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)
