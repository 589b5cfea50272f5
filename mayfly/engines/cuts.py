"""Where a long text may be cut so that the tokens of its pieces, one after another, are those of the whole.

llama.cpp tokenises a text in one go, and ordinary texts are too much for it: most of its expressions for byte-level
BPE recurse at every character of a word ("a" 27,000 times fills a stack of 8 MB), and in a SentencePiece vocabulary
the time grows with the square of the characters that have no token of their own. Nor can anybody beat meanwhile. So it
gets pieces of bounded length.

A cut is right if two things hold. *Words*: a BPE vocabulary splits a text into words first, by expressions
(`llm_tokenizer_bpe` in the llama.cpp of gpt4all 2.8.2) that go from left to right, never look back, and look ahead only
for the end of blanks. `may_cut` names places where all of them split what comes after as they split the beginning of a
text, and what comes before as the end of one, but for the word that is cut there. *Merges*: within a word neighbours
are merged by rank, the leftmost first, and nothing is undone. The first merge across a cut would join what the tokens
beside it had become by then, and the same steps lead there in a text of those few tokens alone. So it is enough to
tokenise these (`Vocabulary.joins`). Both arguments hold for what follows a cut as for a text of its own, so nothing is
looked at before the last cut.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Characters of a piece: some milliseconds of work.
PIECE = 4_096
#: A piece that can't be cut anywhere may be so long; a stack of 8 MB holds a word of 20,000 characters.
LONGEST_PIECE = 12_288

_LETTER, _NUMBER, _BLANK, _OTHER, _UNKNOWN = range(5)
# What llama.cpp takes for blanks (`unicode_set_whitespace`). Python's \s has four control characters more.
_BLANKS = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(n) for n in range(0x2000, 0x200B)}
_LINE_ENDS = "\r\n"
_AFTER_LINE_ENDS = re.compile(r"[\r\n]*")
# C's isspace.
_STRIPPED = " \t\n\v\f\r"
_BLANKS_AFTER = re.compile(f"[{_STRIPPED}]*")
# Numbers are taken by threes in some vocabularies.
_NUMBERS_AT_ONCE = 3
# The longest of "'s", "'re", "'ll" and their like.
_CONTRACTION = 3


@functools.lru_cache(maxsize=1 << 14)
def _kind(character: str) -> int:
    if character in _BLANKS:
        return _BLANK
    category = unicodedata.category(character)
    if category == "Cn":
        # Another version of Unicode may know it.
        return _UNKNOWN
    return {"L": _LETTER, "N": _NUMBER}.get(category[0], _OTHER)


def may_cut(text: str, at: int, start: int) -> bool:
    """Tell whether a text that begins at `start` may be cut before the character `at`, as far as its words go."""
    before, after = _kind(text[at - 1]), _kind(text[at])
    if _UNKNOWN in (before, after):
        return False
    if before == _LETTER:
        return after != _LETTER or "'" not in text[max(start, at - _CONTRACTION):at]
    if before == _NUMBER:
        return after != _NUMBER or _may_cut_number(text[at - _run(text, at, start, _NUMBER):at])
    if before == _OTHER:
        if after == _OTHER:
            # Before a letter the last of them would begin a word: "=a", "'s".
            return at + 1 < len(text) and _kind(text[at + 1]) == _OTHER
        return after == _NUMBER or (after == _BLANK and text[at] not in _LINE_ENDS)
    return _may_cut_after_blank(text, at, start, after)


def _may_cut_number(before: str) -> bool:
    # Some expressions know the digits of ASCII alone, so a number of both kinds isn't counted from its beginning.
    ascii_digits = sum(map(str.isascii, before))
    return len(before) % _NUMBERS_AT_ONCE == 0 and ascii_digits in (0, len(before))


def _may_cut_after_blank(text: str, at: int, start: int, after: int) -> bool:
    run = _run(text, at, start, _BLANK)
    if text[at - 1] not in _LINE_ENDS:
        # Blanks before a line's end are a word with it, and so are those between two of them.
        return after == _BLANK and not any(mark in text[at - run:at] for mark in _LINE_ENDS)
    if after != _BLANK:
        return run == 1
    if text[at] not in _LINE_ENDS:
        return True
    ends = len(text[at - run:at]) - len(text[at - run:at].rstrip(_LINE_ENDS))
    before = at - ends
    if before == start or _kind(text[before - 1]) not in (_OTHER, _UNKNOWN):
        return True
    # Line ends belong to the sign before them, but for those that blanks and another one follow.
    following = _AFTER_LINE_ENDS.match(text, at)
    assert following is not None
    return following.end() == len(text) or _kind(text[following.end()]) != _BLANK


def _run(text: str, at: int, start: int, kind: int) -> int:
    """Return how many characters of this kind come directly before `at`."""
    begin = at
    while begin > start and _kind(text[begin - 1]) == kind:
        begin -= 1
    return at - begin


@dataclass(frozen=True)
class Marker:
    """A token that llama.cpp finds in a text before anything else, wherever it is spelt.

    Attributes:
        strips_before, strips_after: it takes the blanks on that side with it.
    """

    text: str
    strips_before: bool = False
    strips_after: bool = False


def around_markers(text: str, markers: Sequence[Marker]) -> Iterator[str]:
    """Split a text into what is between markers, and the markers; before a marker and after it may always be cut.

    Args:
        markers: the longest first, in which order llama.cpp looks for them (`tokenizer_st_partition`).
    """
    parts = [(text, False)]
    for marker in markers:
        if marker.text in text:
            parts = [found for part, is_marker in parts
                     for found in ([(part, True)] if is_marker else _around(part, marker))]
    return (part for part, _ in parts if part)


def _around(text: str, marker: Marker) -> Iterator[tuple[str, bool]]:
    """Yield what is between the places of a marker, and the marker with the blanks that it takes along (True)."""
    at = 0
    while (found := text.find(marker.text, at)) >= 0:
        end = found + len(marker.text)
        begin = len(text[at:found].rstrip(_STRIPPED)) + at if marker.strips_before else found
        if marker.strips_after:
            blanks = _BLANKS_AFTER.match(text, end)
            assert blanks is not None
            end = blanks.end()
        yield text[at:begin], False
        yield text[begin:end], True
        at = end
    yield text[at:], False
