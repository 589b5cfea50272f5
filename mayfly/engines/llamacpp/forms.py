"""Answers that are held to a form by llguidance: before each token is chosen, those are left out that no answer of the
form can go on with.

Whatever a caller sends as a form is compiled within bounds: of its size, by llguidance's own limits, and of time,
memory and stack, which a process tries out that nobody needs. No reference in a schema is ever fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from mayfly.engines.attempts import survives
from mayfly.engines.llamacpp.schema_places import place_of
from mayfly.engines.llamacpp.vocabulary import Vocabulary
from mayfly.errors import InvalidRequest
from mayfly.prompts.call_grammar import WRITTEN
from mayfly.wire.calls import Form

# Characters of a form.
_LONGEST = 1 << 18
# What compiling it may take beside what is there. Ordinary forms need milliseconds and a few megabytes.
_MEMORY, _SECONDS = 512 << 20, 2.0
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
_SILENT = 0
# Of what llguidance says is wrong.
_MOST_WORDS = 200
_DEEPEST = "recursion limit exceeded"
_PANIC = "panic:"
_NONE = "no answer has this form"
_WORDS = {"json_schema": "schema", "regex": "regular expression", "lark": "grammar", "gbnf": "grammar"}
# How it quotes a regular expression, marks the place in it, and says what is wrong there.
_REGEX = re.compile(r'(?:invalid regex ".*" \(in regex\): )?regex parse error:\n {4}(.*)\n {4}( *)\^+\nerror: (.*)')
_SLASH = r"\/"
_QUOTED = re.compile(r"\s*\d+ \||\s*\^\s*$|    ")

#: llama_token_data, of which llama.cpp's samplers take an array.
TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Forms:
    """What one model needs for answers in a form. Making it takes tenths of a second, and starts no threads.

    Args:
        ends: the ids of the tokens that end an answer. They are allowed where the answer may end, and only there.
    """

    def __init__(self, vocabulary: Vocabulary, ends: list[int]) -> None:
        self._size = len(vocabulary)
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(vocabulary, ends)), eos_token=ends)

    def held(self, form: Form, on_progress: Callable[[], bool]) -> Held:
        """Return what holds one answer to a form.

        Args:
            on_progress: see CompletionEngine.generate.

        Raises:
            InvalidRequest: it can't be compiled; the message names the place.
        """
        what = "tools" if form.tools else _WORDS[form.kind]
        if len(form.text) > _LONGEST:
            raise unusable(form, f"the {what} has {len(form.text)} characters, but at most {_LONGEST} are allowed")
        try:
            # With its first mask, which is the dearest one.
            if not survives(lambda: self._compiled(form).compute_bitmask(), memory=_MEMORY, seconds=_SECONDS,
                            on_progress=on_progress):
                raise unusable(form, f"the {what} is too complex")
            matcher = self._compiled(form)
        except RecursionError as exc:
            raise unusable(form, f"the {what} is nested too deep") from exc
        except ValueError as exc:
            raise unusable(form, _fault(form, str(exc))) from exc
        return Held(matcher, self._size, form)

    def _compiled(self, form: Form) -> LLMatcher:
        """Compile a form.

        Raises:
            ValueError: it can't be.
        """
        matcher = LLMatcher(self._tokenizer, _grammar(form), log_level=_SILENT, limits=_LIMITS)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher


class Held:
    """Holds one answer to its form, token by token."""

    def __init__(self, matcher: LLMatcher, size: int, form: Form) -> None:
        self._matcher = matcher
        self._size = size
        self._form = form
        self._mask = np.zeros((size + 31) // 32, dtype=np.int32)

    def among(self, logits: memoryview[float]) -> npt.NDArray[Any]:
        """Return the tokens that may come next, as TOKEN_DATA: at least one.

        Args:
            logits: of all tokens, as float32.

        Raises:
            InvalidRequest: nothing fits the form, or it takes too much to tell what does.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        ids = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=self._size))
        self._check()
        if not ids.size:
            raise unusable(self._form, _NONE)
        found = np.zeros(ids.size, dtype=TOKEN_DATA)
        found["id"], found["logit"] = ids, np.asarray(logits)[ids]
        return found

    def take(self, token: int) -> bool:
        """Go on with the token that was chosen; tell whether the answer is complete, and nothing can follow.

        Raises:
            InvalidRequest: it takes too much to tell.
        """
        self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        # One that has failed says that it has stopped, as one does whose answer is complete.
        if self._matcher.is_error():
            error = self._matcher.get_error()
            raise unusable(self._form, _NONE if error.startswith("NoExtension") else
                           f"it is too complex to hold an answer to: {_reason(error)}")


