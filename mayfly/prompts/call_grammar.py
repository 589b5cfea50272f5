"""The grammar of an answer in which tools may be called: free text up to a call, which is held to its schema.

It is written in llguidance's dialect of Lark. What a thought holds is free too, and nothing in it is a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mayfly.errors import InvalidRequest
from mayfly.models.call_forms import CallForm, Thought
from mayfly.prompts.call_patterns import split
from mayfly.wire.calls import Tool

# A small model would go on calling until the window is full.
_MOST_MORE = 15
_ANYTHING = r"(.|\n)*"
# What a pattern's beginning has to have so that a text isn't taken for a call by chance.
_TELLING = 4
#: How JSON is written, as llguidance is told: as Python does it, which models have seen in their training. With blanks
#: of any number allowed, a small one may write them without end.
WRITTEN: Any = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
# What the schema of arguments may say that are written as keywords.
_OF_KEYWORDS = frozenset(("type", "properties", "required", "additionalProperties", "description", "title", "$schema"))
_SHARED = ("$defs", "definitions")


@dataclass(frozen=True)
class Answers:
    """What answers there may be.

    Attributes:
        form: how calls are written.
        tools: those that may be called; without any there are only texts.
        required: one has to be called.
        several: several calls may follow one another.
        thought: the marks of what comes before; None if nothing does.
        inside: the prompt ends within a thought.
        schema: what a text has to be, as a JSON schema; "" is any text.
        marks: the texts that are tokens of their own, with the ids of these.
    """

    form: CallForm
    tools: Sequence[Tool]
    required: bool = False
    several: bool = True
    thought: Thought | None = None
    inside: bool = False
    schema: str = ""
    marks: Mapping[str, int] | None = None

    def grammar(self) -> str:
        """Return the grammar.

        Raises:
            InvalidRequest: a tool's parameters can't be written in this form.
        """
        rules = ["%llguidance {}", f"start: {self._thought()}BLANKS ({self._body()})", self._text(),
                 f"THOUGHT: /{_ANYTHING}/", r"BLANKS: /\s{0,4}/"]
        if self.thought is not None:
            rules.append(self._up_to("thought", "THOUGHT", self.thought.close))
        if self.tools:
            rules += self._calls()
        return "\n".join(rules) + "\n"

    # -- texts and thoughts -----------------------------------------------------------------------------------

    def _thought(self) -> str:
        if self.thought is None:
            return ""
        return "thought " if self.inside else f"(BLANKS {self._literal(self.thought.open)} thought)? "

    def _body(self) -> str:
        if not self.tools:
            return "text"
        if self.required:
            return "begun calls"
        # A text up to a call is as free as one without.
        return "text | up_to_call calls" if self._head() and not self.schema else "text | begun calls"

    def _text(self) -> str:
        if self.schema:
            return f"text: %json {_held(self.schema)}"
        barred = [] if self.thought is None else [_escaped(self.thought.open)]
        if self.tools and not self._head():
            barred += self._beginnings()
        # Of what may come in one place the longest is taken, so a text must not go on where something else begins.
        without = f" & ~/({'|'.join(barred)}){_ANYTHING}/" if barred else ""
        return "text: TEXT\n" + rf"TEXT: /(\S{_ANYTHING})?/{without}"

    def _beginnings(self) -> list[str]:
        """Return expressions for what no text may begin with, because a call does."""
        first, *others = split(self.form.begin[0])
        if len(first) >= _TELLING:
            return [_escaped(first)]
        return [_escaped(first + tool.name + others[1]) for tool in self.tools]

    def _up_to(self, rule: str, terminal: str, mark: str) -> str:
        """Return a rule for all that comes before a mark, and the mark."""
        lazy = "" if mark in (self.marks or {}) else "[lazy]"
        return f"{rule}{lazy}: {terminal} {self._literal(mark)}"

    # -- calls ------------------------------------------------------------------------------------------------

    def _head(self) -> str:
        """Return with what a call begins, whichever tool it calls, where texts may come before."""
        return split(self.form.begin[0])[0] if self.form.anywhere else ""

    def _calls(self) -> list[str]:
        form, head = self.form, self._head()
        opened = form.begin[0].removeprefix(head)
        end = self._pattern(form.end[0])
        calls = f"opened {end}"
        rules = [f"begun: {self._literal(head)}", f"opened: {self._alternatives(opened)}"]
        if head and not self.required and not self.schema:
            rules.append(self._up_to("up_to_call", "TEXT", head))
        if self.several and form.more:
            calls = f"opened again{{0,{_MOST_MORE}}} {end}"
            rules.append(f"again: {self._alternatives(form.more[0])}")
        elif self.several and form.anywhere:
            calls += rf" (/\n?/ begun opened {end}){{0,{_MOST_MORE}}}"
        rules.append(f"calls: {calls}")
        for number, tool in enumerate(self.tools):
            rules += self._arguments(number, tool)
        return rules

    def _alternatives(self, pattern: str) -> str:
        opened = pattern if self.form.keywords else pattern.removesuffix("{")
        return " | ".join(f"{self._pattern(opened.replace('@', tool.name))} arguments_{number}"
                          for number, tool in enumerate(self.tools))

    def _pattern(self, pattern: str) -> str:
        parts = (r"/\n?/" if part == "\n" else "/ ?/" if part == " " else "/[A-Za-z0-9]{9}/" if part == "#" else
                 self._literal(part) for part in split(pattern))
        return " ".join(parts)

    def _literal(self, text: str) -> str:
        marks = self.marks or {}
        if not text:
            return ""
        parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
        return " ".join(f"<[{marks[part]}]>" if part in marks else json.dumps(part, ensure_ascii=False)
                        for part in parts if part)

    def _arguments(self, number: int, tool: Tool) -> list[str]:
        schema = json.loads(tool.parameters)
        rule = f"arguments_{number}"
        if self.form.keywords:
            return _keywords(rule, tool.name, schema)
        return [f"{rule}: %json {_held(json.dumps(_closed(schema)))}"]


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _held(schema: str) -> str:
    return json.dumps({**json.loads(schema), "x-guidance": WRITTEN})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of arguments that says what is meant: an object, without properties that nobody has named."""
    closed = {"type": "object", **schema}
    if "properties" in schema and "patternProperties" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _keywords(rule: str, name: str, schema: dict[str, Any]) -> list[str]:
    """Return the rules of arguments that are written as keywords, with the parenthesis that closes them."""
    properties = schema.get("properties", {})
    strange = next((key for key in schema if key not in _OF_KEYWORDS and key not in _SHARED), None)
    strange = strange or next((key for key in properties if not key.isidentifier()), None)
    if strange is not None:
        raise InvalidRequest(f"'tools' has to have simpler parameters for {name}: this model writes arguments as "
                             "keywords, so only 'properties' and 'required' can be held to.", param="tools")
    shared = {key: schema[key] for key in _SHARED if key in schema}
    required = frozenset(schema.get("required", ()))
    rules = []
    # `first` is what may come where nothing has, `later` where something has.
    first = later = '")"'
    for index, (key, value) in reversed(list(enumerate(properties.items()))):
        own = {**value, **shared} if isinstance(value, dict) else value
        held = _held(json.dumps(own)) if isinstance(own, dict) else json.dumps(own)
        rules += [f"{rule}_value_{index}: %json {held}",
                  f"{rule}_first_{index}: {json.dumps(key + '=')} {rule}_value_{index} {later}"
                  + ("" if key in required else f" | {first}"),
                  f"{rule}_later_{index}: {json.dumps(', ' + key + '=')} {rule}_value_{index} {later}"
                  + ("" if key in required else f" | {later}")]
        first, later = f"{rule}_first_{index}", f"{rule}_later_{index}"
    return [f"{rule}: {first}", *rules]
