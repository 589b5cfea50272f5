"""From a call to a prompt, for the engines that read GGUF files: by the file's template, or by the form that stands
instead of it; and which tokens end a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mayfly.models.dialects import dialect_of, end_ids
from mayfly.models.header import Header
from mayfly.prompts.chat import Answering, Chat
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment, without_bos, without_doubled_blanks
from mayfly.prompts.template import ChatTemplate
from mayfly.wire.calls import CompletionCall


class Prompting:
    """How the prompts of one model are written, and its answers read.

    Args:
        form: how they are, instead of by the file's template.
        ids: gives the ids that are evaluated for a prompt.
        marks: control tokens that the engine shows as their texts; see Chat.
    """

    def __init__(self, header: Header, form: PromptForm | None, ids: Callable[[Sequence[Segment]], Sequence[int]],
                 marks: Mapping[str, int] | None = None) -> None:
        source = header.chat_template or dialect_of(header.architecture, header.pieces).template
        self._chat = Chat(form or ChatTemplate(source, bos_token=header.bos_token or "",
                                               eos_token=header.eos_token or ""), marks or {})
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
        segments = self._chat.segments(call)
        if call.text is not None:
            return segments
        return without_doubled_blanks(without_bos(segments, self._superfluous_bos), self._blank_follows)

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """Return how a call with this prompt is answered; see Chat."""
        return self._chat.answering(call, segments)

    def _x_after(self, text: str) -> Sequence[int]:
        before = [Segment(text, special=True)]
        return self._ids([*before, Segment("x", special=False)])[len(self._ids(before)):]


def turn_ends(header: Header) -> frozenset[int]:
    """Return the ids of all tokens by which a model ends its turn: those that the file names, and those that are known
    by their texts."""
    named = {number for number in (header.eos_id, header.eot_id, header.eom_id) if number is not None}
    return end_ids(header.pieces) | named
