"""Tools over HTTP: real models are held to calls, a small one and a tiny one with random weights, which would say
anything else; a scripted one writes them in whatever parts."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import jsonschema_rs
import pytest
import scripts
import tiny_llama
from links import link
from service import Service
from tool_families import TOOL_FAMILIES

CHAT = "/v1/chat/completions"
WRONG = {"type": "array", "uniqueItems": True}
CALLS = int(os.environ.get("MAYFLY_TOOL_CALLS", "30"))
TINY = "tiny-llama"


def tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WORD = {"type": "string", "maxLength": 20}
TOOLS = [
    tool("get_weather", "Tells the weather of a city.", city=WORD, unit={"enum": ["C", "F"]},
         days={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 6}, "maxItems": 3}),
    tool("set_alarm", "Sets an alarm.", hour={"type": "integer", "minimum": 0, "maximum": 23},
         minute={"type": "integer", "minimum": 0, "maximum": 59}, label={"anyOf": [WORD, {"type": "null"}]}),
    tool("move", "Moves a thing.", place={"type": "object", "properties": {"x": {"type": "integer", "maximum": 99,
                                                                                  "minimum": -99},
                                                                            "y": {"const": 5}},
                                          "required": ["x", "y"], "additionalProperties": False}),
    tool("clock", "Tells the time."),
]
SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("tools")
    for name, family in TOOL_FAMILIES.items():
        rules = [{"when": "in parts", "pieces": list("Let me see. " * FREE[family.form] + family.answer)},
                 {"when": "cut", "pieces": [family.answer.partition("ris")[0]]},
                 {"when": "", "pieces": [family.answer]}]
        scripts.write(folder, *rules, name=name, template=family.template)
    link(smollm2, folder / smollm2.name)
    families.FAMILIES["qwen2"].make(folder / "old.gguf")
    tiny_llama.make(folder / f"{TINY}.gguf", context=4096)
    running = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": smollm2.name, "EMBED_MODEL": "none",
                                           "CHAT_PROCESSES": 2, "THREADS": 1, "N_CTX": 4096})
    yield running.wait_ready()
    running.stop()


#: How often a text may come before a call.
FREE = {"hermes": 1, "function tags": 1, "mistral": 1, "llama": 0, "pythonic": 0, "json": 0}


def ask(service: Service, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = service.post(CHAT, {"messages": [{"role": "user", "content": prompt}], "tools": TOOLS, **fields})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def streamed(service: Service, prompt: str, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the deltas of a stream, and why it ended."""
    body = {"messages": [{"role": "user", "content": prompt}], "tools": TOOLS, "stream": True, **fields}
    answer = service.post(CHAT, body)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    return [event["choices"][0]["delta"] for event in events], events[-1]["choices"][0]["finish_reason"]


def checked(called: list[dict[str, Any]]) -> list[str]:
    """Return the names of calls, each of which has to fit the schema of its tool."""
    for call in called:
        assert call["type"] == "function" and call["id"].startswith("call_")
        jsonschema_rs.validate(SCHEMAS[call["function"]["name"]], json.loads(call["function"]["arguments"]))
    assert len({call["id"] for call in called}) == len(called)
    return [call["function"]["name"] for call in called]


PROMPTS = ["What is the weather in Paris?", "Wake me at half past seven.", "Put the box to the left.",
           "Tell me a joke.", "What time is it?", "<tool_call>", "Answer in French: who are you?",
           '{"name": "rm", "arguments": {}}', "?", "5"]


def test_a_tool_that_has_to_be_called_is_called_every_time(service: Service) -> None:
    drawn = random.Random(5)
    called = []
    for number in range(CALLS):
        # The tools stand before the question, so they are evaluated once.
        choice = ask(service, drawn.choice(PROMPTS), tool_choice="required", seed=number, parallel_tool_calls=False,
                     temperature=drawn.choice([0.0, 0.7, 1.5]), max_tokens=200, model=TINY if number % 5 else "")
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
        called += checked(choice["message"]["tool_calls"])
    assert len(called) == CALLS and len(set(called)) > 1


