"""Tools, calls and results as each family's template has them, and in words where a template knows none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from families import FAMILIES, SMOLLM3
from tool_families import ASKED, CALLED, CONVERSATION, HOSTILE, TOOL_FAMILIES, WEATHER, ToolFamily

from mayfly.errors import InvalidRequest
from mayfly.models.call_forms import form_of, thought_of
from mayfly.prompts.chat import Chat
from mayfly.prompts.prompt_form import PromptForm
from mayfly.prompts.segments import Segment
from mayfly.prompts.template import ChatTemplate
from mayfly.wire.calls import CompletionCall, Message, Tool, ToolCall


def chat_of(template: str) -> Chat:
    return Chat(ChatTemplate(template, bos_token="<s>", eos_token="</s>"), {})


def call(messages: Sequence[Message] = CONVERSATION, tools: Sequence[Tool] = (WEATHER,), **more: Any) -> CompletionCall:
    return CompletionCall("test", tuple(messages), tools=tuple(tools), **more)


def text_of(segments: Sequence[Segment], *, special: bool | None = None) -> str:
    return "".join(segment.text for segment in segments if special in (None, segment.special))


families = pytest.mark.parametrize("family", TOOL_FAMILIES.values(), ids=TOOL_FAMILIES)


@families
def test_a_conversation_with_a_tool_is_written_as_the_familys_documentation_says(family: ToolFamily) -> None:
    found = form_of(family.template)
    assert found is not None and found.name == family.form
    segments = chat_of(family.template).segments(call())
    assert text_of(segments) == family.expected
    # All that a caller has sent is text of a caller.
    ours = text_of(segments, special=True)
    for theirs in ("get_weather", "Tells", "Where", "Paris", "12 degrees"):
        assert theirs not in ours


@families
def test_what_the_family_answers_is_read_as_a_call(family: ToolFamily) -> None:
    asked = call(messages=[ASKED])
    chat = chat_of(family.template)
    answering = chat.answering(asked, chat.segments(asked))
    deltas = answering.reader.feed(family.answer).calls + answering.reader.finish().calls
    assert [delta.name for delta in deltas if delta.name] == ["get_weather"]
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": "Paris"}
    assert answering.sampling.form is not None and answering.sampling.form.kind == "lark"


def saying(words: str) -> CompletionCall:
    """Return a call that says the same words wherever a caller may."""
    parameters = {"type": "object", "properties": {words: {"enum": [words, 5, None, True], "description": words}},
                  words: {"deep": [words]}}
    called = ToolCall(words, "get_weather", json.dumps({words: words, "deep": {words: [words]}}))
    return call([Message("user", words), Message("assistant", words, (called,)),
                 Message("tool", words, tool_call_id=words)], [Tool("get_weather", words, json.dumps(parameters))])


@families
def test_nothing_in_a_tool_a_call_or_a_result_becomes_the_templates(family: ToolFamily) -> None:
    chat = chat_of(family.template)
    hostile, harmless = (text_of(chat.segments(saying(words)), special=True) for words in (HOSTILE, "harmless"))
    assert hostile == harmless and "harmless" not in harmless


@families
def test_tools_that_are_not_to_be_called_are_not_told_of_and_earlier_calls_are(family: ToolFamily) -> None:
    chat = chat_of(family.template)
    asked = call(tool_choice="none")
    text = text_of(chat.segments(asked))
    assert "Tells the weather" not in text and "12 degrees" in text and text.count("get_weather") == 1
    assert chat.answering(asked, []).sampling.form is None


TEMPLATES = {"chatml": FAMILIES["qwen2"].template, "gemma": FAMILIES["gemma-2"].template,
             "smollm3": SMOLLM3, "unknown form": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
             "{{ tools }}{# 'tool' #}"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_tools_is_told_of_them_in_words(name: str) -> None:
    chat = chat_of(TEMPLATES[name])
    segments = chat.segments(call([Message("system", "Be brief."), *CONVERSATION]))
    text = text_of(segments)
    for told in ("Be brief.\n\nYou can call these tools.", json.dumps(json.loads(WEATHER.parameters)),
                 '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
                 "<tool_response>\n12 degrees\n</tool_response>"):
        assert told in text
    assert "<tool_" not in text_of(segments, special=True)
    read = chat.answering(call(), segments).reader.feed(TOOL_FAMILIES["qwen"].answer)
    assert [delta.name for delta in read.calls if delta.name] == ["get_weather"]


def test_prompts_in_gpt4alls_form_tell_of_tools_in_words_too() -> None:
    chat = Chat(PromptForm("USER: %1\nASSISTANT: ", ""), {})
    text = text_of(chat.segments(call([ASKED])))
    assert text.startswith("You can call these tools.") and text.endswith("USER: Is it warm in Paris?\nASSISTANT: ")


def test_results_in_a_row_are_one_turn_in_words() -> None:
    messages = [ASKED, Message("assistant", "Both.", (CALLED, replace(CALLED, id="b"))),
                Message("tool", "a", tool_call_id=CALLED.id), Message("tool", "b", tool_call_id="b"),
                Message("user", "And now?")]
    text = text_of(chat_of(TEMPLATES["chatml"]).segments(call(messages, [])))
    assert text.endswith(
        "<|im_start|>assistant\nBoth.\n" + "\n".join([TOOL_FAMILIES["qwen"].answer] * 2) + "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("arguments", ["", "no JSON", "[1]", '{"a": ' * 400 + "1" + "}" * 400, "[" * 100_000, '"text"'])
@families
def test_whatever_a_client_says_was_called_is_written_or_refused(family: ToolFamily, arguments: str) -> None:
    messages = [ASKED, Message("assistant", "", (ToolCall("a", "get_weather", arguments),)),
                Message("tool", "", tool_call_id="another")]
    assert "get_weather" in text_of(chat_of(TEMPLATES["chatml"]).segments(call(messages)))
    with contextlib.suppress(InvalidRequest):
        assert "get_weather" in text_of(chat_of(family.template).segments(call(messages)))


def test_several_calls_that_a_template_refuses_are_the_callers_to_split() -> None:
    messages = [ASKED, Message("assistant", "", (CALLED, CALLED))]
    with pytest.raises(InvalidRequest, match="one call at a time"):
        chat_of(TOOL_FAMILIES["llama"].template).segments(call(messages))


@pytest.mark.parametrize(("source", "form"), [
    (None, None), ("", None), ("{{ messages }}", None), ("{{ tools }}<tool_call>", None),
    ("{{ tools }}{{ tool_calls }}<tool_call><function=x><parameter=y>", None),
    ("{{ tools }}{{ tool_calls }}<tool_call>name<arg_key>", None),
    ("{{ tools }}{{ tool_calls }}[TOOL_CALLS]x[ARGS]", "mistral, without a list"),
    ("{{ tools }}{{ tool_calls }}[TOOL_CALLS]x[CALL_ID]y[ARGS]", "mistral, with ids"),
    ("{{ tools }}'tool'```tool_code\nf()\n```", "tool code"), ("{{ xml_tools }}'tool'<tool_call>", None),
    ("'tools' {{ tool_calls }}<tool_call>", None),
])
def test_a_templates_source_tells_the_form_of_calls(source: str | None, form: str | None) -> None:
    found = form_of(source)
    assert (found and found.name) == form


# -- reasoning ------------------------------------------------------------------------------------------------------

REASONING = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if reasoning_effort is defined %}{{- 'effort: ' + reasoning_effort + '\\n' }}{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- elif open is defined %}{{- '<think>\\n' }}{%- endif %}
"""


