"""What bodies of OpenAI's routes say of tools, validated by pydantic."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from mayfly.errors import InvalidRequest
from mayfly.web.schemas import MOST_NESTED, TEXT, OpenAIBody, Text, nested
from mayfly.wire.calls import Tool, ToolCall

MOST_TOOLS = 128
_NAME = "^[A-Za-z0-9_-]{1,64}$"
_NAMED = "a name of up to 64 letters, digits, _ and -"


class CalledFunction(OpenAIBody):
    """What a call calls."""

    name: str = Field(pattern=_NAME, description=_NAMED)
    arguments: Text = Field("{}", description="a string with the arguments as JSON")


class CalledTool(OpenAIBody):
    """A call by the assistant."""

    id: str = Field("", description="a string")
    type: Literal["function"] = Field("function", description='"function"')
    function: CalledFunction = Field(description="an object with 'name' and 'arguments'")

    def called(self) -> ToolCall:
        """Return it as it is known inside."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


class FunctionBody(OpenAIBody):
    """What a tool is."""

    name: str = Field(pattern=_NAME, description=_NAMED)
    description: Text = Field("", description=TEXT)
    parameters: dict[str, Any] = Field({}, description="a JSON schema of an object")
    strict: bool = Field(False, description="true or false; arguments are held to their schema anyway")


class ToolBody(OpenAIBody):
    """A tool."""

    type: Literal["function"] = Field("function", description='"function"')
    function: FunctionBody = Field(description="an object with 'name', 'description' and 'parameters'")


class ChosenFunction(OpenAIBody):
    """The name of a tool."""

    name: str = Field(description="the name of one of the tools")


class ChosenTool(OpenAIBody):
    """The tool that is to be called."""

    type: Literal["function"] = Field("function", description='"function"')
    function: ChosenFunction = Field(description="an object with 'name'")


class ToolsBody(OpenAIBody):
    """What a body says of the tools that the model may call."""

    tools: list[ToolBody] = Field(
        [], fail_fast=True, max_length=MOST_TOOLS,
        description=f"a list of up to {MOST_TOOLS} tools, where the model's engine can be held to calls")
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = Field(
        None, description='"none", "auto", "required" or {"type": "function", "function": {"name": a tool\'s}}')
    parallel_tool_calls: bool = Field(True, description="true or false")

    def described(self) -> tuple[Tool, ...]:
        """Return the tools.

        Raises:
            InvalidRequest: two have one name, or the parameters of one are no schema of an object.
        """
        names = set()
        for index, tool in enumerate(self.tools):
            at, schema = f"tools.{index}.function", tool.function.parameters
            if tool.function.name in names:
                raise InvalidRequest(f"'{at}.name' has to be a name that no other tool has.", param=f"{at}.name")
            names.add(tool.function.name)
            sound = schema.get("type", "object") == "object" and isinstance(schema.get("properties", {}), dict)
            if not sound or nested(schema):
                raise InvalidRequest(f"'{at}.parameters' has to be a JSON schema of an object, nested less than "
                                     f"{MOST_NESTED} deep.", param=f"{at}.parameters")
        return tuple(Tool(tool.function.name, tool.function.description,
                          json.dumps(tool.function.parameters or {"type": "object", "properties": {}}),
                          tool.function.strict) for tool in self.tools)

    def choice(self) -> str:
        """Return which tools may be called; see CompletionCall.

        Raises:
            InvalidRequest: a tool has to be called, but there is none, or none of the name.
        """
        chosen = self.tool_choice
        if chosen is None or isinstance(chosen, str):
            if chosen == "required" and not self.tools:
                raise InvalidRequest("'tool_choice' has to be \"auto\" or \"none\" where there are no tools.",
                                     param="tool_choice")
            return chosen or "auto"
        if all(tool.function.name != chosen.function.name for tool in self.tools):
            raise InvalidRequest("'tool_choice.function.name' has to be the name of one of the tools.",
                                 param="tool_choice.function.name")
        return f"function:{chosen.function.name}"
