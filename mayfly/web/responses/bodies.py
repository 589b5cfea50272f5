"""The body of `POST /v1/responses`, and what it means in the fields of a body for chats, which is validated further.

Nothing is kept here, so what asks for something that was kept is refused by name; whether an answer is to be kept
changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mayfly.errors import InvalidRequest
from mayfly.web.openai_schemas import MOST_MESSAGES, StreamOptions, in_parts
from mayfly.web.refusals import missing
from mayfly.web.schemas import MAX_TOKENS, TEXT, UNUSED, OpenAIBody, Text
from mayfly.web.tool_schemas import MOST_TOOLS
from mayfly.web.translating import Translated

_LOGPROBS = "message.output_text.logprobs"
_NOT_KEPT = "left out: nothing is kept here, so send the whole conversation as 'input'"
# What fields of a body for chats are called here.
_CALLED = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format",
           "response_format.json_schema.schema": "text.format.schema", "logprobs": "include",
           "reasoning_effort": "reasoning.effort", "tools.*.function.name": "tools.*.name",
           "tools.*.function.parameters": "tools.*.parameters", "tool_choice.function.name": "tool_choice.name"}


class ContentPart(OpenAIBody):
    """A part of what an item says."""

    type: Literal["input_text", "output_text", "refusal", "summary_text", "reasoning_text"] = Field(
        description='"input_text" or "output_text": the model reads nothing else')
    text: Text = Field("", description=TEXT)
    refusal: Text = Field("", description=TEXT)


_PartList = Annotated[list[ContentPart], Field(fail_fast=True)]
_Content = Annotated[_PartList, BeforeValidator(in_parts("input_text"), json_schema_input_type=str | _PartList)]
_TEXT_OR_PARTS = 'a string or a list of {"type": "input_text", "text": a string}'


class InputItem(OpenAIBody):
    """A turn of a conversation, a call of a tool by the model, what came of it, or what the model thought."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = Field(
        "message", description='"message", "function_call", "function_call_output" or "reasoning": there are no tools '
                               "here but the caller's functions")
    role: Literal["system", "developer", "user", "assistant"] | None = Field(
        None, description='"system", "developer", "user" or "assistant"')
    content: _Content = Field([], description=_TEXT_OR_PARTS)
    id: str = Field("", description=UNUSED)
    status: str = Field("", description=UNUSED)
    call_id: str = Field("", description="a string")
    name: str = Field("", description="a string")
    arguments: Text = Field("", description=TEXT)
    output: _Content = Field([], description=_TEXT_OR_PARTS)
    summary: _Content = Field([], description=_TEXT_OR_PARTS)


#: The fields that an item of each type needs.
_NEEDED = {"message": ("role",), "function_call": ("call_id", "name"), "function_call_output": ("call_id", "output"),
           "reasoning": ()}


def _said(parts: list[ContentPart]) -> str:
    """Return the text of parts, on lines of their own."""
    return "\n".join(part.text or part.refusal for part in parts)


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


