"""How models write calls of tools, and what they think before they answer: by what their chat templates say.

The forms are those of the families' documentation. A call is written in one of them by a model that was trained so, and
its template writes earlier ones likewise; a model whose template knows no tools is told of the first form in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CallForm:
    """A way to write calls.

    A pattern is a text with @ where the tool's name stands, and # where an id does; blanks and line ends in it may be
    left out. The arguments follow it: those of a JSON object from the brace on with which the pattern ends, those of
    keywords up to the parenthesis that closes. Of several patterns the first one is what a model is held to.

    Attributes:
        name: by which it is shown.
        declared: an expression that is found in the templates of those who write so.
        begin: patterns with which a call begins.
        end: with which it ends, after its arguments.
        more: with which another one follows instead.
        anywhere: a call may follow a text, or another call; else it is the whole answer.
        keywords: the arguments are written as Python's keywords.
        id_length: letters and digits that the id of an earlier call has to have; 0 leaves it as it is.
    """

    name: str
    declared: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    more: tuple[str, ...] = ()
    anywhere: bool = False
    keywords: bool = False
    id_length: int = 0


_ARGUMENTS = '{"name": "@", "arguments": {'
_PARAMETERS = '{"name": "@", "parameters": {'

HERMES = CallForm("hermes", "<tool_call>(?!.*(<function=|<arg_key>))", ("<tool_call>\n" + _ARGUMENTS,),
                  ("}\n</tool_call>",), anywhere=True)
#: In this order they are looked for.
FORMS = (
    CallForm("function tags", "<function=(?!.*<parameter=)", ("<function=@>{",), ("</function>",), anywhere=True),
    CallForm("mistral, with ids", r"\[TOOL_CALLS\].*\[CALL_ID\]", ("[TOOL_CALLS]@[CALL_ID]#[ARGS]{",), ("",),
             anywhere=True, id_length=9),
    CallForm("mistral, without a list", r"\[TOOL_CALLS\].*\[ARGS\]", ("[TOOL_CALLS]@[ARGS]{",), ("",), anywhere=True,
             id_length=9),
    CallForm("mistral", r"\[TOOL_CALLS\]", (f"[TOOL_CALLS] [{_ARGUMENTS}",), ("}]", ', "id": "#"}]'),
             ("}, " + _ARGUMENTS, ', "id": "#"}, ' + _ARGUMENTS), anywhere=True, id_length=9),
    HERMES,
    CallForm("llama", r'\{"name": [^{}]*"parameters": ', (_PARAMETERS, "<|python_tag|>" + _PARAMETERS), ("}",)),
    CallForm("tool code", "```tool_code", ("```tool_code\n@(",), ("\n```",), ("\n@(",), keywords=True),
    CallForm("pythonic", r"\[func_name1?\(", ("[@(",), ("]",), (", @(",), keywords=True),
    CallForm("json", r'\{"name": [^{}]*"arguments": ', (_ARGUMENTS,), ("}",)),
)

# A variable of this name, and turns of tools.
_TOOLS = re.compile(r"(?<![\w.'\"])tools\b")
_TURNS = re.compile(r"tool_calls|['\"](tool|ipython)['\"]")


def form_of(template: str | None) -> CallForm | None:
    """Return the form in which calls are written by a model with a chat template; None if that knows no tools, or
    writes calls in a form that isn't known here."""
    if not template or not _TOOLS.search(template) or not _TURNS.search(template):
        return None
    # In a template's source a text may be written with escapes.
    plain = template.replace('\\"', '"')
    return next((form for form in FORMS if re.search(form.declared, plain, re.DOTALL)), None)


@dataclass(frozen=True)
class Thought:
    """The marks around what a model thinks before it answers."""

    open: str
    close: str


THOUGHTS = (Thought("<think>", "</think>"), Thought("[THINK]", "[/THINK]"), Thought("<seed:think>", "</seed:think>"),
            Thought("<thought>", "</thought>"), Thought("<reasoning>", "</reasoning>"))


def thought_of(template: str | None) -> Thought | None:
    """Return the marks of what a model with a chat template thinks; None if the template declares none."""
    return next((thought for thought in THOUGHTS if template and thought.close in template), None)


#: Marks that may be tokens of their own.
MARKS = frozenset(
    {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|python_tag|>",
     *(mark for thought in THOUGHTS for mark in (thought.open, thought.close))})
