"""An engine that plays a script: it answers, crashes, hangs or refuses on order, which no real model does.

A model file whose name ends in `.script.json` is played by this engine:

    {"kind": "completion" | "embedding",
     "load": "ok" | "fail" | "abort" | "hang",
     "context_length": 2048,
     "template": "a chat template",
     "rules": [{"when": "text that the prompt holds", "do": "answer" | "crash" | "hang" | "error" | "garbage"
                | "crash ahead",
                "pieces": ["Hel", "lo"], "seconds": 0.01, "after": 3, "times": 1}, ...]}

The first rule whose `when` is found is played ("" matches everything). `pieces` are the tokens of an answer (base64
after "base64:" for bytes that are no text), `seconds` the time each takes, `after` how many tokens come before the
crash, hang or error, `times` how often the rule is played before it no longer matches (counted in a file beside the
script, because processes that crash remember nothing). "crash ahead" answers, and crashes when what the conversation
has said is evaluated for its next turn.
"""

from __future__ import annotations

import array
import base64
import hashlib
import json
import math
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mayfly.engines.base import Generated, Part, Tokenize
from mayfly.engines.prefixes import Prefixes
from mayfly.errors import ContextLengthExceeded, EngineFailed, FileUnusable, ModelUnavailable
from mayfly.prompts.chat import Answering, Chat
from mayfly.prompts.segments import Segment
from mayfly.prompts.template import ChatTemplate
from mayfly.wire.calls import CompletionCall, LongText, Sampling

_DIMENSIONS = 384


class _Script:
    def __init__(self, path: Path, kind: str) -> None:
        try:
            self._script = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ModelUnavailable(f"{path.name} is no script: {exc}") from exc
        if self._script.get("kind", "completion") != kind:
            raise ModelUnavailable(f"{path.name} is no {kind} model")
        self._path = path
        load = self._script.get("load", "ok")
        if load == "fail":
            raise FileUnusable(f"{path.name} refuses to load, as its script says")
        if load == "abort":
            os.write(2, b"scripted assertion failed: this script aborts at load\n")
            os.abort()
        if load == "hang":
            _hang()

    def get(self, name: str, default: Any) -> Any:
        return self._script.get(name, default)

    def rule(self, text: str) -> dict[str, Any]:
        for number, rule in enumerate(self._script.get("rules", [])):
            if rule.get("when", "") in text and self._plays(number, rule):
                return dict(rule)
        return {"do": "answer", "pieces": ["Hello", " there", "."]}

    def _plays(self, number: int, rule: dict[str, Any]) -> bool:
        if "times" not in rule:
            return True
        # Two processes may play at once: each play is one byte appended, and its place in the file is its number.
        counter = os.open(f"{self._path}.{number}.played", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(counter, b".")
            return os.lseek(counter, 0, os.SEEK_CUR) <= int(rule["times"])
        finally:
            os.close(counter)


def open_tokenizer(path: Path, kind: str, size: int, form: object = None) -> Tokenize:
    """Return a function that gives a number for each word."""
    def of_words(asked: str | CompletionCall) -> Iterator[array.array[int]]:
        texts = [asked] if isinstance(asked, str) else [segment.text for segment in ScriptedCompletions(
            path, "").prompt(asked)]
        words = [word for text in texts for word in text.split()]
        return iter([array.array("i", (zlib.crc32(word.encode()) & 0x7FFF for word in words))])

    return of_words


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def _misbehave(what: str) -> None:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "hang":
        _hang()
    elif what == "error":
        raise EngineFailed("the engine failed, as its script says")


class ScriptedCompletions:
    """A completion model that plays a script; see the module's docstring and CompletionEngine."""

    def __init__(self, path: Path, model: str, **unused: object) -> None:
        self._script = _Script(path, "completion")
        self.model = model
        self.facts = {"engine": "scripted"}
        self.context_length = int(self._script.get("context_length", 2048))
        self._chat = Chat(ChatTemplate(self._script.get("template", None), bos_token="", eos_token=""), {})

    def self_test(self) -> None:
        """A script is as good as it is."""

    def reseed(self) -> None:
        """Nothing is random here."""

    def evaluate_ahead(self, beginning: Sequence[Segment], on_progress: Callable[[], bool], prefixes: Prefixes) -> None:
        """It keeps nothing of a prompt, but may die of it."""
        said = "".join(segment.text for segment in beginning)
        if any(rule.get("do") == "crash ahead" and rule["when"] in said for rule in self._script.get("rules", [])):
            _misbehave("crash")

    def set_threads(self, threads: int) -> None:
        """Nothing is computed here."""

    def equip(self) -> None:
        """It can't hold an answer to a form."""

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """See CompletionEngine."""
        return self._chat.segments(call)

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """See CompletionEngine. A script is held to nothing."""
        return self._chat.answering(call, segments)

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
        words = sum(len(segment.text.split()) for segment in segments)
        if words >= self.context_length:
            raise ContextLengthExceeded(f"the prompt has {words} tokens, but the context window holds "
                                        f"{self.context_length}", param="prompt", tokens=words)
        rule = self._script.rule("".join(segment.text for segment in segments))
        if not on_progress():
            return Generated("refused", words, 0)
        pieces = rule.get("pieces", ["Hello", " there", "."])
        limit = min(sampling.max_tokens or self.context_length, self.context_length - words)
        what = rule.get("do", "answer")
        for number, piece in enumerate(pieces):
            if what != "answer" and number >= int(rule.get("after", 0)):
                _misbehave(what)
            if number >= limit:
                return Generated("limit", words, number)
            time.sleep(float(rule.get("seconds", 0)))
            encoded = base64.b64decode(piece[7:]) if piece.startswith("base64:") else piece.encode()
            if not on_token(encoded):
                return Generated("refused", words, number + 1)
        if what != "answer":
            _misbehave(what)
        return Generated("end", words, len(pieces))


class ScriptedEmbeddings:
    """An embedding model that plays a script, text by text: vectors are made from a text's hash, norm 1. A text's
    tokens are its characters."""

    dimensions = _DIMENSIONS
    batch_tokens = 1
    threads_spin = True

    def __init__(self, path: Path, model: str, **unused: object) -> None:
        self._script = _Script(path, "embedding")
        self.model = model
        self.facts = {"engine": "scripted", "precision": "none"}

    def set_threads(self, threads: int) -> None:
        """Nothing is computed here."""

    def prepare(self) -> None:
        """Nothing is computed here."""

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine."""
        yield Part([[ord(character) for character in text]], len(text.split()) + 2)

    def compute(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """See EmbeddingEngine."""
        return np.stack([self._vector("".join(map(chr, chunk))) for chunk in chunks])

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        rule = self._script.rule(text)
        time.sleep(float(rule.get("seconds", 0)))
        what = rule.get("do", "answer")
        _misbehave(what)
        numbers = np.frombuffer(hashlib.shake_256(text.encode()).digest(_DIMENSIONS), np.uint8) - np.float32(127.5)
        norm = math.nan if what == "garbage" else np.linalg.norm(numbers)
        return np.asarray(numbers / norm, np.float32)
