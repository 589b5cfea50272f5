"""From a call to a prompt, for the engines that read GGUF files: by the file's template, or by the form that stands
instead of it; and which tokens end a turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mayfly.models.dialects import dialect_of, end_ids
from mayfly.models.header import Header
from mayfly.prompts.form_words import with_form_told
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment, without_bos, without_doubled_blanks
from mayfly.prompts.template import ChatTemplate
from mayfly.wire.calls import CompletionCall


class Prompting:
    """How the prompts of one model are written.

    Args:
        form: how they are, instead of by the file's template.
        ids: gives the ids that are evaluated for a prompt.
    """

    def __init__(self, header: Header, form: PromptForm | None, ids: Callable[[Sequence[Segment]], Sequence[int]]
                 ) -> None:
        source = header.chat_template or dialect_of(header.architecture, header.pieces).template
        self._template = form or ChatTemplate(source, bos_token=header.bos_token or "",
                                              eos_token=header.eos_token or "")
        self._ids = ids
        # The file may leave it to the kind of its vocabulary whether a prompt begins with the bos token; what one
        # really begins with says it.
        begins_with_bos = list(ids([Segment("Hello", special=True)])[:1]) == [header.bos_id]
        self._superfluous_bos = (header.bos_token or "") if begins_with_bos else ""
        plain = self._x_after("\n")
        # In SentencePiece vocabularies a blank is put after a control token, unless the file asks for none.
        self._blank_follows = frozenset(piece for piece in header.pieces if self._x_after(piece) != plain)

    def prompt(self, call: CompletionCall) -> Sequence[Segment]:
        """Put a call's messages into the model's template (or take its bare text)."""
        if call.text is not None:
            return [Segment(call.text, special=False)]
        messages = with_form_told(call.messages, call.sampling.form)
        segments = without_bos(self._template.render(messages), self._superfluous_bos)
        return without_doubled_blanks(segments, self._blank_follows)

    def turn_marks(self, call: CompletionCall) -> Sequence[str]:
        """Return the texts that end an answer because the next turn begins with them."""
        return () if call.text is not None else self._template.turn_marks

    def _x_after(self, text: str) -> Sequence[int]:
        before = [Segment(text, special=True)]
        return self._ids([*before, Segment("x", special=False)])[len(self._ids(before)):]


def turn_ends(header: Header) -> frozenset[int]:
    """Return the ids of all tokens by which a model ends its turn: those that the file names, and those that are known
    by their texts."""
    named = {number for number in (header.eos_id, header.eot_id, header.eom_id) if number is not None}
    return end_ids(header.pieces) | named
