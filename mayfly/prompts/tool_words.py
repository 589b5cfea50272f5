"""Tools for models whose chat templates know none: told of in the system text, their results in turns of the user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mayfly.prompts.form_words import with_words
from mayfly.wire.calls import Message, Tool, ToolCall

_INTRODUCTION = """You can call these tools. Each line describes one:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as a JSON object, like this:
<tool_call>
{{"name": "the tool's name", "arguments": {{"a parameter's name": "its value"}}}}
</tool_call>"""


def described(tool: Tool) -> dict[str, Any]:
    """Return a tool as OpenAI's API and chat templates have it."""
    return {"type": "function", "function": {"name": tool.name, "description": tool.description,
                                             "parameters": json.loads(tool.parameters)}}


def arguments_of(call: ToolCall) -> Any:
    """Return a call's arguments; the text itself where that is no JSON object, or one that is nested too deep."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    return arguments if isinstance(arguments, dict) else call.arguments


def in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return a conversation that any template can write: without tools, calls, and turns of tools."""
    told: list[Message] = []
    results = False
    for message in messages:
        if message.role == "tool":
            result = f"<tool_response>\n{message.content}\n</tool_response>"
            told.append(Message("user", f"{told.pop().content}\n{result}" if results else result))
        else:
            calls = ["<tool_call>\n" + json.dumps({"name": call.name, "arguments": arguments_of(call)},
                                                  ensure_ascii=False) + "\n</tool_call>" for call in message.tool_calls]
            text = "\n".join(filter(None, (message.content, *calls)))
            told.append(Message(message.role, text, reasoning=message.reasoning))
        results = message.role == "tool"
    if not tools:
        return told
    lines = "\n".join(json.dumps(described(tool)["function"], ensure_ascii=False) for tool in tools)
    return with_words(told, _INTRODUCTION.format(tools=lines))
