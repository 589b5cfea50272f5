"""Models that are split over several files: NAME-00001-of-00003.gguf and so on, as llama.cpp's gguf-split writes them.

Such a model is known by its first part, which is the file that an engine is told to open; llama.cpp finds the others
by that part's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FORM = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """What a file's name says of the model that it is a part of.

    Attributes:
        model: the name that all parts begin with.
        number: of this part, from 1.
        count: how many parts there are.
    """

    model: str
    number: int
    count: int

    def name(self, number: int) -> str:
        """Return the name of another part."""
        return f"{self.model}-{number:05d}-of-{self.count:05d}.gguf"


def part(name: str) -> Part | None:
    """Return what a file's name says of the parts of its model; None if it is the name of a whole one."""
    found = _FORM.fullmatch(name)
    if found is None:
        return None
    number, count = int(found["number"]), int(found["count"])
    return Part(found["model"], number, count) if 1 <= number <= count else None


def files(path: Path) -> Iterator[Path]:
    """Yield the files of the model that is opened by `path`, whether they are there or not: that one first."""
    yield path
    of = part(path.name)
    if of is not None and of.number == 1:
        for number in range(2, of.count + 1):
            yield path.with_name(of.name(number))


Mark = tuple[tuple[int, int, int, int], ...]


def mark(path: Path) -> Mark:
    """Return what tells the files of a model from others at the same place: where, how large, and since when they are.

    It ends before the first part that is missing; it is empty if there is no such file at all.
    """
    marks = []
    for file in files(path):
        try:
            found = os.stat(file)
        except OSError:
            break
        marks.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(marks)
