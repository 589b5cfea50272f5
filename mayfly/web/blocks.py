"""An answer in blocks, for the forms of answers that keep apart what a model thinks, says and calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from mayfly.wire.calls import Completion, Piece, ScoredToken, ToolDelta

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of an answer.

    Attributes:
        number: which of the answer's blocks it is, from 0.
        text: so far; of a call its arguments, JSON text.
        call_id, name: of a call.
        tokens: those of the text, where they are asked for.
    """

    number: int
    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """What becomes of a block: it begins, gets more text, or ends."""

    what: Literal["begin", "more", "end"]
    block: Block
    text: str = ""
    tokens: tuple[ScoredToken, ...] = ()


class Blocks:
    """The blocks of one answer, as they come; one at a time is open."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: tuple[Kind, int] | None = None

    @classmethod
    def of(cls, made: Completion) -> list[Block]:
        """Return those of an answer that is whole."""
        calls = tuple(ToolDelta(index, call.id, call.name, call.arguments)
                      for index, call in enumerate(made.tool_calls))
        blocks = cls()
        for _ in blocks.steps(Piece(made.text, made.tokens, made.reasoning, calls)):
            pass
        return blocks.all

    def steps(self, piece: Piece) -> Iterator[Step]:
        """Take a piece; yield what becomes of the blocks by it."""
        if piece.reasoning:
            yield from self._more("reasoning", 0, piece.reasoning)
        if piece.text or piece.tokens:
            yield from self._more("text", 0, piece.text, piece.tokens)
        for delta in piece.tool_calls:
            yield from self._more("call", delta.index, delta.arguments, call=delta)

    def nothing(self) -> Iterator[Step]:
        """Take that the answer is empty: its text is."""
        yield from self._more("text", 0, "")

    def end(self) -> Iterator[Step]:
        """Take the end of the answer; yield what becomes of the block that is open."""
        if self._open is not None:
            self._open = None
            yield Step("end", self.all[-1])

    def _more(self, kind: Kind, index: int, text: str, tokens: tuple[ScoredToken, ...] = (),
              call: ToolDelta | None = None) -> Iterator[Step]:
        if self._open != (kind, index):
            yield from self.end()
            self._open = (kind, index)
            block = Block(len(self.all), kind)
            if call is not None:
                block.call_id, block.name = call.id, call.name
            self.all.append(block)
            yield Step("begin", block)
        block = self.all[-1]
        block.text += text
        block.tokens.extend(tokens)
        if text or tokens:
            yield Step("more", block, text, tokens)
