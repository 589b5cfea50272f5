"""What in `.env` and the environment is no setting, though whoever wrote it believes that it does something."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mayfly import settings
from mayfly.errors import SettingError

# How alike a name and a setting's are for one to be meant by the other (difflib's ratio). The environment is full of
# other programs' names.
_ALIKE = 0.75
_ALIKE_IN_ENVIRONMENT = 0.85
_LONGEST_SHOWN = 64


@dataclass(frozen=True)
class Doubt:
    """A name, several of them, or a line without effect.

    Attributes:
        message: says where it is; the value, which may be a key, isn't in it.
        misspelt: whether it is nearly a setting, which is a fault; otherwise it may be there for others.
    """

    message: str
    misspelt: bool


def doubts(environ: Mapping[str, str] | None = None) -> list[Doubt]:
    """Look through `.env` for names that aren't settings, and through the environment for such that nearly are.

    Raises:
        SettingError: `.env` can't be read.
    """
    environ = os.environ if environ is None else environ
    file = settings.env_file(environ)
    found, others = _misspelt(settings.written(environ), str(file), _ALIKE)
    found.extend(Doubt(f"{file}, line {line}: this isn't NAME=VALUE and has no effect", True)
                 for line in settings.lines_without_value(environ))
    if others:
        found.append(Doubt(f"{file} sets what is no setting and has no effect here: {', '.join(others)}", False))
    return found + _misspelt(environ, "the environment", _ALIKE_IN_ENVIRONMENT)[0]


def messages() -> list[str]:
    """Return what a start has to say about such names; nothing if `.env` can't be read, which is said elsewhere."""
    with contextlib.suppress(SettingError):
        return [doubt.message for doubt in doubts()]
    return []


def _misspelt(names: Iterable[str], where: str, alike: float) -> tuple[list[Doubt], list[str]]:
    """Return the doubts about names that nearly are settings', and the other names that are none."""
    known = {_letters(name): name for name in settings.names()}
    found: list[Doubt] = []
    others = []
    for name in names:
        if name in known.values():
            continue
        short = name[:_LONGEST_SHOWN]
        shown = short if short.replace("-", "_").isidentifier() else repr(short)
        near = difflib.get_close_matches(_letters(short), known, 1, alike)
        if near:
            found.append(Doubt(f"{where} sets {shown}, which is no setting and has no effect: is {known[near[0]]} "
                               "meant?", True))
        else:
            others.append(shown)
    return found, others


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
