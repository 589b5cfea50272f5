"""Completions by gpt4all.

What the binding does on odd input, and what is done about it here:

- An error comes back as *text* with token id -1: it becomes an exception.
- An exception in a callback is swallowed and the cut text returned as a success: callbacks here catch their own.
- `prompt_model` hides the tokens' bytes and always allows the context to be shifted (which silently drops the
  persona), so `llmodel_prompt` is called directly, with shifting off.
- All forks of one loaded model draw the same random numbers: see `reseed`.
- Only the token that the file names as eos ends an answer (`LLamaModel::loadModel`): see `turn_ends`. And any of six
  texts does: see `stop_words`.
- A segment for which the window has no room left is passed over without a word: see `_run`.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mayfly.engines import self_test
from mayfly.engines.base import Generated
from mayfly.engines.gpt4all import stop_words
from mayfly.engines.gpt4all.library import (
    PromptCallback,
    PromptContext,
    ResponseCallback,
    first_line,
    library,
    load_completions,
)
from mayfly.engines.gpt4all.vocabulary import Vocabulary
from mayfly.engines.prefixes import Prefixes
from mayfly.engines.prompting import Prompting, turn_ends
from mayfly.engines.vocabulary import too_long
from mayfly.errors import ContextLengthExceeded, EngineFailed, ModelUnavailable
from mayfly.models.header import read_contents
from mayfly.prompts.chat import Answering
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, Sampling

# Prompt tokens evaluated at once. gpt4all's default of 8 makes prompts several times slower; beyond 128 there is
# little to win, and the heartbeat and the cancelling of a call wait for a batch to end.
_BATCH = 128
_MERSENNE_NUMBERS = 624


class Gpt4AllCompletions:
    """A completion model in this process (GPT4All).

    Args:
        path: the model file.
        threads: compute threads.
        context_length: the window, in tokens; a smaller one in the file wins.
        device: gpt4all's device name.
        model: the model's public name.
        form: how prompts are written, instead of by the file's template.

    Raises:
        ModelUnavailable: gpt4all can't load it.
    """

    def __init__(self, path: Path, threads: int, context_length: int, device: str, model: str,
                 form: PromptForm | None = None) -> None:
        contents = read_contents(path)
        header = contents.header
        self_test.require_weights(path, contents.tensors)
        self.model = model
        self.facts = {"engine": "gpt4all"}
        self.context_length = min(context_length, header.context_length or context_length)
        self._gpt4all = load_completions(path, threads, self.context_length, device)
        self._llm = self._gpt4all.model
        stop_words.switch_off()
        self._end_ids = turn_ends(header)
        self._saved_state = self._save_state()
        self._vocabulary = self._find_vocabulary(path)
        self._prompting = Prompting(header, form, self._evaluated_ids if self._vocabulary is None
                                    else self._vocabulary.tokenize)
        self.reseed()

    # -- the prompt -------------------------------------------------------------------------------------------

    def equip(self) -> None:
        """It can't hold an answer to a form."""

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """See CompletionEngine."""
        return self._prompting.prompt(call)

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """See CompletionEngine."""
        return self._prompting.answering(call, segments)

    def _find_vocabulary(self, path: Path) -> Vocabulary | None:
        """Open the model's vocabulary, or return None where the wheel's library doesn't behave as known."""
        try:
            vocabulary = Vocabulary(path)
            _ = vocabulary.survey  # once, and not in each fork
            probe = [Segment("Hello there", special=True), Segment("</s> 1, 2", special=False)]
            same = vocabulary.tokenize(probe) == self._evaluated_ids(probe)
        except (AttributeError, OSError, ModelUnavailable) as exc:
            print(f"prompt tokens can't be counted ahead: {first_line(exc)}", file=sys.stderr)
            return None
        if not same:
            print("prompt tokens can't be counted ahead: the counted ids differ from gpt4all's", file=sys.stderr)
            return None
        return vocabulary

    def _evaluated_ids(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []

        def note(token: int) -> bool:
            ids.append(token)
            return True

        self._run(segments, Sampling(max_tokens=0), note, lambda *_: False)
        return ids

    # -- random numbers ---------------------------------------------------------------------------------------

    def reseed(self) -> None:
        """See CompletionEngine.

        The state that `llmodel_save_state_data` returns begins with a little-endian u64 length and the sampler's
        std::mt19937 as text: 624 numbers and an index, separated by blanks. What follows is the cache as it was when
        the state was saved: empty. Restoring it empties the cache.
        """
        length = struct.unpack_from("<Q", self._saved_state)[0]
        numbers = [str(random.SystemRandom().getrandbits(32)) for _ in range(_MERSENNE_NUMBERS)]
        generator = " ".join([*numbers, str(_MERSENNE_NUMBERS)]).encode()
        state = struct.pack("<Q", len(generator)) + generator + self._saved_state[8 + length:]
        library.llmodel_restore_state_data(self._llm.model, state)

    def _save_state(self) -> bytes:
        # The buffer must be as large as a full cache; what is written is some kilobytes, and untouched pages cost
        # nothing.
        size = library.llmodel_get_state_size(self._llm.model)
        buffer = (ctypes.c_uint8 * size)()
        saved = library.llmodel_save_state_data(self._llm.model, buffer)
        state = ctypes.string_at(buffer, saved)
        length = struct.unpack_from("<Q", state)[0]
        if len(state[8:8 + length].split()) != _MERSENNE_NUMBERS + 1:
            raise ModelUnavailable("this gpt4all keeps its random numbers in a form that isn't known; install 2.8.2")
        return state

    # -- generating -------------------------------------------------------------------------------------------

    def generate(
        self,
        segments: Sequence[Segment],
        sampling: Sampling,
        on_progress: Callable[[], bool],
        on_token: Callable[[bytes], bool],
        prompt_batch: int | None = None,
        prefixes: Prefixes | None = None,
        steady: int | None = None,
    ) -> Generated:
        """See CompletionEngine."""
        pieces, counted = self._fitting(segments, on_progress)
        try:
            return self._run(pieces, sampling, lambda _: on_progress(), lambda _, piece: on_token(piece),
                             min(prompt_batch or _BATCH, _BATCH))
        except ContextLengthExceeded as exc:
            # gpt4all wants some tokens more room than it needs, and doesn't say how long the prompt is.
            raise too_long(counted, self.context_length) from exc

    def _fitting(self, segments: Sequence[Segment], on_progress: Callable[[], bool]
                 ) -> tuple[Sequence[Segment], int | None]:
        """Return the segments of a prompt, long ones in pieces, and how many tokens it has.

        Where tokens can't be counted the segments are as they were, and the number is None.

        Raises:
            ContextLengthExceeded: it leaves no room in the window. That is known before the end of a very long one.
        """
        if self._vocabulary is None:
            return segments, None
        fitted = self._vocabulary.fitted(segments, self.context_length, on_progress)
        return [piece for piece, _ in fitted], sum(len(ids) for _, ids in fitted)

    def evaluate_ahead(self, beginning: Sequence[Segment], on_progress: Callable[[], bool], prefixes: Prefixes) -> None:
        """It keeps nothing of a prompt."""

    def set_threads(self, threads: int) -> None:
        """See CompletionEngine."""
        library.llmodel_setThreadCount(self._llm.model, threads)

    def _run(
        self,
        segments: Sequence[Segment],
        sampling: Sampling,
        on_prompt_token: Callable[[int], bool],
        on_token: Callable[[int, bytes], bool],
        prompt_batch: int = _BATCH,
    ) -> Generated:
        run = _Run(on_prompt_token, on_token, self._end_ids)
        limit = self.context_length if sampling.max_tokens is None else sampling.max_tokens
        context = PromptContext(
            n_past=0, n_ctx=0, n_predict=0, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p,
            temp=sampling.temperature, n_batch=prompt_batch, repeat_penalty=sampling.repeat_penalty,
            repeat_last_n=sampling.repeat_last_n, context_erase=0.75)
        full = [segment for segment in segments if segment.text]
        for index, segment in enumerate(full):
            context.n_predict = limit if index == len(full) - 1 else 0
            before = run.evaluated
            library.llmodel_prompt(
                self._llm.model, segment.text.encode(), b"%1%2", run.prompt_callback, run.response_callback,
                False,  # allow_context_shift
                ctypes.byref(context), segment.special, None)
            if run.stopped:
                break
            # A token is at least a byte, but for the bos token and a blank that may be added.
            if run.evaluated == before and before + len(segment.text.encode()) + 2 > self.context_length:
                raise too_long(None, self.context_length)
        if run.failure is not None:
            raise run.failure
        if run.engine_error is not None:
            if "context window" in run.engine_error or "prompt size" in run.engine_error:
                raise too_long(None, self.context_length)
            raise EngineFailed(f"the engine failed: {run.engine_error[:200]}")
        if run.ended:
            reason: Any = "end"
        elif run.stopped:
            reason = "refused"
        elif run.sampled >= limit or run.evaluated + run.sampled >= self.context_length:
            reason = "limit"
        else:
            reason = "end"
        return Generated(reason, run.evaluated, run.sampled)

    def self_test(self) -> None:
        """See CompletionEngine."""
        def likeliest(prompt: str) -> int | None:
            found: list[int] = []

            def note(token: int, piece: bytes) -> bool:
                found.append(token)
                return False

            self._run([Segment(prompt, special=True)], Sampling(max_tokens=1, temperature=0.0), lambda _: True, note)
            return found[0] if found else None

        try:
            self_test.require_choice(self.model, likeliest, self._end_ids)
        except (EngineFailed, ContextLengthExceeded) as exc:
            raise ModelUnavailable(f"{self.model} fails its self-test: {exc}") from exc
        self.reseed()


class _Run:
    """The callbacks of one run, and what they saw. A token of `end_ids` ends it and is neither shown nor counted."""

    def __init__(self, on_prompt_token: Callable[[int], bool], on_token: Callable[[int, bytes], bool],
                 end_ids: frozenset[int]) -> None:
        self.evaluated = 0
        self.sampled = 0
        self.stopped = False
        self.ended = False
        self.failure: BaseException | None = None
        self.engine_error: str | None = None
        self._on_prompt_token = on_prompt_token
        self._on_token = on_token
        self._end_ids = end_ids
        self.prompt_callback = PromptCallback(self._prompt)
        self.response_callback = ResponseCallback(self._response)

    def _prompt(self, token: int) -> bool:
        self.evaluated += 1
        return self._go_on(lambda: self._on_prompt_token(token))

    def _response(self, token: int, piece: bytes) -> bool:
        if token < 0:
            self.engine_error = piece.decode(errors="replace")
            self.stopped = True
            return False
        if token in self._end_ids:
            self.ended = self.stopped = True
            return False
        self.sampled += 1
        return self._go_on(lambda: self._on_token(token, piece))

    def _go_on(self, ask: Callable[[], bool]) -> bool:
        # ctypes would print an exception and go on with a made-up answer.
        try:
            self.stopped = not ask()
        except BaseException as exc:
            self.failure = exc
            self.stopped = True
        return not self.stopped
