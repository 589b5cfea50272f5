"""How tokens are chosen: llama.cpp's samplers, in a chain that is made for one call."""

from __future__ import annotations

import ctypes
import secrets
from array import array

from mayfly.engines.llamacpp.library import ChainParams
from mayfly.wire.calls import Sampling

# Of each filter at least so many tokens stay.
_KEPT = 1
_SEEDS = (1 << 32) - 1


class Chain:
    """The samplers of one call.

    Args:
        tokens: in the vocabulary.
        prompt: its ids; what is repeated may be of the prompt.
    """

    def __init__(self, llama: ctypes.CDLL, tokens: int, sampling: Sampling, prompt: array[int]) -> None:
        self._llama = llama
        # Any whole number is a seed; the largest that llama.cpp takes means to it that it is to draw one.
        self.seed = (secrets.randbits(32) if sampling.seed is None else sampling.seed) % _SEEDS
        self._chain = llama.llama_sampler_chain_init(ChainParams(True))
        if sampling.repeat_penalty != 1 and sampling.repeat_last_n:
            repeated = llama.llama_sampler_init_penalties(tokens, sampling.repeat_last_n, sampling.repeat_penalty, 0, 0)
            for token in prompt[-sampling.repeat_last_n:]:
                llama.llama_sampler_accept(repeated, token)
            self._add(repeated)
        if sampling.temperature <= 0:
            self._add(llama.llama_sampler_init_greedy())
            return
        if sampling.top_k:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(llama.llama_sampler_init_top_p(sampling.top_p, _KEPT))
        if sampling.min_p:
            self._add(llama.llama_sampler_init_min_p(sampling.min_p, _KEPT))
        self._add(llama.llama_sampler_init_temp(sampling.temperature))
        self._add(llama.llama_sampler_init_dist(self.seed))

    def _add(self, sampler: int) -> None:
        self._llama.llama_sampler_chain_add(self._chain, sampler)

    def next(self, context: int) -> int:
        """Return the token that comes after what the context has evaluated last."""
        return int(self._llama.llama_sampler_sample(self._chain, context, -1))

    def close(self) -> None:
        """Free it."""
        self._llama.llama_sampler_free(self._chain)
