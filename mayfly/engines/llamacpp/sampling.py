"""How tokens are chosen: llama.cpp's samplers, in a chain that is made for one call."""

from __future__ import annotations

import ctypes
import secrets
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mayfly.engines.llamacpp.library import ChainParams, LogitBias, TokenData, TokenDataArray, logits_of
from mayfly.engines.llamacpp.vocabulary import Vocabulary
from mayfly.errors import InvalidRequest
from mayfly.wire.calls import Sampling

if TYPE_CHECKING:  # not needed by calls without a form
    from mayfly.engines.llamacpp.forms import Held

# Of each filter at least so many tokens stay.
_KEPT = 1
_SEEDS = (1 << 32) - 1
# What ends a repetition for DRY: llama.cpp's own choice.
_BREAKERS = (b"\n", b":", b'"', b"*")


def require_tokens(ids: Iterable[str], size: int, model: str) -> None:
    """Check that the tokens of a `logit_bias` are a model's, whose vocabulary has so many.

    Raises:
        InvalidRequest: one isn't.
    """
    strange = next((token for token in ids if int(token) >= size), None)
    if strange is not None:
        raise InvalidRequest(f"'logit_bias' names the token {strange}, but those of '{model}' are 0 to {size - 1}: "
                             "leave it out, or take ids that /v1/tokenize gives.", param="logit_bias")


class Chain:
    """The samplers of one call.

    Args:
        sampling: how; the tokens of its `logit_bias` are the vocabulary's, see `require_tokens`.
        prompt: its ids; what is repeated may be of the prompt.
        window: tokens that prompt and answer share.
    """

    def __init__(self, llama: ctypes.CDLL, vocabulary: Vocabulary, sampling: Sampling, prompt: array[int], window: int
                 ) -> None:
        self._llama = llama
        self._vocabulary = vocabulary
        self._chain = llama.llama_sampler_chain_init(ChainParams(True))
        for sampler in (*self._weighing(sampling, prompt, window), *self._choosing(sampling)):
            llama.llama_sampler_chain_add(self._chain, sampler)

    def next(self, context: int, held: Held | None = None) -> int:
        """Return the token that comes after what the context has evaluated last.

        Args:
            held: allows only some. The samplers see no others.

        Raises:
            InvalidRequest: it allows none.
        """
        if held is None:
            return int(self._llama.llama_sampler_sample(self._chain, context, -1))
        tokens = held.among(logits_of(self._llama, context, len(self._vocabulary)))
        found = TokenDataArray(ctypes.cast(tokens.ctypes.data, ctypes.POINTER(TokenData)), tokens.size, -1, False)
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(found))
        token = int(found.data[found.selected].id)
        self._llama.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free it."""
        self._llama.llama_sampler_free(self._chain)

    def _weighing(self, sampling: Sampling, prompt: array[int], window: int) -> Iterator[int]:
        """Yield what makes tokens likelier or less likely."""
        llama, size = self._llama, len(self._vocabulary)
        biases = [LogitBias(int(token), bias) for token, bias in sampling.logit_bias.items()]
        if biases:
            yield llama.llama_sampler_init_logit_bias(size, len(biases), (LogitBias * len(biases))(*biases))
        if sampling.repeat_penalty != 1 and sampling.repeat_last_n:
            repeated = llama.llama_sampler_init_penalties(size, sampling.repeat_last_n, sampling.repeat_penalty, 0, 0)
            yield self._told(repeated, prompt[-sampling.repeat_last_n:])
        if sampling.frequency_penalty or sampling.presence_penalty:
            # Those count what was sampled, as OpenAI's do, and not the prompt.
            yield llama.llama_sampler_init_penalties(size, window, 1, sampling.frequency_penalty,
                                                     sampling.presence_penalty)
        if sampling.dry_multiplier:
            dry = llama.llama_sampler_init_dry(
                self._vocabulary.pointer, sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length,
                window, (ctypes.c_char_p * len(_BREAKERS))(*_BREAKERS), len(_BREAKERS))
            yield self._told(dry, prompt)

    def _choosing(self, sampling: Sampling) -> Iterator[int]:
        """Yield what makes the choice, in llama.cpp's own order."""
        llama = self._llama
        if sampling.temperature <= 0:
            yield llama.llama_sampler_init_greedy()
            return
        # Any whole number is a seed; the largest that llama.cpp takes means to it that it is to draw one.
        seed = (secrets.randbits(32) if sampling.seed is None else sampling.seed) % _SEEDS
        if sampling.top_k:
            yield llama.llama_sampler_init_top_k(sampling.top_k)
        if sampling.typical_p < 1:
            yield llama.llama_sampler_init_typical(sampling.typical_p, _KEPT)
        if sampling.top_p < 1:
            yield llama.llama_sampler_init_top_p(sampling.top_p, _KEPT)
        if sampling.min_p:
            yield llama.llama_sampler_init_min_p(sampling.min_p, _KEPT)
        if sampling.xtc_probability:
            yield llama.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, _KEPT, seed)
        yield llama.llama_sampler_init_temp(sampling.temperature)
        yield llama.llama_sampler_init_dist(seed)

    def _told(self, sampler: int, tokens: array[int]) -> int:
        for token in tokens:
            self._llama.llama_sampler_accept(sampler, token)
        return sampler
