"""The bodies of the routes that count tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from mayfly.web.schemas import TEXT, OpenAIBody, Text, at_most, listed

_TextList = Annotated[list[Text], Field(min_length=1, fail_fast=True)]
_Texts = Annotated[_TextList, BeforeValidator(listed, json_schema_input_type=str | _TextList)]


class TokenizeBody(OpenAIBody):
    """`POST /v1/tokenize`."""

    input: _Texts = Field(description="a string or a non-empty list of strings")
    model: str = Field("", description="a string")

    def texts(self, most: int) -> tuple[str, ...]:
        """Return the texts, at most `most` of them."""
        return tuple(at_most("input", self.input, most))


class TokenCheckItem(OpenAIBody):
    """One prompt of `POST /api/v1/token_check`."""

    model: str = Field(description="a string")
    prompt: Text = Field(description=TEXT)
    max_tokens: int = Field(ge=0, le=1 << 31, description="a whole number from 0 on")


class TokenCheckBody(OpenAIBody):
    """`POST /api/v1/token_check`, in FastChat's form."""

    prompts: list[TokenCheckItem] = Field(
        fail_fast=True, min_length=1, description="a non-empty list of objects with model, prompt and max_tokens")

    def items(self, most: int) -> Sequence[TokenCheckItem]:
        """Return the prompts, at most `most` of them."""
        return at_most("prompts", self.prompts, most)
