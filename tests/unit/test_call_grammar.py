"""What a model may answer where tools can be called: llguidance takes each grammar, and holds calls to schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from mayfly.errors import InvalidRequest
from mayfly.models.call_forms import FORMS, MARKS, THOUGHTS
from mayfly.prompts.call_grammar import Answers
from mayfly.wire.calls import Tool

FORM = {form.name: form for form in FORMS}
WEATHER = Tool("get_weather", "The weather.", json.dumps({
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"$ref": "#/$defs/days"}},
    "$defs": {"days": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}}}))
CLOCK = Tool("clock", "", '{"type": "object", "properties": {}}')
TOOLS = [WEATHER, CLOCK]
_END = 256


class _Bytes:
    """A tokenizer whose tokens are bytes, an end, and the marks."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids = (_END, *range(_END + 1, _END + 1 + len(MARKS)))
    tokens = (*(bytes([number]) for number in range(256)), b"<end>", *(mark.encode() for mark in sorted(MARKS)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


CONTROL = {mark: _END + 1 + number for number, mark in enumerate(sorted(MARKS))}


@functools.cache
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def taken(answers: Answers, *parts: str, ends: bool = True) -> bool:
    """Tell whether a text may be answered; of several parts those are tokens of their own that are among the marks."""
    grammar = answers.grammar()
    matcher = LLMatcher(tokenizer(), grammar)
    assert not matcher.is_error(), matcher.get_error() + grammar
    ids = [number for part in parts for number in ([answers.marks[part]] if answers.marks and part in answers.marks
                                                   else list(part.encode()))]
    return all(matcher.consume_token(number) for number in ids) and (not ends or matcher.is_accepting())


WHOLE = {
    "hermes": ('<tool_call>\n{"name": "get_weather", "arguments": %}\n</tool_call>', "\n"),
    "llama": ('{"name": "get_weather", "parameters": %}', None),
    "mistral": ('[TOOL_CALLS] [{"name": "get_weather", "arguments": %}]', None),
    "mistral, without a list": ("[TOOL_CALLS]get_weather[ARGS]%", ""),
    "mistral, with ids": ("[TOOL_CALLS]get_weather[CALL_ID]a12345678[ARGS]%", ""),
    "function tags": ("<function=get_weather>%</function>", ""),
    "json": ('{"name": "get_weather", "arguments": %}', None),
    "pythonic": ("[get_weather(%)]", None),
    "tool code": ("```tool_code\nget_weather(%)\n```", None),
}
GOOD = ['{"city": "Paris"}', '{"city": "Z\u00fcrich", "unit": "C", "days": [1, 2]}']
BAD = ['{"city": 5}', '{"city": "Paris", "unit": "K"}', '{"unit": "C"}', '{}', '{"city": "x", "days": [1, 2, 3]}',
       '{"city": "x", "more": 1}']
GOOD_KEYWORDS = ['city="Paris"', 'city="Z\u00fcrich", unit="C", days=[1, 2]', 'city="", days=[]']
BAD_KEYWORDS = ["city=5", 'city="Paris", unit="K"', 'unit="C"', "", 'city="x", days=[1, 2, 3]', 'city="x", more=1',
                '"x"']


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_a_call_is_held_to_the_schema_of_its_tool(name: str, required: bool) -> None:
    answers = Answers(FORM[name], TOOLS, required=required)
    form, between = WHOLE[name]
    keywords = FORM[name].keywords
    for arguments in GOOD_KEYWORDS if keywords else GOOD:
        assert taken(answers, form.replace("%", arguments))
    for arguments in BAD_KEYWORDS if keywords else BAD:
        assert not taken(answers, form.replace("%", arguments))
    call = form.replace("%", GOOD_KEYWORDS[0] if keywords else GOOD[0])
    assert taken(answers, call.replace("get_weather", "clock").replace(GOOD_KEYWORDS[0] if keywords else GOOD[0],
                                                                       "" if keywords else "{}"))
    assert not taken(answers, call + " and more")
    assert not taken(answers, call[:-1])
    if between is not None:
        assert taken(answers, call + between + call)
        assert not taken(Answers(FORM[name], TOOLS, required=required, several=False), call + between + call)


@pytest.mark.parametrize("name", WHOLE)
def test_a_text_is_free_unless_a_tool_has_to_be_called(name: str) -> None:
    free, bound = Answers(FORM[name], TOOLS), Answers(FORM[name], TOOLS, required=True)
    for text in ("", "Hello.\n", '{"a": 1}', "[1, 2]", "<tool", "```python\nget_weather()\n```", "call [TOOL"):
        assert taken(free, text)
        assert not taken(bound, text)
    call = WHOLE[name][0].replace("%", GOOD_KEYWORDS[0] if FORM[name].keywords else GOOD[0])
    assert taken(free, "Well, " + call)
    assert taken(free, "Well, " + call.replace("Paris", "").replace('"', "'")) != FORM[name].anywhere


def test_marks_that_are_tokens_are_written_as_such() -> None:
    marks = {mark: CONTROL[mark] for mark in ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")}
    answers = Answers(FORM["mistral, without a list"], TOOLS, marks=marks, thought=THOUGHTS[1])
    assert taken(answers, "[THINK]", "Hm", "[/THINK]", "Well", "[TOOL_CALLS]", "clock", "[ARGS]", "{}")
    assert taken(answers, "[TOOL_CALLS]", "clock", "[ARGS]", "{}", "[TOOL_CALLS]", "clock", "[ARGS]", "{}")
    assert not taken(answers, "[TOOL_CALLS]", "clock", "{}")
    assert not taken(answers, "[TOOL_CALLS]", "clock[ARGS]", "{}")


@pytest.mark.parametrize("name", ["hermes", "llama", "pythonic"])
@pytest.mark.parametrize("required", [True, False])
def test_what_is_thought_before_is_free(name: str, required: bool) -> None:
    call = WHOLE[name][0].replace("%", GOOD_KEYWORDS[0] if FORM[name].keywords else GOOD[0])
    wrong = call.replace('"Paris"', "5")
    thinks = Answers(FORM[name], TOOLS, required=required, thought=THOUGHTS[0])
    assert taken(thinks, f"<think>I could {wrong} or not.\n</think>\n\n{call}")
    assert taken(thinks, call)
    assert not taken(thinks, f"<think>Hm</think>{wrong}")
    inside = Answers(FORM[name], TOOLS, required=required, thought=THOUGHTS[0], inside=True)
    assert taken(inside, f"Hm {wrong}</think>\n\n{call}")
    assert taken(inside, "Hm </think>Hello") != required
    assert not taken(inside, f"Hm </think>{wrong}")


def test_a_tool_without_parameters_has_no_arguments_and_one_that_allows_any_has_what_it_wants() -> None:
    call = WHOLE["hermes"][0].replace("get_weather", "clock")
    assert not taken(Answers(FORM["hermes"], TOOLS), call.replace("%", '{"a": 1}'))
    free = Tool("clock", "", '{"type": "object", "properties": {}, "additionalProperties": true}')
    for tool in (free, Tool("clock", "", "{}")):
        assert taken(Answers(FORM["hermes"], [tool]), call.replace("%", '{"a": 1}'))


def test_a_text_that_is_held_to_a_schema_may_be_a_call_instead() -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    answers = Answers(FORM["hermes"], TOOLS, schema=schema, thought=THOUGHTS[0])
    assert taken(answers, '{"a": 1}') and taken(answers, '<think>Hm</think>\n{"a": 1}')
    assert taken(answers, WHOLE["hermes"][0].replace("%", GOOD[0]))
    assert not taken(answers, "Hello") and not taken(answers, '{"a": "x"}')


@pytest.mark.parametrize("schema", [
    {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}, {"properties": {"not a name": {}}},
])
def test_parameters_that_keywords_cannot_be_held_to_are_refused(schema: dict[str, object]) -> None:
    tools: Sequence[Tool] = [Tool("odd", "", json.dumps(schema))]
    with pytest.raises(InvalidRequest, match="odd"):
        Answers(FORM["pythonic"], tools).grammar()
    assert Answers(FORM["llama"], tools).grammar()
