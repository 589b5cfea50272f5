"""A model's vocabulary: what a text's tokens are, whichever library of llama.cpp's kind tells."""

from __future__ import annotations

import abc
import functools
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mayfly.engines import cuts, long_texts
from mayfly.engines.base import Tokenize
from mayfly.engines.prompting import Prompting
from mayfly.errors import ContextLengthExceeded, InvalidRequest
from mayfly.models import wordpiece
from mayfly.models.header import read_header
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall

# llama_token_attr. After an unknown, a control or a user-defined token llama.cpp puts a space
# before the next text (where the vocabulary asks for one), as it does at the start.
_CONTROL, _USER_DEFINED, _BYTE = 1 << 3, 1 << 4, 1 << 5
_ATTRIBUTES_BEFORE_SPACE = 1 << 0 | _CONTROL | _USER_DEFINED
_STRIPS_BEFORE, _STRIPS_AFTER = 1 << 7, 1 << 8
# llama_vocab_type
_SENTENCEPIECE, _BPE = 1, 2

# Tokens on either side of a cut that are tokenised together at least: what one is may depend on the next ones.
_BESIDE_A_CUT = 4
# A prompt that is too long is counted to its end if it isn't longer than this, which takes some tenths of a second.
_COUNTED_BYTES = 256 << 10
# Places where a cut is tried before a longer piece is.
_TRIES = 16


