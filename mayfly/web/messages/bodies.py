"""The bodies of Anthropic's routes, and what they mean in the fields of a body for OpenAI's chats, which is validated
further."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mayfly.errors import InvalidRequest
from mayfly.web.openai_schemas import MOST_MESSAGES, TextPart, TextParts, in_parts
from mayfly.web.refusals import missing
from mayfly.web.schemas import MAX_TOKENS, MOST_NESTED, MOST_STOPS, TEXT, UNUSED, OpenAIBody, Text, nested
from mayfly.web.tool_schemas import MOST_TOOLS
from mayfly.web.translating import Translated

_TEXT_OR_BLOCKS = 'a string or a list of {"type": "text", "text": a string}'
# What fields of a body for chats are called here.
_CALLED = {"stop": "stop_sequences", "response_format": "output_config.format",
           "response_format.json_schema.schema": "output_config.format.schema",
           "reasoning_effort": "output_config.effort", "chat_template_kwargs": "thinking",
           "tools.*.function.name": "tools.*.name", "tools.*.function.parameters": "tools.*.input_schema",
           "tool_choice.function.name": "tool_choice.name"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _said(blocks: list[TextPart]) -> str:
    """Return the text of blocks, on lines of their own."""
    return "\n".join(block.text for block in blocks)


class ContentBlock(OpenAIBody):
    """A part of a turn."""

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"] = Field(
        description='"text", "thinking", "tool_use" or "tool_result": the model only reads text')
    text: Text = Field("", description=TEXT)
    thinking: Text = Field("", description=TEXT)
    signature: str = Field("", description=UNUSED)
    data: str = Field("", description=UNUSED)
    id: str = Field("", description="a string")
    name: str = Field("", description="a string")
    input: dict[str, Any] = Field({}, description="an object")
    tool_use_id: str = Field("", description="a string")
    content: TextParts = Field([], description=_TEXT_OR_BLOCKS)
    is_error: bool = Field(False, description="true or false, which changes nothing: let the text say it")


#: The fields that a block of each type needs.
_NEEDED = {"text": ("text",), "thinking": ("thinking",), "redacted_thinking": (), "tool_use": ("id", "name", "input"),
           "tool_result": ("tool_use_id",)}
_ContentList = Annotated[list[ContentBlock], Field(min_length=1, fail_fast=True)]
_Content = Annotated[_ContentList, BeforeValidator(in_parts("text"), json_schema_input_type=str | _ContentList)]


class InputMessage(OpenAIBody):
    """A turn of a conversation."""

    role: Literal["user", "assistant", "system"] = Field(description='"user", "assistant" or "system"')
    content: _Content = Field(description="a string or a non-empty list of blocks")

    def turns(self, at: str) -> list[dict[str, Any]]:
        """Return this as turns of a chat: what tools have answered, and then what is said.

        Args:
            at: the name of the field that this is.

        Raises:
            InvalidRequest: a block lacks something, or isn't one of this role.
        """
        said: list[str] = []
        calls: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        thought = ""
        for index, block in enumerate(self.content):
            self._require(block, f"{at}.content.{index}")
            if block.type == "text":
                said.append(block.text)
            elif block.type == "thinking":
                thought += block.thinking
            elif block.type == "tool_use":
                calls.append({"id": block.id, "type": "function",
                              "function": {"name": block.name, "arguments": json.dumps(block.input)}})
            elif block.type == "tool_result":
                results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _said(block.content)})
        if not (said or calls or thought):
            return results
        more = {"reasoning_content": thought, "tool_calls": calls}
        turn = {"role": self.role, **({"content": "\n".join(said)} if said else {}),
                **{name: value for name, value in more.items() if value}}
        return [*results, turn]

    def _require(self, block: ContentBlock, at: str) -> None:
        for name in _NEEDED[block.type]:
            if name not in block.model_fields_set:
                description = ContentBlock.model_fields[name].description
                raise missing(f"{at}.{name}", description)
        if nested(block.input):
            raise InvalidRequest(f"'{at}.input' has to be nested less than {MOST_NESTED} deep.", param=f"{at}.input")
        role = {"text": self.role, "tool_result": "user"}.get(block.type, "assistant")
        if role != self.role:
            raise InvalidRequest(f"'{at}' has to be in a turn whose role is '{role}'.", param=at)


class CustomTool(OpenAIBody):
    """A tool of the caller's that the model may use."""

    type: Literal["custom"] = Field("custom", description='"custom" or left out: there are no tools but the caller\'s')
    name: str = Field(description="a string")
    description: Text = Field("", description=TEXT)
    input_schema: dict[str, Any] = Field(description="a JSON schema")
    strict: bool = Field(False, description="true or false")

    def translated(self) -> dict[str, Any]:
        """Return this as a tool of a body for chats."""
        return {"type": "function", "function": {"name": self.name, "description": self.description,
                                                 "parameters": self.input_schema, "strict": self.strict}}


