"""The ways in which the turns of a conversation may be arranged, for templates that refuse it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mayfly.wire.calls import Role


@dataclass(frozen=True)
class Turn:
    """A turn as the template is shown it: the texts of some messages, by their indices."""

    role: Role
    texts: tuple[int, ...]


def arrangements(plain: list[Turn]) -> Iterator[list[Turn]]:
    """Yield the turns as they are, and then in the ways that a template may accept instead."""
    tried: list[list[Turn]] = []
    for folded in (_unchanged, later_folded, _folded):
        for paired in (_unchanged, _paired):
            for run in (_unchanged, _run_together):
                turns = run(folded(paired(plain)))
                if turns not in tried:
                    tried.append(turns)
                    yield turns


def _unchanged(turns: list[Turn]) -> list[Turn]:
    return turns


def _paired(turns: list[Turn]) -> list[Turn]:
    """Put an empty prompt before an answer that none comes before."""
    first = first_said(turns)
    if first < len(turns) and turns[first].role == "assistant":
        return [*turns[:first], Turn("user", ()), *turns[first:]]
    return turns


def _run_together(turns: list[Turn]) -> list[Turn]:
    """Make one turn of those of one role in a row."""
    together: list[Turn] = []
    for turn in turns:
        # Each result of a tool has a call of its own.
        if together and together[-1].role == turn.role != "tool":
            turn = Turn(turn.role, together.pop().texts + turn.texts)
        together.append(turn)
    return together


def later_folded(turns: list[Turn]) -> list[Turn]:
    """Put system texts into the prompt that follows them, but for those with which the conversation begins."""
    first = first_said(turns)
    return [*turns[:first], *_folded(turns[first:])]


def _folded(turns: list[Turn]) -> list[Turn]:
    """Put system texts into the prompt that follows them."""
    folded: list[Turn] = []
    waiting: tuple[int, ...] = ()
    for turn in turns:
        if turn.role == "system":
            waiting += turn.texts
        elif turn.role == "user":
            folded.append(Turn("user", waiting + turn.texts))
            waiting = ()
        else:
            folded.append(turn)
    return [*folded, Turn("user", waiting)] if waiting else folded


def first_said(turns: list[Turn]) -> int:
    return next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
