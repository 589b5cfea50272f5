"""llama.cpp's context as a window: what is evaluated in it, piece by piece, and its states.

A prompt is evaluated in pieces that end where a message ends, and that depend on nothing behind them: so a state that
another prompt has left is number for number what this one would evaluate.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from mayfly.compat.memory import sealed_content, sealed_memory
from mayfly.engines.llamacpp.library import Abort, ending, reason
from mayfly.engines.prefixes import Prefixes
from mayfly.errors import EngineFailed
from mayfly.prompts.segments import Segment

# Prompt tokens evaluated at once, at most.
BATCH = 512
# A message that ends sooner after the last piece is no piece of its own: llama.cpp's attention computes 64 tokens side
# by side, and fewer at up to twice the time for each.
_LEAST = 64
# A state is left if at least so many tokens had to be evaluated for it.
_WORTH = 128
# How often a batch is interrupted for a look at the call (s); the library would ask at each of some thousand nodes.
_LOOK_INTERVAL = 0.02
_ABORTED = 2  # of llama_decode
_SEQUENCE = 0


def pieces(prompt: Iterable[tuple[Segment, array[int]]], most: int = BATCH) -> list[array[int]]:
    """Return a prompt's ids as they are evaluated.

    Args:
        prompt: its segments, of which a long one may come in parts, each with its ids.
        most: ids of a piece.
    """
    found: list[array[int]] = []
    held = array("i")
    spoken = False  # whether a message's text was last
    for segment, ids in prompt:
        if segment.special and spoken and len(held) >= _LEAST:
            found.extend(_cut(held, most))
            held = array("i")
        held.extend(ids)
        spoken = not segment.special
    return [*found, *_cut(held, most)]


def _cut(ids: array[int], most: int) -> Iterator[array[int]]:
    return (ids[start:start + most] for start in range(0, len(ids), most))


class Window:
    """One context. Nothing is in it until something is evaluated.

    Args:
        llama: the library.
        model, context: llama.cpp's.
    """

    def __init__(self, llama: ctypes.CDLL, model: int, context: int) -> None:
        self._llama = llama
        self._context = context
        self._memory = llama.llama_get_memory(context)
        # What a recurrent network remembers can't be cut back to where a message ended.
        self._cuts_back = not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
        self._fresh = True
        # The prompt that was evaluated to its end, and how many tokens of it are still there.
        self._pieces: Sequence[array[int]] = ()
        self._left = 0

    def evaluate(self, prompt: Sequence[array[int]], on_progress: Callable[[], bool], prefixes: Prefixes | None = None,
                 scored: Callable[[int, int], None] | None = None) -> bool:
        """Evaluate a prompt from the window's beginning; tell whether it was evaluated to its end.

        Args:
            prompt: in `pieces`.
            on_progress: see CompletionEngine.generate.
            prefixes: states that may be used instead of evaluating.
            scored: called after each piece, with where it begins and how many tokens it has; every token is evaluated
                then, and the results after each are there.

        Raises:
            EngineFailed: llama.cpp can't.
        """
        self._clear()
        # Of the last piece there are no states: what is sampled first comes out of its evaluation.
        prefixes = prefixes if scored is None else None
        digests = prefixes.digests(prompt[:-1]) if prefixes is not None else []
        begun, wanted = self._begin(prompt, digests, prefixes)
        evaluated = sum(map(len, prompt[:begun]))
        with self._interruptible(on_progress) as asking:
            for count, piece in enumerate(prompt[begun:], begun + 1):
                if not (on_progress() and self.append(piece, all_results=scored is not None)):
                    asking.raise_failure()
                    return False
                if scored is not None:
                    scored(evaluated, len(piece))
                evaluated += len(piece)
                if prefixes is not None and count in wanted:
                    self._offer(prefixes, digests[count - 1], evaluated)
        self._pieces, self._left = prompt, evaluated
        return True

    def evaluate_ahead(self, beginning: Sequence[array[int]], on_progress: Callable[[], bool], prefixes: Prefixes
                       ) -> None:
        """Evaluate what later prompts will begin with, behind what the window still has of it, and offer its state.

        Args:
            beginning: in `pieces`.
            on_progress: see CompletionEngine.generate.

        Raises:
            EngineFailed: llama.cpp can't.
        """
        pairs = zip(self._pieces, beginning, strict=False)
        common = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        evaluated = sum(map(len, beginning[:common]))
        if common == len(beginning) or evaluated > self._left or not self._cut_back(evaluated):
            return
        with self._interruptible(on_progress) as asking:
            for piece in beginning[common:]:
                if not (on_progress() and self.append(piece)):
                    asking.raise_failure()
                    return
        self._offer(prefixes, prefixes.digests(beginning)[-1], sum(map(len, beginning)))

    def append(self, ids: array[int], *, all_results: bool = False) -> bool:
        """Evaluate tokens after those before; tell whether that came to its end.

        Args:
            all_results: the results after each token are wanted, and not those after the last alone.

        Raises:
            EngineFailed: llama.cpp can't.
        """
        tokens = (ctypes.c_int32 * len(ids)).from_buffer(ids)
        batch = self._llama.llama_batch_get_one(tokens, len(ids))
        wanted = (ctypes.c_int8 * len(ids))(*[1] * len(ids)) if all_results else None
        batch.logits = ctypes.addressof(wanted) if wanted is not None else None
        code = self._llama.llama_decode(self._context, batch)
        if code not in (0, _ABORTED):
            raise EngineFailed(f"the engine failed: {reason(f'llama.cpp says {code}')}")
        return bool(code == 0)

    @contextlib.contextmanager
    def _interruptible(self, on_progress: Callable[[], bool]) -> Iterator[_Asking]:
        asking = _Asking(on_progress)
        callback = Abort(asking)
        self._llama.llama_set_abort_callback(self._context, callback, None)
        try:
            yield asking
        finally:
            # Between the nodes of a single token there is no time to ask.
            self._llama.llama_set_abort_callback(self._context, None, None)
            ending.clear()

    def _clear(self) -> None:
        if not self._fresh:
            # Not the cache itself: what is in it isn't looked at, and writing to it all takes its time.
            self._llama.llama_memory_clear(self._memory, False)
        self._fresh = False
        self._pieces, self._left = (), 0

    # -- states -------------------------------------------------------------------------------------------------------

    def _begin(self, prompt: Sequence[array[int]], digests: Sequence[bytes], prefixes: Prefixes | None
               ) -> tuple[int, set[int]]:
        """Put the longest state back that there is; return how many pieces it covers, and after how many a state is to
        be left: of what prompts have in common, and where this conversation goes on."""
        if prefixes is None or not digests:
            return 0, set()
        found = prefixes.find(digests)
        begun = found.held if found.state is not None and self._put_back(found.state) else 0
        worth = sum(map(len, prompt[begun:-1])) >= _WORTH
        return begun, {count for count in (found.seen, len(digests) if worth else 0) if count > begun}

    def _put_back(self, state: int) -> bool:
        content = sealed_content(state)
        if self._llama.llama_state_seq_set_data(self._context, content, len(content), _SEQUENCE):
            return True
        self._clear()
        return False

    def _offer(self, prefixes: Prefixes, digest: bytes, tokens: int) -> None:
        take = functools.partial(self._take, tokens, prefixes.most)
        if self._cuts_back:
            prefixes.offer(digest, tokens, take)
        elif (state := take()) is not None:
            prefixes.offer(digest, tokens, lambda: state)

    def _cut_back(self, tokens: int) -> bool:
        """Leave the first tokens in the window alone; tell whether that can be done."""
        if not (self._cuts_back and self._llama.llama_memory_seq_rm(self._memory, _SEQUENCE, tokens, -1)):
            return False
        self._left = tokens
        return True

    def _take(self, tokens: int, most: int) -> int | None:
        """Return the descriptor of the state of the first tokens; None if it can't be had or is too large."""
        if self._cuts_back and not self._cut_back(tokens):
            return None
        size = self._llama.llama_state_seq_get_size(self._context, _SEQUENCE)
        if not 0 < size <= most:
            return None
        return sealed_memory(
            size, lambda memory: self._llama.llama_state_seq_get_data(self._context, memory, size, _SEQUENCE))


class _Asking:
    """What llama.cpp asks between two nodes of a graph: whether to end."""

    def __init__(self, on_progress: Callable[[], bool]) -> None:
        self._on_progress = on_progress
        self._next = 0.0
        self.failure: BaseException | None = None

    def __call__(self, data: int | None) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        # ctypes would print an exception and go on.
        try:
            going_on = self._on_progress()
        except BaseException as exc:
            self.failure = exc
            going_on = False
        if not going_on:
            ending.set()
        self._next = time.monotonic() + _LOOK_INTERVAL
        return not going_on

    def raise_failure(self) -> None:
        """Raise what asking has raised, if it has."""
        if self.failure is not None:
            raise self.failure