class ToolChoice(OpenAIBody):
    """Whether the model has to use a tool, and which."""

    type: Literal["auto", "any", "tool", "none"] = Field(description='"auto", "any", "tool" or "none"')
    name: str = Field("", description="a string")
    disable_parallel_tool_use: bool = Field(False, description="true or false")

    def translated(self) -> dict[str, Any]:
        """Return the fields of a body for chats.

        Raises:
            InvalidRequest: a tool is to be used that isn't named.
        """
        if self.type == "tool" and not self.name:
            raise missing("tool_choice.name", "the name of a tool")
        named = {"type": "function", "function": {"name": self.name}}
        return {"tool_choice": named if self.type == "tool" else _CHOICES[self.type],
                "parallel_tool_calls": not self.disable_parallel_tool_use}


class Thinking(OpenAIBody):
    """Whether the model is to think before it answers."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"] = Field(
        description='"enabled", "adaptive" or "disabled"')
    budget_tokens: int = Field(0, ge=0, description="a whole number, which changes nothing: max_tokens counts all")
    display: str = Field("", description=UNUSED)


class OutputConfig(OpenAIBody):
    """The form of the answer."""

    effort: str = Field("", description="a string, which the model's template may heed")
    format: dict[str, Any] = Field({}, description='an object such as {"type": "json_schema", "schema": a JSON schema}')

    def translated(self) -> dict[str, Any]:
        """Return the fields of a body for chats."""
        told: dict[str, Any] = {"reasoning_effort": self.effort} if self.effort else {}
        if self.format:
            told["response_format"] = {"type": self.format.get("type"), "json_schema": {
                "name": "output", "schema": self.format.get("schema"), "strict": True}}
        return told


class Metadata(OpenAIBody):
    """Whom a request is for."""

    user_id: str = Field("", description=UNUSED)


class CountTokensBody(OpenAIBody):
    """`POST /v1/messages/count_tokens`."""

    model: str = Field("", description="a string")
    messages: list[InputMessage] = Field(
        fail_fast=True, min_length=1, max_length=MOST_MESSAGES,
        description=f"a non-empty list of up to {MOST_MESSAGES} messages")
    system: TextParts = Field([], description=_TEXT_OR_BLOCKS)
    tools: list[CustomTool] = Field(
        [], fail_fast=True, max_length=MOST_TOOLS,
        description=f"a list of up to {MOST_TOOLS} tools, where the model's engine can be held to calls")
    tool_choice: ToolChoice | None = Field(None, description='an object such as {"type": "auto"}')
    thinking: Thinking | None = Field(None, description='an object such as {"type": "disabled"}')
    output_config: OutputConfig | None = Field(None, description="an object")

    def translated(self) -> Translated:
        """Return this as a body for chats.

        Raises:
            InvalidRequest: something is missing, or in a wrong place.
        """
        if self.messages[-1].role == "assistant":
            raise InvalidRequest("'messages' has to end with a turn of the user: an answer can't be begun for the "
                                 "model.", param="messages")
        system = [{"role": "system", "content": _said(self.system)}] if self.system else []
        turns = [turn for index, message in enumerate(self.messages) for turn in message.turns(f"messages.{index}")]
        told: dict[str, Any] = {"model": self.model, "messages": [*system, *turns]}
        told["tools"] = [tool.translated() for tool in self.tools]
        told.update(self.tool_choice.translated() if self.tool_choice is not None else {})
        if self.thinking is not None:
            thinks = self.thinking.type != "disabled"
            # By these names templates ask whether the model is to reason.
            told["chat_template_kwargs"] = {"enable_thinking": thinks, "thinking": thinks}
        if self.output_config is not None:
            told.update(self.output_config.translated())
        return Translated(told, _CALLED)


_StopList = Annotated[list[str], Field(max_length=MOST_STOPS, fail_fast=True)]


class MessagesBody(CountTokensBody):
    """`POST /v1/messages`."""

    max_tokens: int = Field(ge=1, description=MAX_TOKENS)
    stop_sequences: _StopList = Field([], description=f"a list of up to {MOST_STOPS} strings")
    stream: bool = Field(False, description="true or false")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, ge=0, le=1, description="a number from 0 to 1")
    top_k: int = Field(0, ge=0, le=100_000, description="a whole number from 0 (all tokens) to 100000")
    metadata: Metadata | None = Field(None, description="an object")
    service_tier: str = Field("", description=UNUSED)
    container: None = Field(None, description="left out: nothing is run here")
    mcp_servers: Annotated[list[Any], Field(max_length=0)] = Field(
        [], description="left out: no servers are asked here")

    def translated(self) -> Translated:
        """See the base."""
        meant = super().translated()
        meant.told.update({name: getattr(self, name) for name in (
            "max_tokens", "stream", "temperature", "top_p", "top_k")}, stop=self.stop_sequences)
        return meant
