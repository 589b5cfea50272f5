"""A call as a model is asked it, and how its answer is read: by the model's chat template, whatever engine computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mayfly.errors import InvalidRequest
from mayfly.models.call_forms import HERMES
from mayfly.prompts.answer_reader import AnswerReader
from mayfly.prompts.call_grammar import Answers
from mayfly.prompts.form_words import with_form_told
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment
from mayfly.prompts.template import ChatTemplate
from mayfly.prompts.tool_words import in_words
from mayfly.wire.calls import CompletionCall, Form, Sampling, Tool


@dataclass(frozen=True)
class Answering:
    """What is known of an answer before it is made.

    Attributes:
        sampling: how it is sampled, with the form that it is held to.
        reader: tells what it says.
        turn_marks: the texts that end it because the next turn begins with them: for models that mark their turns with
            text ("### Human:") and not with tokens.
    """

    sampling: Sampling
    reader: AnswerReader = field(default_factory=AnswerReader)
    turn_marks: Sequence[str] = ()


class Chat:
    """How conversations with one model are written, and its answers read.

    Args:
        template: of its prompts.
        marks: those of `call_forms.MARKS` that are control tokens of its vocabulary, with their ids.
    """

    def __init__(self, template: ChatTemplate | PromptForm, marks: Mapping[str, int]) -> None:
        self._template = template
        self._marks = marks

    def segments(self, call: CompletionCall) -> list[Segment]:
        """Put a call's messages into the template, and its tools, or take its bare text."""
        if call.text is not None:
            return [Segment(call.text, special=False)]
        tools = call.tools if call.tool_choice != "none" else ()
        messages = with_form_told(call.messages, call.sampling.form)
        if self._template.tells_of_tools:
            return self._template.render(messages, tools, call.template_kwargs)
        return self._template.render(in_words(messages, tools), variables=call.template_kwargs)

    def answering(self, call: CompletionCall, segments: Sequence[Segment]) -> Answering:
        """Return how a call is answered.

        Args:
            segments: its prompt.

        Raises:
            InvalidRequest: the model's form of calls has no place for the parameters of a tool.
        """
        if call.text is not None:
            return Answering(call.sampling)
        marks = self._template.turn_marks
        form = self._template.form if self._template.tells_of_tools else None
        thought, tools, schema, param = self._template.thought, _callable(call), "", ""
        end = segments[-1] if segments else Segment("", special=False)
        inside = thought is not None and end.special and end.text.rstrip().endswith(thought.open)
        if call.sampling.form is not None:
            if call.sampling.form.kind != "json_schema":
                if tools:
                    raise InvalidRequest(f"'{call.sampling.form.param}' has to be left out where there are tools, or "
                                         "'tool_choice' has to be \"none\".", param=call.sampling.form.param)
                # It is held to its form from the first letter on.
                return Answering(call.sampling, turn_marks=marks)
            schema, param = call.sampling.form.text, call.sampling.form.param
        required = call.tool_choice not in ("auto", "none")
        answers = Answers(form or HERMES, tools, required=required, several=call.parallel_tool_calls, thought=thought,
                          inside=inside, schema=schema, marks=self._marks)
        reader = AnswerReader(thought, inside=inside, form=answers.form, names=[tool.name for tool in tools],
                              only_calls=required and bool(tools))
        if not tools and not (schema and thought):
            return Answering(call.sampling, reader, marks)
        held = Form("lark", answers.grammar(), "tools" if tools else param, tuple(tool.name for tool in tools))
        return Answering(replace(call.sampling, form=held), reader, marks)


def _callable(call: CompletionCall) -> Sequence[Tool]:
    kind, _, name = call.tool_choice.partition(":")
    if kind == "none":
        return ()
    return [tool for tool in call.tools if name in ("", tool.name)]