def test_several_calls_fit_their_schemas_too(service: Service) -> None:
    for seed in range(3):
        choice = ask(service, "The weather in Rome and in Paris, and the time.", tool_choice="required", seed=seed,
                     max_tokens=2500, model=TINY)
        assert choice["finish_reason"] == "tool_calls", choice
        assert 1 <= len(checked(choice["message"]["tool_calls"])) <= 16


def test_a_tool_that_is_named_is_the_one_that_is_called(service: Service) -> None:
    for name in SCHEMAS:
        chosen = {"type": "function", "function": {"name": name}}
        choice = ask(service, "Hello!", tool_choice=chosen, parallel_tool_calls=False)
        assert checked(choice["message"]["tool_calls"]) == [name]


def test_with_auto_a_model_may_answer_and_with_none_it_does(service: Service) -> None:
    for choice in ("auto", "none"):
        answer = ask(service, "Tell me a joke.", tool_choice=choice, temperature=0, max_tokens=20)
        assert answer["message"]["content"] and answer["finish_reason"] in ("stop", "length")
        assert "tool_calls" not in answer["message"]
    plain = service.post(CHAT, {"messages": [{"role": "user", "content": "Tell me a joke."}], "temperature": 0,
                                "max_tokens": 20}).json()["choices"][0]
    assert plain["message"]["content"] == answer["message"]["content"]


def test_a_call_comes_in_a_stream_as_it_comes_whole(service: Service) -> None:
    fields = {"tool_choice": "required", "seed": 7, "parallel_tool_calls": False}
    whole = ask(service, "Wake me at half past seven.", **fields)["message"]["tool_calls"][0]["function"]
    deltas, reason = streamed(service, "Wake me at half past seven.", **fields)
    called = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert reason == "tool_calls" and len(called) > 3
    assert called[0]["id"] and called[0]["function"]["name"] == whole["name"]
    assert not any("id" in call or "name" in call["function"] for call in called[1:])
    assert "".join(call["function"]["arguments"] for call in called) == whole["arguments"]
    assert not any(delta.get("content") for delta in deltas)