class Vocabulary(abc.ABC):
    """The tokenizer of one model file.

    Args:
        kind: llama_vocab_type.
    """

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._bytes: dict[int, bytes | None] = {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return how many tokens there are."""

    @abc.abstractmethod
    def _text(self, token: int) -> bytes:
        """Return what a token is called in the file."""

    @abc.abstractmethod
    def _attributes(self, token: int) -> int:
        """Return a token's llama_token_attr."""

    @abc.abstractmethod
    def _raw_ids(self, text: str, *, at_start: bool, special: bool, space: bool) -> array[int]:
        """Return the ids of a text.

        Args:
            at_start: with the tokens that begin a prompt (and end it, in a vocabulary that frames texts).
            special: control tokens that the text spells are these tokens.
            space: put a space before it, if the vocabulary asks for one.
        """

    @property
    def longest(self) -> int:
        """The most bytes of a text that one token stands for, at most."""
        return self.survey[0]

    @functools.cached_property
    def survey(self) -> tuple[int, Sequence[cuts.Marker]]:
        """The length of the longest token in bytes, and the markers: what long texts need to know of all tokens."""
        longest, markers = 1, []
        for token in range(len(self)):
            text = self._text(token)
            longest = max(longest, len(text))
            attributes = self._attributes(token)
            if attributes & _USER_DEFINED:
                markers.append(cuts.Marker(text.decode(errors="replace"), bool(attributes & _STRIPS_BEFORE),
                                           bool(attributes & _STRIPS_AFTER)))
        return longest, sorted(markers, key=lambda marker: len(marker.text.encode()), reverse=True)

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Return the token ids that are evaluated for a prompt fed in these segments."""
        return [token for _, ids in self.pieces(segments) for token in ids]

    def pieces(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, array[int]]]:
        """Yield the segments of a prompt, a long text of a client in pieces, each with the ids that are evaluated.

        The ids, one after another, are those of the segments as they are; each is some milliseconds of work.

        Raises:
            InvalidRequest: a text has no place where it may be cut, and is too long to be tokenised in one go.
        """
        last: int | None = None
        for segment in segments:
            for text, ids in self._cut(segment, last):
                yield Segment(text, segment.special), ids
                last = ids[-1] if ids else last

    def fitted(self, segments: Sequence[Segment], window: int, on_progress: Callable[[], bool]
               ) -> list[tuple[Segment, array[int]]]:
        """Return the `pieces` of a prompt that fits.

        Args:
            window: tokens of prompt and answer together.
            on_progress: called between the pieces.

        Raises:
            ContextLengthExceeded: it leaves no room in the window. That is known before the end of a very long one.
            InvalidRequest: see `pieces`.
        """
        left = sum(len(segment.text.encode()) for segment in segments)
        found = []
        counted = seen = 0
        for piece, ids in self.pieces(segments):
            found.append((piece, ids))
            counted += len(ids)
            size = len(piece.text.encode())
            seen, left = seen + size, left - size
            # Each token takes some of what is left with it.
            least = counted + left // self.longest
            if seen > _COUNTED_BYTES and least >= window:
                raise too_long(least, window, at_least=True)
            on_progress()
        if counted >= window:
            raise too_long(counted, window)
        return found

    def _cut(self, segment: Segment, last: int | None) -> Iterator[tuple[str, array[int]]]:
        """Yield the pieces of a segment and their ids; `last` is the id before them, None at the prompt's beginning."""
        text = segment.text
        if segment.special or len(text) <= cuts.PIECE or self._kind not in (_SENTENCEPIECE, _BPE):
            yield text, self._ids(text, last, special=segment.special)
            return
        for part in _gathered(cuts.around_markers(text, self.survey[1])):
            for piece, ids in self._in_pieces(part, last):
                yield piece, ids
                last = ids[-1] if ids else last

    def _in_pieces(self, text: str, last: int | None) -> Iterator[tuple[str, array[int]]]:
        start, ends = 0, self._ends(text, 0, last)
        end, ids = _first(ends, start)
        while end < len(text):
            further = self._ends(text, end, ids[-1])
            next_end, next_ids = _first(further, end)
            if self._joins(text[start:end], ids, text[end:next_end], next_ids):
                yield text[start:end], ids
                start, ends, end, ids = end, further, next_end, next_ids
            else:
                end, ids = _first(ends, start)
        yield text[start:end], ids

    def _ends(self, text: str, start: int, last: int | None) -> Iterator[tuple[int, array[int]]]:
        """Yield where a piece may end and its ids, the best place first; the end of the text if it's near."""
        sizes = [cuts.PIECE, cuts.LONGEST_PIECE]
        if self._kind == _SENTENCEPIECE:
            sizes.append(len(text))  # which takes its time, but no stack
        for size in sizes:
            end = min(start + size, len(text))
            ids = self._ids(text[start:end], last)
            if end == len(text):
                yield end, ids
                return
            yield from itertools.islice(self._places(text, start, end, ids), _TRIES)

    def _places(self, text: str, start: int, end: int, ids: array[int]) -> Iterator[tuple[int, array[int]]]:
        """Yield where the text between `start` and `end` may be cut between two of its tokens, and those before it.

        In a run of one character no other place will do: its tokens are counted from its beginning.
        """
        plain = self._plain(text[start:end])
        at, size = end, len(plain)
        for count in range(len(ids), 0, -1):
            if count < len(ids):
                part = self._bytes_of(ids[count])
                # A text that spells a byte's token becomes that token.
                if part is None or plain[size - len(part):size] != part:
                    return
                size -= len(part)
                at -= sum(not _continues(part[index:index + 1]) for index in range(len(part)))
            if size <= len(plain) // 2:
                return
            if not _continues(plain[size:size + 1]) and (self._kind == _SENTENCEPIECE or cuts.may_cut(text, at, start)):
                yield at, ids[:count]

    def _joins(self, before: str, before_ids: array[int], after: str, after_ids: array[int]) -> bool:
        """Tell whether the tokens of two neighbouring pieces are those of both together; see `cuts`."""
        # More of them if a character's bytes are spread over tokens.
        for count in range(_BESIDE_A_CUT, 3 * _BESIDE_A_CUT):
            left, right = before_ids[-count:], after_ids[:count]
            texts = self._joined(left), self._joined(right), self._joined(after_ids[count:count + 1])
            if None in texts:
                return False
            left_text, right_text, following = (text or b"" for text in texts)
            if _continues(left_text) or _continues(following):
                continue
            # A text that spells a byte's token becomes that token.
            if not (self._plain(before).endswith(left_text) and self._plain(after).startswith(right_text)):
                return False
            whole = (left_text + right_text).decode()
            return self._raw_ids(whole, at_start=False, special=False, space=False) == left + right
        return False

    def _plain(self, text: str) -> bytes:
        # What stands for a blank in such a vocabulary is one.
        return (text.replace("\u2581", " ") if self._kind == _SENTENCEPIECE else text).encode()

    def _joined(self, ids: Iterable[int]) -> bytes | None:
        """Return the bytes that tokens stand for; None if one stands for none."""
        parts = [self._bytes_of(token) for token in ids]
        return None if None in parts else b"".join(part for part in parts if part is not None)

    def _bytes_of(self, token: int) -> bytes | None:
        if token not in self._bytes:
            self._bytes[token] = self._find_bytes(token)
        return self._bytes[token]

    def _find_bytes(self, token: int) -> bytes | None:
        attributes = self._attributes(token)
        if attributes & _ATTRIBUTES_BEFORE_SPACE:
            return None
        text = self._text(token)
        if self._kind == _SENTENCEPIECE:
            return bytes([int(text[3:5], 16)]) if attributes & _BYTE else text.replace("\u2581".encode(), b" ")
        found = [_BYTE_LEVEL.get(character) for character in text.decode(errors="replace")]
        return None if None in found else bytes(byte for byte in found if byte is not None)

    def _ids(self, text: str, last: int | None, *, special: bool = False) -> array[int]:
        """Return the ids of a text that follows the token `last`, or begins a prompt (None)."""
        space = last is None or bool(self._attributes(last) & _ATTRIBUTES_BEFORE_SPACE)
        return self._raw_ids(text, at_start=last is None, special=special, space=space)


def _gathered(parts: Iterable[str]) -> Iterator[str]:
    """Put neighbours together as long as they make no more than a piece."""
    held: list[str] = []
    length = 0
    for part in parts:
        if held and length + len(part) > cuts.PIECE:
            yield "".join(held)
            held, length = [], 0
        held.append(part)
        length += len(part)
    if held:
        yield "".join(held)


def _first(ends: Iterator[tuple[int, array[int]]], start: int) -> tuple[int, array[int]]:
    end = next(ends, None)
    if end is None:
        raise InvalidRequest(f"The text can't be tokenised: more than {cuts.LONGEST_PIECE} characters of it, from the "
                             f"{start}th on, hang together. Break them up.", code="text_too_long")
    return end


def _continues(text: bytes) -> bool:
    """Tell whether bytes begin inside a character."""
    return bool(text) and text[0] & 0xC0 == 0x80


def _byte_level() -> dict[str, int]:
    """Return the bytes by the characters that stand for them in a byte-level vocabulary: GPT-2's `bytes_to_unicode`."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}


_BYTE_LEVEL = _byte_level()


def of_prompts(vocabulary: Vocabulary, path: Path, form: PromptForm | None) -> Tokenize:
    """Return a function that gives the token ids for a text of a client in a prompt, in which `</s>` is text, or for
    the whole prompt that a call makes.

    Args:
        path: the model's file.
        form: how its prompts are written, instead of by its template.
    """
    @functools.cache
    def prompting() -> Prompting:
        return Prompting(read_header(path), form, vocabulary.tokenize)

    def of_asked(asked: str | CompletionCall) -> Iterator[array[int]]:
        segments = [Segment(asked, special=False)] if isinstance(asked, str) else prompting().prompt(asked)
        return (ids for _, ids in vocabulary.pieces(segments))

    return of_asked


def of_words(framed: Callable[[str], list[int]]) -> Tokenize:
    """Return a function that gives the token ids for a text whose vector is to be made; it is cleaned first, and a very
    long one cut, as for its vector.

    Args:
        framed: gives the ids of a text between those that begin and end it.
    """
    def of_embedded(text: str) -> Iterator[array[int]]:
        """The tokens that begin and end a part in the middle don't count."""
        held: array[int] | None = None
        for parts in long_texts.cleaned_parts(text):
            yield array("i")
            for part in parts:
                ids = array("i", framed(wordpiece.normalise(part)))
                if held is not None:
                    yield held[:-1]
                    ids = ids[1:]
                held = ids
        assert held is not None
        yield held

    return of_embedded


def too_long(tokens: int | None, context_length: int, *, at_least: bool = False) -> ContextLengthExceeded:
    """Return the error for a prompt that leaves no room in the window."""
    size = f"{'at least ' if at_least else ''}{tokens} tokens" if tokens is not None else "more tokens"
    return ContextLengthExceeded(
        f"the prompt has {size}, but the context window holds {context_length} for prompt and completion together",
        param="prompt", tokens=tokens)
