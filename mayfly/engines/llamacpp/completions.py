"""Completions by llama.cpp.

The process that loads a model may be forked as long as it hasn't computed: the threads of OpenMP, which the wheel's
library computes with, aren't there after a fork, and whoever waits for them waits for ever. So nothing is computed
before the first call, and the self-test is a call of its own (`CompletionEngine.self_test`).
"""

from __future__ import annotations

import contextlib
import functools
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mayfly.engines import self_test
from mayfly.engines.base import Generated, OnToken
from mayfly.engines.llamacpp.library import load_model, open_library, reason
from mayfly.engines.llamacpp.likelihood import Scorer
from mayfly.engines.llamacpp.sampling import Chain, require_tokens
from mayfly.engines.llamacpp.spinning import Spinning
from mayfly.engines.llamacpp.vocabulary import Vocabulary
from mayfly.engines.llamacpp.window import BATCH, Window, pieces
from mayfly.engines.prefixes import Prefixes
from mayfly.engines.prompting import Prompting, turn_ends
from mayfly.errors import ContextLengthExceeded, EngineFailed, FileUnusable, InvalidRequest, ModelUnavailable
from mayfly.models.call_forms import MARKS
from mayfly.models.header import read_contents
from mayfly.prompts.chat import Answering
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, Sampling

if TYPE_CHECKING:  # not needed by calls without a form
    from mayfly.engines.llamacpp.forms import Forms

# Prompt tokens evaluated at once where the likelihood of each is asked for: the library keeps what it found for all the
# vocabulary, a megabyte for each token.
_SCORED_BATCH = 32
# For a single token llama.cpp gives each thread a part of a longer window, and adds up what they find: with another
# number of threads the last bits of the sum differ, and with them a token now and then. (From 512 places on, which it
# counts in steps of 256: `use_split_kv_path` of its ops.cpp.) Batches come out alike with any number.
_SPLIT_FROM = 256