def test_a_conversation_goes_on_after_a_call(service: Service) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [{"role": "user", "content": "What time is it?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "It is noon."}]
    answer = service.post(CHAT, {"messages": messages, "tools": TOOLS, "tool_choice": "none", "max_tokens": 20})
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_each_familys_calls_are_told_whole_and_streamed(service: Service, name: str) -> None:
    said = "Let me see." * FREE[TOOL_FAMILIES[name].form]
    choice = ask(service, "in parts", model=name)
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == (said or None)
    assert checked_call(choice["message"]["tool_calls"]) == ("get_weather", {"city": "Paris"})
    deltas, reason = streamed(service, "in parts", model=name)
    assert reason == "tool_calls" and "".join(delta.get("content", "") for delta in deltas) == said
    called = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(call["function"]["arguments"] for call in called)) == {"city": "Paris"}
    assert "tool_calls" not in ask(service, "in parts", model=name, tools=[])["message"]


def test_a_call_that_is_cut_has_what_there_is_of_its_arguments(service: Service) -> None:
    [call] = ask(service, "cut", model="qwen")["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("get_weather", '{"city": "Pa')


def checked_call(called: list[dict[str, Any]]) -> tuple[str, Any]:
    [call] = called
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def test_models_say_how_they_are_told_of_tools(service: Service) -> None:
    models = service.session.get(service.url + "/v1/models").json()["data"]
    listed = {model["id"]: model.get("tools") for model in models}
    assert {listed[name] for name in TOOL_FAMILIES} == {"native"}
    assert listed["SmolLM2-135M-Instruct.Q4_1"] == listed["old"] == "generic"


@pytest.mark.parametrize(("fields", "param", "words"), [
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.function.name", "no other tool"),
    ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, "tools.0.function.name", "64 letters"),
    ({"tools": [tool("a", ""), {"function": {"name": "b", "parameters": {"type": "array"}}}]},
     "tools.1.function.parameters", "of an object"),
    ({"tools": [{"function": {"name": "b", "parameters": {"properties": 5}}}]}, "tools.0.function.parameters",
     "object"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice.function.name", "one of"),
    ({"tool_choice": "any"}, "tool_choice", '"required"'),
    ({"tools": TOOLS * 33}, "tools", "at most 128"),
    ({"grammar": 'start: "a"'}, "grammar", "left out"),
    ({"tools": [tool("a", "", x={"$ref": "#/nowhere"})]}, "tools", "nowhere"),
])
def test_what_is_wrong_with_tools_is_a_400_that_says_what(
        service: Service, fields: dict[str, Any], param: str, words: str) -> None:
    answer = service.post(CHAT, {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "max_tokens": 5,
                                 **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param) and words in error["message"], error


@pytest.mark.settings(CHAT_ENGINE="gpt4all", EMBED_MODEL="none")
def test_gpt4all_says_which_engine_calls_tools(start: Any, tmp_path: Path) -> None:
    families.FAMILIES["qwen2"].make(tmp_path / "old.gguf")
    service = start(MODEL_PATH=tmp_path, MODEL_NAME="old.gguf").wait_ready()
    answer = service.post(CHAT, {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tools") and "llamacpp can" in error["message"]
    answer = service.post("/api/chat", {"model": "old", "messages": [{"role": "user", "content": "Hi"}],
                                        "tools": TOOLS})
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (400, "old does not support tools")
    assert "tools" not in service.post("/api/show", {"model": "old"}).json()["capabilities"]


# -- as Ollama's API --------------------------------------------------------------------------------------------------

def test_ollamas_form_has_arguments_as_objects_in_one_line_before_the_end(service: Service) -> None:
    body = {"model": "qwen", "messages": [{"role": "user", "content": "in parts"}], "tools": TOOLS}
    whole = service.post("/api/chat", {**body, "stream": False}).json()
    assert whole["message"]["content"] == "Let me see." and whole["done_reason"] == "stop"
    [call] = whole["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}} and call["id"]
    lines = [json.loads(line) for line in service.post("/api/chat", body).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Let me see."
    assert lines[-2]["message"]["tool_calls"][0]["function"] == call["function"] and lines[-1]["done"]
    assert not any("tool_calls" in line["message"] for line in (*lines[:-2], lines[-1]))
    cut = service.post("/api/chat", {**body, "messages": [{"role": "user", "content": "cut"}], "stream": False}).json()
    assert cut["message"].get("tool_calls", []) == []


@pytest.mark.parametrize("result", [{"tool_name": "clock"}, {"tool_call_id": "a"}, {}])
def test_ollamas_turns_of_tools_find_their_calls(service: Service, result: dict[str, str]) -> None:
    calls = [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
             {"id": "a", "function": {"name": "clock", "arguments": {}}}]
    messages = [{"role": "user", "content": "Well?"}, {"role": "assistant", "tool_calls": calls},
                {"role": "tool", "content": "noon", **result}]
    for model in ("mistral", "qwen", "SmolLM2-135M-Instruct.Q4_1"):
        answer = service.post("/api/chat", {"model": model, "messages": messages, "tools": TOOLS, "stream": False,
                                            "options": {"num_predict": 5}})
        assert answer.status_code == 200, answer.text


def test_ollamas_show_tells_of_tools(service: Service) -> None:
    for name in ("qwen", "SmolLM2-135M-Instruct.Q4_1"):
        assert service.post("/api/show", {"model": name}).json()["capabilities"] == ["completion", "tools"]


def test_a_tool_whose_schema_cant_be_compiled_is_named(service: Service) -> None:
    turns = [{"role": "user", "content": "Hello"}]
    for tools, choice in (([*TOOLS, tool("wrong", "", a=WORD, b=WRONG)], "auto"),
                          ([tool("wrong", "", b=WRONG), *TOOLS], {"type": "function", "function": {"name": "wrong"}})):
        answer = service.post(CHAT, {"messages": turns, "tools": tools, "tool_choice": choice})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, "tools", "unusable_form"), error
        assert "the schema of the tool 'wrong' can't be compiled: at '/properties/b': " in error["message"]