_ItemList = Annotated[list[InputItem], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
_Items = Annotated[_ItemList, BeforeValidator(_as_items, json_schema_input_type=str | _ItemList)]


class FunctionTool(OpenAIBody):
    """A function of the caller's that the model may call."""

    type: Literal["function"] = Field(description='"function": there are no other tools here')
    name: str = Field(description="a string")
    description: Text = Field("", description=TEXT)
    parameters: dict[str, Any] = Field({}, description="a JSON schema")
    strict: bool = Field(False, description="true or false")

    def translated(self) -> dict[str, Any]:
        """Return this as a tool of a body for chats."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_unset=True)}


class ChosenFunction(OpenAIBody):
    """The function that the model has to call."""

    type: Literal["function"] = Field(description='"function"')
    name: str = Field(description="a string")


class TextConfig(OpenAIBody):
    """The form of the answer's text."""

    format: dict[str, Any] = Field({}, description='an object such as {"type": "text"}')

    def translated(self) -> dict[str, Any]:
        """Return the fields of a body for chats."""
        if not self.format:
            return {}
        schema = {name: value for name, value in self.format.items() if name != "type"}
        return {"response_format": {"type": self.format.get("type"), **({"json_schema": schema} if schema else {})}}

    def shown(self) -> dict[str, Any]:
        """Return what an answer repeats of the format, once it has been found to be one."""
        kind = self.format.get("type", "text")
        if kind != "json_schema":
            return {"type": kind}
        told = {name: value for name, value in self.format.items() if isinstance(value, str | bool)}
        return {**told, "schema": self.format["schema"]}


class Reasoning(OpenAIBody):
    """How the model is to think."""

    effort: str = Field("", description="a string, which the model's template may heed")
    summary: str = Field("", description="a string, which changes nothing: what is thought is answered as it is")


class ResponsesBody(OpenAIBody):
    """`POST /v1/responses`."""

    model: str = Field("", description="a string")
    input: _Items = Field(description=f"a string or a non-empty list of up to {MOST_MESSAGES} items")
    instructions: Text = Field("", description=TEXT)
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(None, description="an object, and only with stream: true")
    max_output_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, ge=0, le=1, description="a number from 0 to 1")
    text: TextConfig | None = Field(None, description="an object")
    reasoning: Reasoning | None = Field(None, description="an object")
    tools: list[FunctionTool] = Field(
        [], fail_fast=True, max_length=MOST_TOOLS,
        description=f"a list of up to {MOST_TOOLS} functions, where the model's engine can be held to calls")
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction = Field(
        "auto", description='"none", "auto", "required" or {"type": "function", "name": a string}')
    parallel_tool_calls: bool = Field(True, description="true or false")
    truncation: Literal["auto", "disabled"] = Field(
        "disabled", description='"auto" (the oldest turns are left out where the window has no room) or "disabled"')
    include: list[str] = Field([], fail_fast=True, max_length=MOST_MESSAGES, description="a list of strings")
    top_logprobs: int = Field(0, ge=0, le=20, description="a whole number from 0 to 20")
    metadata: dict[str, str] = Field({}, description="an object of strings")
    store: bool = Field(False, description="true or false, which changes nothing: nothing is kept here")
    previous_response_id: None = Field(None, description=_NOT_KEPT)
    conversation: None = Field(None, description=_NOT_KEPT)
    prompt: None = Field(None, description="left out: no prompts are kept here; send it as 'instructions' and 'input'")
    background: Literal[False] = Field(
        False, description="false or left out: nothing is kept here, so an answer can't be asked for later")
    service_tier: str = Field("", description=UNUSED)
    prompt_cache_key: str = Field("", description=UNUSED)
    safety_identifier: str = Field("", description=UNUSED)
    user: str = Field("", description=UNUSED)

    def translated(self) -> Translated:
        """Return this as a body for chats.

        Raises:
            InvalidRequest: an item lacks something.
        """
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        told: dict[str, Any] = {
            "model": self.model, "stream": self.stream, "messages": [*instructions, *self._messages()],
            "max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        chosen = self.tool_choice
        told.update(tools=[tool.translated() for tool in self.tools], parallel_tool_calls=self.parallel_tool_calls,
                    tool_choice={"type": "function", "function": {"name": chosen.name}}
                    if isinstance(chosen, ChosenFunction) else chosen)
        if self.text is not None:
            told.update(self.text.translated())
        if self.reasoning is not None and self.reasoning.effort:
            told["reasoning_effort"] = self.reasoning.effort
        if _LOGPROBS in self.include:
            told.update(logprobs=True, top_logprobs=self.top_logprobs)
        return Translated(told, _CALLED, drop_oldest=self.truncation == "auto")

    def shown(self) -> dict[str, Any]:
        """Return what an answer repeats of this."""
        chosen = self.tool_choice
        return {
            "background": False, "instructions": self.instructions or None, "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata, "parallel_tool_calls": self.parallel_tool_calls, "previous_response_id": None,
            "reasoning": {"effort": (self.reasoning and self.reasoning.effort) or None, "summary": None},
            "store": False, "temperature": self.temperature,
            "text": {"format": (self.text or TextConfig(format={})).shown()},
            "tool_choice": chosen.model_dump() if isinstance(chosen, ChosenFunction) else chosen,
            "tools": [tool.model_dump() for tool in self.tools], "top_logprobs": self.top_logprobs,
            "top_p": self.top_p, "truncation": self.truncation}

    def _messages(self) -> list[dict[str, Any]]:
        """Return the items as turns: calls, and what was thought, belong to the assistant's turn that they are next to.

        Raises:
            InvalidRequest: an item lacks something.
        """
        turns: list[dict[str, Any]] = []
        for index, item in enumerate(self.input):
            # A reference may lack its type.
            if item.type == "item_reference" or item.model_fields_set == {"id"}:
                raise InvalidRequest(f"'input.{index}' has to be the item itself: nothing is kept here that it could "
                                     "refer to. The AI SDK sends items with providerOptions: {openai: {store: false}}.",
                                     param=f"input.{index}")
            for name in _NEEDED[item.type]:
                if name not in item.model_fields_set:
                    description = InputItem.model_fields[name].description
                    raise missing(f"input.{index}.{name}", description)
            if item.type == "function_call_output":
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": _said(item.output)})
            elif item.type == "message" and item.role != "assistant":
                if not item.content:
                    raise InvalidRequest(f"'input.{index}.content' has to be {_TEXT_OR_PARTS}.",
                                         param=f"input.{index}.content")
                turns.append({"role": item.role, "content": _said(item.content)})
            else:
                _assist(turns, item)
        return turns


def _assist(turns: list[dict[str, Any]], item: InputItem) -> None:
    """Add an item of the assistant's to its turn; what is thought, or said, after a call begins another one."""
    turn = turns[-1] if turns and turns[-1]["role"] == "assistant" else None
    if turn is None or (item.type != "function_call" and ("content" in turn or "tool_calls" in turn)):
        turns.append(turn := {"role": "assistant"})
    if item.type == "reasoning":
        turn["reasoning_content"] = _said(item.content or item.summary)
    elif item.type == "message":
        turn["content"] = _said(item.content)
    else:
        turn.setdefault("tool_calls", []).append(
            {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}})
