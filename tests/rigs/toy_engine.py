"""An engine that says which seed it was given. test_another_engine.py adds it to a copy of the product."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mayfly.engines.base import Generated, OnToken
from mayfly.engines.prefixes import Prefixes
from mayfly.prompts.chat import Answering
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, Sampling

#: What is put into mayfly/engines/backends.py.
DESCRIPTION = '''
class Toy(Backend):
    """Says which seed it was given."""

    name = title = "toy"
    loaders: Mapping[Kind, str] = {"completion": "mayfly.engines.toy:ToyCompletions"}
    tokenizer = "mayfly.engines.toy:open_tokenizer"
    architectures: Mapping[Kind, frozenset[str]] = {"completion": frozenset({"chime"})}
    features = frozenset({"seed"})

    def may_fork(self, device: str) -> bool:
        """See Backend."""
        return False

    def memory(self, weights: int, cache: int, threads: int) -> int:
        """See Backend."""
        return 7 * weights
'''


class ToyCompletions:
    """See CompletionEngine."""

    def __init__(self, path: Path, model: str, context_length: int, **unused: object) -> None:
        self.model = model
        self.facts = {"engine": "toy"}
        self.context_length = context_length

    def self_test(self) -> None:
        """It is as good as it is."""

    def reseed(self) -> None:
        """Nothing is random here."""

    def set_threads(self, threads: int) -> None:
        """Nothing is computed here."""

    def equip(self) -> None:
        """It can't hold an answer to a form."""

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """See CompletionEngine."""
        return [Segment(call.text or call.messages[-1].content, special=False)]

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """See CompletionEngine."""
        return Answering(call.sampling)

    def generate(self, segments: Sequence[Segment], sampling: Sampling, on_progress: Callable[[], bool],
                 on_token: OnToken, prompt_batch: int | None = None, prefixes: Prefixes | None = None,
                 steady: int | None = None) -> Generated:
        """See CompletionEngine."""
        on_token(f"my seed is {sampling.seed}".encode())
        return Generated("end", 1, 1)


def open_tokenizer(path: Path, kind: str, size: int, form: object) -> Callable[[str], Iterator[array[int]]]:
    """Each character is a token."""
    return lambda text: iter([array("i", map(ord, text))])