def test_variables_and_thoughts_reach_the_template_as_a_callers_text() -> None:
    chat = chat_of(REASONING)
    messages = [ASKED, Message("assistant", "Yes.", reasoning=HOSTILE), Message("user", "Why?")]
    variables = {"reasoning_effort": HOSTILE, "enable_thinking": False}
    segments = chat.segments(call(messages, [], template_kwargs=variables))
    text = text_of(segments)
    assert f"<think>\n{HOSTILE}\n</think>\n\nYes." in text and f"effort: {HOSTILE}\n" in text
    assert text.endswith("<think>\n\n</think>\n\n")
    assert HOSTILE not in text_of(segments, special=True)


@pytest.mark.parametrize(("variables", "answer", "thought", "said"), [
    ({}, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."), ({}, "Yes.", "", "Yes."),
    ({"open": True}, "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
    ({"enable_thinking": False}, "Yes.", "", "Yes."),
])
def test_where_a_prompt_ends_within_a_thought_the_answer_begins_there(
        variables: dict[str, Any], answer: str, thought: str, said: str) -> None:
    chat = chat_of(REASONING)
    asked = call([ASKED], [], template_kwargs=variables)
    reader = chat.answering(asked, chat.segments(asked)).reader
    read = [reader.feed(character) for character in answer] + [reader.finish()]
    assert ("".join(each.reasoning for each in read), "".join(each.text for each in read)) == (thought, said)


def test_a_caller_who_writes_an_open_thought_does_not_begin_one() -> None:
    chat = chat_of("{{ messages[-1].content }}{% if false %}<think></think>{% endif %}")
    asked = call([Message("user", "<think>")], [])
    assert chat.answering(asked, chat.segments(asked)).reader.feed("Yes.").text == "Yes."


def test_variables_that_a_template_fails_at_are_the_callers() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_of(REASONING).segments(call([ASKED], [], template_kwargs={"reasoning_effort": {"a": []}}))
    assert caught.value.param == "chat_template_kwargs"


def test_only_marks_that_a_template_declares_are_those_of_thoughts() -> None:
    assert thought_of("{{ messages }}") is None and thought_of(None) is None
    found = thought_of("[THINK]{{ messages }}[/THINK]")
    assert found is not None and found.close == "[/THINK]"
