"""What a model thinks before it answers is told apart from the answer, on each route, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import scripts
from service import Service

CHAT, NATIVE, OLLAMA, GENERATE = "/v1/chat/completions", "/gpt4all_api", "/api/chat", "/api/generate"
TEMPLATE = """
{%- for message in messages %}{{- message.role + ': ' + message.content + '\\n' }}{%- endfor %}
{{- 'effort ' + (reasoning_effort | default('unset')) + ', ' + (style | default('plain')) + '\\n' }}
{{- 'assistant: ' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- elif 'within' in messages[-1].content %}{{- '<think>\\n' }}{%- endif %}
"""
THOUGHT, SAID = "2 < 3, so\nyes </i> it is.", "Yes.\nIt is."
THINKING = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("reasoning")
    name = scripts.write(
        folder, {"when": "effort low, plain", "pieces": ["low"]}, {"when": "effort none, plain", "pieces": ["none"]},
        {"when": "unset, wild", "pieces": ["wild"]}, {"when": "assistant: <think>\n\n</think>", "pieces": [SAID]},
        {"when": "letters", "pieces": list(THINKING)}, {"when": "within", "pieces": list(THINKING[len("<think>\n"):])},
        {"when": "cut", "pieces": list(THINKING[:20])}, {"when": "whole", "pieces": [THINKING]},
        name="thinker", template=TEMPLATE)
    scripts.write(folder, {"when": "", "pieces": [THINKING]}, name="plain")
    running = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": name, "EMBED_MODEL": "none"})
    yield running.wait_ready()
    running.stop()


def user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if "{" in line]


def openai(service: Service, prompt: str, stream: bool, **fields: Any) -> tuple[str, str]:
    answer = service.post(CHAT, {"messages": user(prompt), "stream": stream, **fields})
    assert answer.status_code == 200, answer.text
    if not stream:
        message = answer.json()["choices"][0]["message"]
        return message.get("reasoning_content", ""), message["content"]
    deltas = [event["choices"][0]["delta"] for event in events(answer.text)]
    return ("".join(delta.get("reasoning_content", "") for delta in deltas),
            "".join(delta.get("content", "") for delta in deltas))


def native(service: Service, prompt: str, stream: bool, **fields: Any) -> tuple[str, str]:
    answer = service.post(NATIVE, {"prompt": prompt, "stream": stream, **fields})
    assert answer.status_code == 200, answer.text
    told = events(answer.text) if stream else [answer.json()]
    return "".join(each.get("reasoning", "") for each in told), "".join(each["response"] for each in told)


def ollama(service: Service, prompt: str, stream: bool, **fields: Any) -> tuple[str, str]:
    answer = service.post(OLLAMA, {"model": "thinker", "messages": user(prompt), "stream": stream, **fields})
    assert answer.status_code == 200, answer.text
    told = [json.loads(line)["message"] for line in answer.text.splitlines()]
    return "".join(each.get("thinking", "") for each in told), "".join(each["content"] for each in told)


def generate(service: Service, prompt: str, stream: bool, **fields: Any) -> tuple[str, str]:
    answer = service.post(GENERATE, {"model": "thinker", "prompt": prompt, "stream": stream, **fields})
    assert answer.status_code == 200, answer.text
    told = [json.loads(line) for line in answer.text.splitlines()]
    return "".join(each.get("thinking", "") for each in told), "".join(each["response"] for each in told)


ROUTES = [openai, native, ollama, generate]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", ROUTES)
def test_a_thought_is_apart_from_the_answer(service: Service, ask: Any, stream: bool) -> None:
    for prompt in ("whole", "letters", "within"):
        assert ask(service, prompt, stream) == (THOUGHT, SAID)
    assert ask(service, "cut", stream) == (THINKING[len("<think>\n"):20], "")
    assert ask(service, "else", stream) == ("", "Hello there.")


def test_a_model_whose_template_declares_no_thoughts_has_them_in_its_text(service: Service) -> None:
    assert openai(service, "whole", False, model="plain") == ("", THINKING)


def test_the_callers_wishes_reach_the_template(service: Service) -> None:
    for ask in (openai, native):
        assert ask(service, "x", False, reasoning_effort="low") == ("", "low")
        assert ask(service, "x", False, reasoning_effort="none") == ("", "none")
        assert ask(service, "x", False, chat_template_kwargs={"style": "wild"}) == ("", "wild")
        assert ask(service, "letters", False, chat_template_kwargs={"enable_thinking": False}) == ("", SAID)
    for ask in (ollama, generate):
        assert ask(service, "letters", False, think=False) == ("", SAID)
        assert ask(service, "letters", True, think=True) == (THOUGHT, SAID)
        assert ask(service, "x", True, think="low") == ("", "low")


@pytest.mark.parametrize(("variables", "words"), [
    ({"messages": []}, "'messages'"), ({"no name": 1}, "'no?name'"), ({"eos_token": "x"}, "'eos_token'"),
    ({"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, "nested"), ([], "an object"),
    ({"style": 5}, "with these variables"), ({"raise_exception": 1, "style": {}}, "with these variables"),
])
def test_variables_that_the_template_cannot_have_are_refused(service: Service, variables: Any, words: str) -> None:
    for path, body in ((CHAT, {"messages": user("x")}), (NATIVE, {"prompt": "x"})):
        answer = service.post(path, {**body, "chat_template_kwargs": variables})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "chat_template_kwargs"), error
        assert words in error["message"]


def test_earlier_thoughts_are_taken_and_a_model_that_has_none_refuses_to_think(service: Service) -> None:
    messages = [*user("a"), {"role": "assistant", "content": "b", "reasoning_content": "c"}, *user("whole")]
    assert service.post(CHAT, {"messages": messages}).status_code == 200
    answer = service.post(OLLAMA, {"model": "plain", "messages": user("x"), "think": True})
    assert (answer.status_code, answer.json()["error"]) == (400, '"plain" does not support thinking')
    shown = service.post("/api/show", {"model": "thinker"}).json()["capabilities"]
    assert "thinking" in shown
    assert "thinking" not in service.post("/api/show", {"model": "plain"}).json()["capabilities"]
