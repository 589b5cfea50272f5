"""PROMPT_TEMPLATE and SYSTEM_TEMPLATE: a conversation written in gpt4all's form, with %1 for what is said.

gpt4all (`GPT4All.chat_session`, `LLModel::prompt`) evaluates a system text once, and then, for each prompt, the
template up to %1, the prompt, the template from there to %2 (or to its end), the answer, and what follows %2; a blank
line where there is no %2. So it is here, only that the system text has a template too, since it comes from a caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mayfly.models.call_forms import CallForm, thought_of
from mayfly.prompts.segments import Segment, lay_out
from mayfly.prompts.turn_marks import turn_marks
from mayfly.wire.calls import Message, Tool

_PLACEHOLDER = re.compile(r"%[12](?![0-9])")
# gpt4all's own, where a template has no %2.
_AFTER_AN_ANSWER = "\n\n"


class PromptForm:
    """Prompts by templates in gpt4all's form.

    Args:
        prompt: a turn of the user and the assistant's answer: %1, and then %2 or not; the settings refuse others.
        system: a system text, with %1 where it goes; "" puts it first, with a blank line after it.
    """

    def __init__(self, prompt: str, system: str) -> None:
        parts = _PLACEHOLDER.split(prompt)
        self._before, self._between = parts[0], parts[1]
        self._after = parts[2] if len(parts) > 2 else _AFTER_AN_ANSWER
        self._before_system, self._after_system = _PLACEHOLDER.split(system or "%1" + _AFTER_AN_ANSWER)[:2]
        self.turn_marks = turn_marks(prompt + system)
        self.form: CallForm | None = None
        self.thought = thought_of(prompt)
        self.tells_of_tools = False

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (),
               variables: Mapping[str, Any] | None = None) -> list[Segment]:
        """Return the prompt for a conversation, ending where the assistant's turn begins; see ChatTemplate. There is
        no place for tools in it, nor for variables.

        A turn that lacks its other half (an answer to nothing, two prompts in a row) has it empty, as it would be in
        gpt4all.
        """
        return lay_out(self._parts(messages))

    def _parts(self, messages: Sequence[Message]) -> Iterator[Segment]:
        # Whether a prompt has been written that waits for its answer.
        asked = False
        for message in messages:
            content = Segment(message.content, special=False)
            if message.role == "assistant":
                if not asked:
                    yield Segment(self._before + self._between, special=True)
                yield content
                yield Segment(self._after, special=True)
                asked = False
                continue
            if asked:
                yield Segment(self._after, special=True)
                asked = False
            if message.role == "system":
                yield Segment(self._before_system, special=True)
                yield content
                yield Segment(self._after_system, special=True)
            else:
                yield Segment(self._before, special=True)
                yield content
                yield Segment(self._between, special=True)
                asked = True
        if not asked:
            yield Segment(self._before + self._between, special=True)
