"""Tools as other people's clients call them: OpenAI's and Ollama's for Python, LangChain and Pydantic AI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import scripts
from clients import KEY, apart, package
from service import Service
from tool_families import TOOL_FAMILIES

QUESTION = [{"role": "user", "content": "Is it warm in Paris?"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
RESULT, ANSWER = "12 degrees", "No, it has 12 degrees."
# What it needs that nobody else here does.
PYDANTIC_AI = ("pydantic-ai-slim==2.68.0", "pydantic-graph==2.68.0", "genai-prices==0.2.3", "logfire-api==5.6.0",
               "opentelemetry-api==1.45.2")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model that calls get_weather, and answers when it has its result."""
    folder = tmp_path_factory.mktemp("called")
    for name, family in TOOL_FAMILIES.items():
        scripts.write(folder, {"when": RESULT, "pieces": [ANSWER[:5], ANSWER[5:]]},
                      {"when": "", "pieces": list(family.answer)}, name=name, template=family.template)
    running = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": "qwen.script.json", "API_KEYS": KEY,
                                           "EMBED_MODEL": "none", "CHAT_PROCESSES": 2})
    yield running.wait_ready()
    running.stop()


@pytest.mark.parametrize("model", TOOL_FAMILIES)
def test_openais_client_calls_a_tool_streamed_and_goes_on_with_its_result(service: Service, model: str) -> None:
    openai = package("openai")
    with openai.OpenAI(base_url=service.url + "/v1", api_key=KEY, max_retries=0) as client:
        asked: dict[str, Any] = {"model": model, "tools": [WEATHER]}
        with client.chat.completions.stream(messages=QUESTION, **asked) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
            message = stream.get_final_completion().choices[0].message
        assert [(event.name, json.loads(event.arguments)) for event in done] == [("get_weather", {"city": "Paris"})]
        [call] = message.tool_calls
        assert not message.content and json.loads(call.function.arguments) == {"city": "Paris"}
        result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
        messages = [*QUESTION, message.model_dump(exclude_unset=True), result]
        made = client.chat.completions.create(messages=messages, **asked).choices[0]
        assert (made.message.content, made.finish_reason, made.message.tool_calls) == (ANSWER, "stop", None)


def test_ollamas_client_calls_a_function_and_goes_on_with_its_result(service: Service) -> None:
    ollama = package("ollama")

    def get_weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        return RESULT if city == "Paris" else "unknown"

    with ollama.Client(host=service.url) as client:
        messages: list[Any] = list(QUESTION)
        made = client.chat("qwen", messages, tools=[get_weather])
        [call] = made.message.tool_calls
        assert call.function.name == "get_weather" and made.message.content == ""
        messages += [made.message, {"role": "tool", "tool_name": call.function.name,
                                    "content": get_weather(**call.function.arguments)}]
        assert client.chat("qwen", messages, tools=[get_weather]).message.content == ANSWER
        parts = list(client.chat("qwen", QUESTION, tools=[get_weather], stream=True))
        assert [part.message.tool_calls[0].function.arguments for part in parts if part.message.tool_calls] == [
            {"city": "Paris"}]
        assert "tools" in client.show("qwen").capabilities


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_langchain_binds_tools(service: Service, kind: str) -> None:
    messages = package("langchain_core.messages")
    model: Any
    if kind == "openai":
        model = package("langchain_openai").ChatOpenAI(base_url=service.url + "/v1", api_key=KEY, model="qwen")
    else:
        model = package("langchain_ollama").ChatOllama(base_url=service.url, model="qwen")
    bound = model.bind_tools([WEATHER])
    asked = [messages.HumanMessage(QUESTION[0]["content"])]
    made = bound.invoke(asked)
    assert [(call["name"], call["args"]) for call in made.tool_calls] == [("get_weather", {"city": "Paris"})]
    [first, *others] = bound.stream(asked)
    for chunk in others:
        first += chunk
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("get_weather", {"city": "Paris"})]
    result = messages.ToolMessage(RESULT, tool_call_id=made.tool_calls[0]["id"])
    assert bound.invoke([*asked, made, result]).content == ANSWER


def test_pydantic_ai_runs_an_agent_with_a_tool(service: Service, tmp_path_factory: pytest.TempPathFactory) -> None:
    with apart(tmp_path_factory.mktemp("pydantic-ai"), "pydantic_ai", *PYDANTIC_AI) as pydantic_ai:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        provider = OpenAIProvider(base_url=service.url + "/v1", api_key=KEY)
        agent = pydantic_ai.Agent(OpenAIChatModel("qwen", provider=provider))
        asked = []

        @agent.tool_plain
        def get_weather(city: str) -> str:
            asked.append(city)
            return RESULT

        assert agent.run_sync(QUESTION[0]["content"]).output == ANSWER
        assert asked == ["Paris"]