class _Tokens:
    """The vocabulary as llguidance wants it. A token that adds nothing to an answer isn't part of its text; a grammar
    can name it."""

    def __init__(self, vocabulary: Vocabulary, ends: list[int]) -> None:
        shown = [vocabulary.shown(token) for token in range(len(vocabulary))]
        self.eos_token_id, self.bos_token_id = ends[0], None
        self.special_token_ids = [token for token, piece in enumerate(shown) if not piece]
        self.tokens = [piece or vocabulary.name(token).encode() for token, piece in enumerate(shown)]
        self._ids = vocabulary.inner_ids

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of a text inside of an answer."""
        return self._ids(text if isinstance(text, str) else text.decode())


def unusable(form: Form, why: str) -> InvalidRequest:
    """Return the error for a form that no answer can be held to."""
    return InvalidRequest(f"'{form.param}' can't be used: {why}. Change it.", param=form.param, code="unusable_form")


def _grammar(form: Form) -> str:
    """Return a form as llguidance's grammar.

    Raises:
        ValueError: it is none of its kind.
    """
    if form.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(form.text, overrides=WRITTEN)
    if form.kind == "regex":
        return LLMatcher.grammar_from_regex(form.text)
    if form.kind == "lark":
        return LLMatcher.grammar_from_lark(form.text)
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(form.text))
    except (MemoryError, RecursionError):
        raise
    except Exception as exc:  # that module has errors of its own, and raises bare ones and those of its slips too
        raise ValueError(str(exc)) from exc


def _fault(form: Form, said: str) -> str:
    """Return what of a form can't be compiled, where, and why."""
    what, schema = _WORDS[form.kind], form.text if form.kind == "json_schema" else ""
    line = re.match(r"at (\d+)\(", said)
    rule = re.match(r"arguments_(\d+)\w*: %json (.*)", form.text.split("\n")[int(line[1]) - 1]) if line else None
    if form.tools and rule is not None:
        # What is said of a grammar that nobody has sent helps nobody.
        what, schema = f"schema of the tool '{form.tools[int(rule[1])]}'", rule[2]
        said = said.partition(": failed to compile JSON schema: ")[2] or said
    elif form.kind == "regex":
        said = re.sub(r"^at \d+\(\d+\): ", "", said)
    place = place_of(schema, WRITTEN) if schema else None
    return f"the {what} can't be compiled: " + (f"at '{place}': " if place else "") + _reason(said)


def _character(match: re.Match[str]) -> str:
    """Return what is wrong with a regular expression, and where in it."""
    text, before, why = match[1], match[2], match[3]
    # Where a regular expression is a grammar's, a slash is escaped.
    return f"{why}, at character {len(before) + 1 - text[:len(before)].count(_SLASH)}"


def _reason(said: str) -> str:
    """Return what llguidance says is wrong, in a line, without the lines that it quotes."""
    if _DEEPEST in said:
        return "it is nested too deep"
    if _PANIC in said:
        return "it is too complex"
    said = _REGEX.sub(_character, said)
    told = re.sub(r"^(at )?(\d+)\((\d+)\): ", r"line \2, column \3: ", said.partition("\n<state>")[0])
    lines = [line.strip() for line in told.splitlines() if not _QUOTED.match(line)]
    return " ".join(lines)[:_MOST_WORDS].strip(" .")
