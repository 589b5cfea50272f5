"""Patterns of calls, found in a text of which only the beginning may have come; and where arguments end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: What has come may be the beginning of what is looked for.
PARTLY: Literal["partly"] = "partly"

_PARTS = re.compile(r"\s+|@|#|[^\s@#]+")
_BLANKS = re.compile(r"\s*")
_ID = re.compile(r"[A-Za-z0-9_-]*")
# A gap of more blanks is no part of a call.
_MOST_BLANKS = 64


def split(pattern: str) -> list[str]:
    """Return the parts of a pattern: texts, blanks, "@" and "#"."""
    return _PARTS.findall(pattern)


@dataclass(frozen=True)
class Found:
    """Where a pattern was found: it ends before the character `end`; `name` is the tool's, or ""."""

    end: int
    name: str = ""


def match(pattern: str, text: str, at: int, names: Sequence[str]) -> Found | Literal["partly"] | None:
    """Look for a pattern at one place of a text.

    Args:
        names: of the tools.

    Returns:
        None if it isn't there, whatever may follow.
    """
    name = ""
    for part in split(pattern):
        if part.isspace():
            found = _BLANKS.match(text, at)
            assert found is not None
            if found.end() - at > _MOST_BLANKS:
                return None
            at = found.end()
        elif part == "#":
            found = _ID.match(text, at)
            assert found is not None
            if found.end() == len(text):
                return PARTLY
            at = found.end()
        else:
            # Of names that begin alike the longest is meant; which one it is shows by what follows.
            texts = sorted(names, key=len, reverse=True) if part == "@" else [part]
            rest = text[at:at + max(map(len, texts))]
            if any(len(rest) < len(each) and each.startswith(rest) for each in texts):
                return PARTLY
            meant = next((each for each in texts if rest.startswith(each)), None)
            if meant is None:
                return None
            name = meant if part == "@" else name
            at += len(meant)
    return Found(at, name)


def first(patterns: Iterable[str], text: str, names: Sequence[str]) -> tuple[int, Found | Literal["partly"]] | None:
    """Return where the first of some patterns stands in a text, or may stand; None if no part of the text can belong to
    one."""
    found = [place for place in (_first(pattern, text, names) for pattern in patterns) if place is not None]
    return min(found, key=lambda place: place[0], default=None)


def _first(pattern: str, text: str, names: Sequence[str]) -> tuple[int, Found | Literal["partly"]] | None:
    head = split(pattern)[0]
    at = text.find(head)
    while at >= 0:
        found = match(pattern, text, at, names)
        if found is not None:
            return at, found
        at = text.find(head, at + 1)
    length = overlap(text, head)
    return (len(text) - length, PARTLY) if length else None


def overlap(text: str, mark: str) -> int:
    """Return the length of the longest end of a text with which a mark begins."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


class Nesting:
    """Finds the bracket that closes what has been opened before, in a text that comes in parts.

    Args:
        quotes: what texts stand between, in which brackets mean nothing.
    """

    def __init__(self, quotes: str) -> None:
        self._outside = re.compile(f"[{quotes}\\[\\](){{}}]")
        self._inside = {quote: re.compile(rf"\\|{quote}") for quote in quotes}
        self._quote = ""
        self._escaped = False
        self._depth = 1

    @property
    def level(self) -> int:
        """How many brackets are open, with that one; 0 within a text."""
        return 0 if self._quote else self._depth

    def end(self, text: str) -> int | None:
        """Return where it ends in the next part of the text, after the bracket; None if it goes on behind it."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (self._inside[self._quote] if self._quote else self._outside).search(text, at)
            if found is None:
                return None
            at = found.end()
            mark = found[0]
            if mark == "\\":
                self._escaped = True
            elif self._quote or mark in self._inside:
                self._quote = "" if self._quote else mark
            else:
                self._depth += 1 if mark in "[({" else -1
                if not self._depth:
                    return at
        return None
