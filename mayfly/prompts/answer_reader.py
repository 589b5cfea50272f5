"""From the text of an answer to what is said in it, what was thought before, and which tools are called."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mayfly.models.call_forms import CallForm, Thought
from mayfly.prompts import keywords
from mayfly.prompts.call_patterns import PARTLY, Found, Nesting, first, match, overlap
from mayfly.wire.calls import ToolDelta


@dataclass
class Read:
    """A part of an answer, its kinds told apart; see Piece."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.text or self.reasoning or self.calls)


class AnswerReader:
    """Reads an answer that comes in parts. However it is cut, the same comes of it.

    What begins like a call is held back until it is known whether it is one: of a tool that there is, and written as
    the model's form has it; anything else is text. Blanks around thoughts and calls belong to neither.

    Args:
        thought: the marks of what the model thinks; None if it has none.
        inside: the prompt ends within a thought.
        form: how calls are written.
        names: of the tools; without any nothing is a call.
        only_calls: it is held to calls, so that what is none is of one that was cut off, and no text.
    """

    def __init__(self, thought: Thought | None = None, *, inside: bool = False, form: CallForm | None = None,
                 names: Sequence[str] = (), only_calls: bool = False) -> None:
        self._thought = thought
        self._only_calls = only_calls
        self._form = form if names else None
        self._names = names
        self._held = ""
        self._read = Read()
        self._ends = False
        # A step takes what it can of the held text, and returns whether another one may take more.
        self._step: Callable[[], bool] = self._begin if thought is not None else self._say
        if thought is not None and inside:
            self._step = self._think
        # Blanks that come next are left out.
        self._trimmed = inside
        # Something has been said, so a form whose calls are the whole answer has none.
        self._said = False
        self._calls = 0
        self._opening = ""
        self._name = ""
        self._nesting = Nesting('"')
        self._scanned = 0

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""
        return self._calls > 0

    def feed(self, text: str) -> Read:
        """Take the next part of the text; return what it shows."""
        self._held += text
        self._read = Read()
        while self._step():
            pass
        return self._read

    def finish(self) -> Read:
        """Return what was held back, at the end of the answer."""
        self._ends = True
        return self.feed("")

    # -- what is thought --------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        assert self._thought is not None
        begun = self._held.lstrip()
        if begun.startswith(self._thought.open):
            self._held = begun[len(self._thought.open):]
            self._step, self._trimmed = self._think, True
            return True
        if self._thought.open.startswith(begun) and not self._ends:
            return False
        self._step = self._say
        return True

    def _think(self) -> bool:
        assert self._thought is not None
        self._trim()
        at = self._held.find(self._thought.close)
        if at >= 0:
            self._read.reasoning += self._held[:at].rstrip()
            self._held = self._held[at + len(self._thought.close):]
            self._step, self._trimmed = self._say, True
            return True
        keep = 0 if self._ends else overlap(self._held, self._thought.close)
        self._read.reasoning += self._take(len(self._held) - keep, trimmed=True)
        return False

    # -- what is said -----------------------------------------------------------------------------------------

    def _say(self) -> bool:
        self._trim()
        if self._form is None:
            self._tell(self._take(len(self._held)))
            return False
        place = first(self._form.begin, self._held, self._names)
        if place is not None and not self._form.anywhere and (self._said or self._held[:place[0]].strip()):
            place = None
        if place is None or (self._ends and place[1] == PARTLY):
            # After a call come others or the end: what only begins like one was cut off, and is no text.
            shown = place[0] if place is not None and self.called else len(self._held)
            # A call may follow, to which the blanks before it belong.
            self._tell(self._take(shown, trimmed=not self._ends or self.called))
            return False
        at, found = place
        self._tell(self._take(at, trimmed=True))
        if not isinstance(found, Found):
            return False
        begin = len(self._held) - len(self._held.lstrip())
        self._open(found, begin, at=found.end - at + begin)
        return True

    def _tell(self, text: str) -> None:
        if self._only_calls:
            return
        self._read.text += text
        self._said = self._said or bool(text.strip())

    # -- what is called ---------------------------------------------------------------------------------------

    def _open(self, found: Found, begin: int, at: int) -> None:
        assert self._form is not None
        self._opening, self._held = self._held[begin:at], self._held[at:]
        self._name = found.name
        self._nesting = Nesting("\"'" if self._form.keywords else '"')
        if self._form.keywords:
            self._step, self._scanned = self._keywords, 0
        else:
            self._call("{")
            self._step = self._arguments

    def _call(self, arguments: str) -> None:
        self._read.calls.append(ToolDelta(self._calls, f"call_{secrets.token_hex(12)}", self._name, arguments))
        self._calls += 1

    def _arguments(self) -> bool:
        end = self._nesting.end(self._held)
        arguments = self._take(len(self._held) if end is None else end)
        if arguments:
            self._read.calls.append(ToolDelta(self._calls - 1, "", "", arguments))
        self._step = self._arguments if end is None else self._after
        return end is not None

    def _keywords(self) -> bool:
        """Take the arguments once they are all there: only then it shows whether it is a call."""
        end = self._nesting.end(self._held[self._scanned:])
        if end is None:
            self._scanned = len(self._held)
            if self._ends:
                self._tell(self._opening + self._take(len(self._held)))
            return False
        written = self._take(self._scanned + end)
        try:
            self._call(keywords.as_json(written[:-1]))
            self._step = self._after
        except ValueError:
            self._tell(self._opening + written)
            self._step = self._say
        return True

    def _after(self) -> bool:
        """Take what follows a call's arguments, as far as it belongs to them."""
        assert self._form is not None
        more = [match(pattern, self._held, 0, self._names) for pattern in self._form.more]
        another = next((found for found in more if isinstance(found, Found)), None)
        if another is not None:
            self._open(another, 0, another.end)
            return True
        ends = [match(pattern, self._held, 0, self._names) for pattern in self._form.end]
        if PARTLY in (*more, *ends) and not self._ends:
            return False
        end = next((found for found in ends if isinstance(found, Found)), None)
        self._held = self._held[end.end if end is not None else 0:]
        self._step, self._trimmed = self._say, True
        return True

    # -- the held text ----------------------------------------------------------------------------------------

    def _trim(self) -> None:
        if self._trimmed:
            self._held = self._held.lstrip()
            self._trimmed = not self._held

    def _take(self, length: int, *, trimmed: bool = False) -> str:
        """Take so many characters of the held text, but for the blanks at their end if these are to be left."""
        text = self._held[:length].rstrip() if trimmed else self._held[:length]
        self._held = self._held[len(text):]
        return text
