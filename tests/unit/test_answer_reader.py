"""Calls and thoughts in the text of an answer: the same is read of it however it comes, and nothing else is a call."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mayfly.models.call_forms import FORMS, THOUGHTS
from mayfly.prompts import keywords
from mayfly.prompts.answer_reader import AnswerReader, Read

NAMES = ["get", "get_weather", "add-2"]
FORM = {form.name: form for form in FORMS}
THINK = THOUGHTS[0]


@dataclass
class Told:
    """All that an answer says."""

    text: str
    reasoning: str
    calls: list[tuple[str, Any]]


def read(parts: Sequence[str], form: str = "", *, thinks: bool = False, inside: bool = False) -> Told:
    reader = AnswerReader(THINK if thinks else None, inside=inside, form=FORM.get(form), names=NAMES)
    read = [*(reader.feed(part) for part in parts), reader.finish()]
    calls: dict[int, list[str]] = {}
    ids = []
    for delta in (delta for each in read for delta in each.calls):
        if delta.index not in calls:
            assert delta.index == len(calls) and delta.id.startswith("call_") and delta.name in NAMES
            ids.append(delta.id)
            calls[delta.index] = [delta.name, ""]
        else:
            assert not delta.id and not delta.name
        calls[delta.index][1] += delta.arguments
    assert len(set(ids)) == len(ids) and reader.called == bool(calls)
    return Told("".join(each.text for each in read), "".join(each.reasoning for each in read),
                [(name, json.loads(arguments)) for name, arguments in calls.values()])


HARD = {"city": "a \"b\" \\ } ] ) [TOOL_CALLS] </tool_call> \u00e9\U0001f600\n",
        "days": [1, -2.5, {"deep": [None, True]}]}
HARD_JSON = json.dumps(HARD, ensure_ascii=False)
_WEATHER = [("get_weather", HARD)]

CALLS = {
    "one, as Hermes and Qwen write it": (
        "hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {HARD_JSON}}}\n</tool_call>', "", _WEATHER),
    "two, after a text": (
        "hermes", 'Let me look.\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n<tool_call>\n'
                  f'{{"name":"get_weather","arguments":{HARD_JSON}}}</tool_call>\n', "Let me look.",
        [("get", {}), *_WEATHER]),
    "a text after it": (
        "hermes", '<tool_call>{"name": "get", "arguments": {"a": 1}}</tool_call>\n\nDone. ', "Done.",
        [("get", {"a": 1})]),
    "the beginning of another one, cut off": (
        "hermes", '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "ge', "",
        [("get", {"a": 1})]),
    "Llama's": ("llama", f'{{"name": "get_weather", "parameters": {HARD_JSON}}}', "", _WEATHER),
    "Llama's, for its interpreter": (
        "llama", f'\n<|python_tag|>{{"name": "get_weather", "parameters": {HARD_JSON}}}', "", _WEATHER),
    "Mistral's": ("mistral", f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {HARD_JSON}}}]', "", _WEATHER),
    "two of Mistral's, with ids": (
        "mistral", f'[TOOL_CALLS][{{"name": "get", "arguments": {{"a": "]"}}, "id": "VvvODy9mT"}}, '
                   f'{{"name": "get_weather", "arguments": {HARD_JSON}, "id": "a12345678"}}]', "",
        [("get", {"a": "]"}), *_WEATHER]),
    "two of Mistral's, without a list": (
        "mistral, without a list", f'Well[TOOL_CALLS]get[ARGS]{{"a": 1}}[TOOL_CALLS]get_weather[ARGS]{HARD_JSON}',
        "Well", [("get", {"a": 1}), *_WEATHER]),
    "Mistral's with ids": (
        "mistral, with ids", f'[TOOL_CALLS]get_weather[CALL_ID]a12345678[ARGS]{HARD_JSON}', "", _WEATHER),
    "in tags": ("function tags", f'Hm <function=get_weather>{HARD_JSON}</function><function=add-2>{{}}</function>',
    "Hm",
                [*_WEATHER, ("add-2", {})]),
    "plain JSON": ("json", f'{{"name": "get_weather", "arguments": {HARD_JSON}}}\n', "", _WEATHER),
    "Python's": (
        "pythonic", f'[get_weather(city={json.dumps(HARD["city"])}, days=[1, -2.5, {{"deep": [null, true]}}]), get()]',
        "", [*_WEATHER, ("get", {})]),
    "Python's, with its own literals": (
        "pythonic", "[get_weather(city='it\\'s (1) \"x\"', days=[None, (True, -1)], deep={'a': {'b': 2}})]", "",
        [("get_weather", {"city": "it's (1) \"x\"", "days": [None, [True, -1]], "deep": {"a": {"b": 2}}})]),
    "Gemma's": ("tool code", '```tool_code\nget_weather(city="Paris")\nget(a=1)\n```', "",
                [("get_weather", {"city": "Paris"}), ("get", {"a": 1})]),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_are_read_however_their_text_is_cut(case: str) -> None:
    form, text, said, calls = CALLS[case]
    expected = Told(said, "", calls)
    assert read([text], form) == expected
    assert read(list(text), form) == expected
    for at in range(1, len(text)):
        assert read([text[:at], text[at:]], form) == expected
    chance = random.Random(5)
    for _ in range(50):
        cuts = sorted(chance.sample(range(1, len(text)), 4))
        assert read([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], form) == expected


@pytest.mark.parametrize("case", [case for case, (_, _, said, _) in CALLS.items() if not said])
def test_an_answer_that_is_held_to_calls_has_no_text_wherever_it_is_cut(case: str) -> None:
    form, text, _, calls = CALLS[case]
    for at in range(1, len(text)):
        reader = AnswerReader(form=FORM[form], names=NAMES, only_calls=True)
        told = [reader.feed(text[:at]), reader.finish()]
        assert "".join(each.text for each in told) == ""
        assert len({delta.index for each in told for delta in each.calls}) <= len(calls)
    reader = AnswerReader(form=FORM[form], names=NAMES, only_calls=True)
    names = [delta.name for each in (reader.feed(text), reader.finish()) for delta in each.calls if delta.name]
    assert names == [name for name, _ in calls]


@pytest.mark.parametrize(("form", "text"), [
    ("hermes", "<tool_call> is how calls begin"),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "getter", "arguments": {}}'), ("hermes", "a < b <tool <tool_cal"),
    ("hermes", '<tool_call>{"name": "get", "arguments": []}'), ("hermes", "<tool_call>" * 50),
    ("hermes", "<tool_call>"),
    ("hermes", '{"name": "get", "arguments": {}}'), ("hermes", " padded \n"),
    ("hermes", "<tool_call>" + " " * 100 + '{"name": "get", "arguments": {}}'),
    ("llama", 'As JSON: {"name": "get", "parameters": {}}'), ("llama", '{"name": "Felix"}'),
    ("llama", '{"name": "get"}'),
    ("llama", "{"), ("llama", '{"name": "get", "parameters": 5}'), ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS] []"),
    ("mistral", "[TOOL"), ("pythonic", "[1, 2]"), ("pythonic", "[get(1)]"), ("pythonic", "[get(a=__import__('os'))]"),
    ("pythonic", "[get(a=1, a=2)]"), ("pythonic", "[get(a=" + "[" * 500), ("pythonic", "[get(a=1"),
    ("pythonic", "[other(a=1)]"),
    ("pythonic", f"[get(a={'[' * 300}1{']' * 300}, b=(lambda: 1)())]"), ("pythonic", "[get(a=1e999)]"),
    ("tool code", "```tool_code\nprint(get(a=1))\n```"), ("function tags", "<function=other>{}</function>"),
    ("", '<tool_call>{"name": "get", "arguments": {}}</tool_call>'),
])
def test_what_only_looks_like_a_call_is_text_to_the_last_character(form: str, text: str) -> None:
    for parts in ([text], list(text)):
        assert read(parts, form) == Told(text, "", [])


def test_a_call_that_is_cut_shows_what_there_is_of_its_arguments() -> None:
    reader = AnswerReader(form=FORM["hermes"], names=NAMES)
    first = reader.feed('<tool_call>\n{"name": "get", "arguments": {"a')
    assert [(delta.name, delta.arguments) for delta in first.calls] == [("get", "{"), ("", '"a')]
    assert reader.feed('": "x').calls[0].arguments == '": "x'
    assert reader.finish() == Read() and reader.called


@pytest.mark.parametrize(("text", "inside", "reasoning", "said"), [
    ("<think>\nHm, 1 < 2.\n</think>\n\nYes.", False, "Hm, 1 < 2.", "Yes."),
    ("Hm.\n</think>\n\nYes. ", True, "Hm.", "Yes. "),
    ("\n<think></think>Yes", False, "", "Yes"), ("<think>\n\n</think>\n\nYes", False, "", "Yes"),
    ("Yes.\n", False, "", "Yes.\n"),
    ("Say <think>x</think>", False, "", "Say <think>x</think>"),
    ("<think>On and on </thin", False, "On and on </thin", ""),
    ("On and on \n", True, "On and on", ""), ("<thin", False, "", "<thin"), (" ", False, "", " "), ("", True, "", ""),
    ("a</think>b</think>", True, "a", "b</think>"), ("<think><think>a</think>b", False, "<think>a", "b"),
])
def test_a_thought_is_told_apart_from_the_answer_however_they_come(
        text: str, inside: bool, reasoning: str, said: str) -> None:
    for parts in ([text], list(text), *([text[:at], text[at:]] for at in range(len(text)))):
        assert read(parts, thinks=True, inside=inside) == Told(said, reasoning, [])


def test_nothing_in_a_thought_is_a_call_and_what_follows_it_is() -> None:
    call = '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>'
    expected = Told("", f"I could write {call}.", [("get", {"a": 1})])
    for parts in ([f"<think>{expected.reasoning}</think>{call}"], list(f"<think>{expected.reasoning}</think>{call}")):
        assert read(parts, "hermes", thinks=True) == expected
    for form in ("llama", "json", "pythonic"):
        _, text, _, calls = CALLS["Python's" if form == "pythonic" else "Llama's" if form == "llama" else "plain JSON"]
        assert read(list("<think>Hm.</think>\n\n" + text), form, thinks=True) == Told("", "Hm.", calls)


def test_a_text_is_shown_as_it_comes_and_a_call_as_it_is_written() -> None:
    reader = AnswerReader(form=FORM["hermes"], names=NAMES)
    assert [reader.feed(part).text for part in ("One", " two", " <", "b> ", "<to", "x")] == [
        "One", " two", "", " <b>", "", " <tox"]
    shown = [[delta.arguments for delta in reader.feed(part).calls] for part in (
        '<tool_call>{"name": "get", "arguments": ', '{"a": ', '"b', '"}}</tool')]
    assert shown == [[], ["{", '"a": '], ['"b'], ['"}']]


MARKS = [mark for _, text, _, _ in CALLS.values() for mark in (text[:20], text[-15:])] + [
    "<think>", "</think>", '"', "{", "}", "[", "]", "(", ")", "\\", "'", "get", "=", ",", " ", "\n", "x"]


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.sampled_from(MARKS), max_size=30), cuts=st.randoms(use_true_random=False))
@pytest.mark.parametrize("form", FORM)
def test_any_text_is_read_the_same_in_whatever_parts_it_comes(form: str, texts: list[str], cuts: random.Random) -> None:
    text = "".join(texts)

    def told(parts: Sequence[str]) -> tuple[str, str, list[str]]:
        reader = AnswerReader(THINK, form=FORM[form], names=NAMES)
        read = [*(reader.feed(part) for part in parts), reader.finish()]
        calls: dict[int, str] = {}
        for delta in (delta for each in read for delta in each.calls):
            calls[delta.index] = calls.get(delta.index, "") + delta.name + delta.arguments
        return "".join(each.text for each in read), "".join(each.reasoning for each in read), list(calls.values())

    places = sorted(cuts.randrange(len(text) + 1) for _ in range(5))
    assert told(list(text)) == told([text]) == told(
        [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)])


@pytest.mark.parametrize("text", ["1", "a", "a=", "a=1 b=2", "a=1,,", "=1", "a=open", "a=b'x'", "a=1j", "a=[*b]",
    "a={**b}",
                                  "a=f''", "1a=1", "a=-'x'"])
def test_what_is_no_keyword_with_a_literal_is_no_arguments(text: str) -> None:
    with pytest.raises(ValueError):
        keywords.as_json(text)


def test_half_a_character_in_a_keyword_stays_an_escape() -> None:
    assert keywords.as_json(r'a="\ud83d\ude00", b="é", c=3.0,') == '{"a": "\U0001f600", "b": "é", "c": 3.0}'
    assert keywords.as_json(r'a="\ud800"') == r'{"a": "\ud800"}'