class LlamaCompletions:
    """A completion model in this process; see CompletionEngine.

    Args:
        path: the model file.
        threads: compute threads.
        context_length: the window, in tokens; a smaller one in the file wins.
        device: "cpu", "gpu", or the name of one that llama.cpp knows.
        model: the model's public name.
        form: how prompts are written, instead of by the file's template.

    Raises:
        ModelUnavailable: llama.cpp can't load it.
    """

    def __init__(self, path: Path, threads: int, context_length: int, device: str, model: str,
                 form: PromptForm | None = None) -> None:
        contents = read_contents(path)
        header = contents.header
        self_test.require_weights(path, contents.tensors)
        self._llama = open_library()
        self.model = model
        self.facts = {"engine": "llamacpp"}
        self.context_length = min(context_length, header.context_length or context_length)
        loaded = load_model(path, device=device)
        if self._llama.llama_model_has_encoder(loaded):
            raise FileUnusable(f"{path.name} has an encoder, which prompts for completions have no use for")
        params = self._llama.llama_context_default_params()
        params.n_ctx = self.context_length
        params.n_batch = params.n_ubatch = min(BATCH, self.context_length)
        params.n_threads = params.n_threads_batch = threads
        self._context = self._llama.llama_init_from_model(loaded, params)
        if not self._context:
            raise ModelUnavailable(f"llama.cpp can't load {path.name}: {reason('there is not enough memory')}")
        self._window = Window(self._llama, loaded, self._context)
        self._threads, self._steady = threads, 0
        self._spinning = Spinning(self._llama)
        self._vocabulary = Vocabulary(loaded)
        _ = self._vocabulary.survey  # once, and not in each fork
        self._end_ids = turn_ends(header)
        # What a control token says of calls and thoughts is read, though it is no text of an answer.
        marks = {piece: number for piece, number in header.pieces.items()
                 if piece in MARKS and not self._vocabulary.shown(number)}
        self._read = {number: piece.encode() for piece, number in marks.items()}
        self._prompting = Prompting(header, form, self._vocabulary.tokenize, marks)

    def reseed(self) -> None:
        """Nothing is to be done: what is random is made for each call."""

    def equip(self) -> None:
        """See CompletionEngine."""
        _ = self._forms

    @functools.cached_property
    def _forms(self) -> Forms:
        # It costs more than the rest of a start, so only those pay who use it.
        try:
            from mayfly.engines.llamacpp.forms import Forms
        except ImportError as exc:
            raise InvalidRequest(f"answers can't be held to a form here: llguidance can't be used ({exc})",
                                 param="response_format", code="unusable_form") from exc
        return Forms(self._vocabulary, [token for token in range(len(self._vocabulary)) if self._ends(token)])

    def _ends(self, token: int) -> bool:
        return token in self._end_ids or self._vocabulary.ends(token)

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """See CompletionEngine.

        Raises:
            InvalidRequest: the model fills no gaps.
        """
        if not call.suffix:
            return self._prompting.prompt(call)
        around = self._vocabulary.around_a_gap(call.text or "", call.suffix)
        if around is None:
            raise InvalidRequest(f"'suffix' has to be left out: '{self.model}' has no tokens for filling gaps, as "
                                 "models for code have.", param="suffix")
        return around

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """See CompletionEngine."""
        return self._prompting.answering(call, segments)

    def set_threads(self, threads: int) -> None:
        """See CompletionEngine."""
        self._threads = threads
        # The first is for single tokens, the second for batches.
        self._llama.llama_set_n_threads(self._context, self._steady or threads, threads)
        # More than its share of the cores: somebody else computes on the rest, and gets on where a thread sleeps.
        self._spinning.shorten(self._steady if self._steady > threads else 0)

    def _keep_steady(self, threads: int | None, tokens: int) -> None:
        """Compute single tokens with so many threads, whatever `set_threads` says, in a window of so many tokens."""
        steady = threads if threads is not None and tokens > _SPLIT_FROM else 0
        if steady != self._steady:
            self._steady = steady
            self.set_threads(self._threads)

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
        """See CompletionEngine."""
        require_tokens(sampling.logit_bias, len(self._vocabulary), self.model)
        held = self._forms.held(sampling.form, on_progress) if sampling.form is not None else None
        # The context's memory is there since the load, and a fork copies the pages that its tokens are written to. So a
        # smaller window needs no context of its own.
        window = min(self.context_length, sampling.n_ctx or self.context_length)
        scored = sampling.logprobs is not None and sampling.prompt_logprobs
        evaluated = pieces(self._vocabulary.fitted(segments, window, on_progress),
                           min(prompt_batch or BATCH, _SCORED_BATCH if scored else BATCH))
        prompt = sum(evaluated, array("i"))
        if not prompt:
            raise EngineFailed("the prompt has no tokens")
        room = window - len(prompt)
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        self._keep_steady(steady, len(prompt))
        with contextlib.ExitStack() as stack:
            scorer = None
            if sampling.logprobs is not None:
                scorer = stack.enter_context(
                    contextlib.closing(Scorer(self._llama, self._vocabulary, self._context, sampling.logprobs)))
            seen = scorer.of_prompt(prompt) if scorer is not None and scored else None
            if not self._window.evaluate(evaluated, on_progress, prefixes, seen):
                return Generated("refused", len(prompt), 0)
            if seen is not None and not on_token(None, *seen.scores(segments)):
                return Generated("refused", len(prompt), 0)
            chain = stack.enter_context(
                contextlib.closing(Chain(self._llama, self._vocabulary, sampling, prompt, window)))
            for sampled in range(1, limit + 1):
                token = chain.next(self._context, held)
                if self._ends(token):
                    return Generated("end", len(prompt), sampled - 1)
                scores = () if scorer is None else (scorer.score(token),)
                if not on_token(self._read.get(token) or self._vocabulary.shown(token), *scores):
                    return Generated("refused", len(prompt), sampled)
                if held is not None and held.take(token):
                    return Generated("end", len(prompt), sampled)
                if sampled < limit:
                    self._keep_steady(steady, len(prompt) + sampled)
                    self._window.append(array("i", [token]))
            return Generated("limit", len(prompt), limit)

    def evaluate_ahead(self, beginning: Sequence[Segment], on_progress: Callable[[], bool], prefixes: Prefixes) -> None:
        """See CompletionEngine."""
        with contextlib.suppress(ContextLengthExceeded):  # then no prompt begins like that
            ids = self._vocabulary.fitted(beginning, self.context_length, on_progress)
            # More may follow in the last piece.
            self._window.evaluate_ahead(pieces(ids)[:-1], on_progress, prefixes)

    def self_test(self) -> None:
        """See CompletionEngine."""
        def likeliest(prompt: str) -> int | None:
            ids = array("i", self._vocabulary.tokenize([Segment(prompt, special=True)]))
            self._window.evaluate([ids], lambda: True)
            greedy = Sampling(temperature=0.0, repeat_penalty=1.0)
            chain = Chain(self._llama, self._vocabulary, greedy, ids, self.context_length)
            try:
                return chain.next(self._context)
            finally:
                chain.close()

        try:
            self_test.require_choice(self.model, likeliest, self._end_ids)
        except EngineFailed as exc:
            raise ModelUnavailable(f"{self.model} fails its self-test: {exc}") from exc
