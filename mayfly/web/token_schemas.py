"""The bodies of the routes that count tokens."""

from __future__ import annotations

from pydantic import Field

from mayfly.errors import InvalidRequest
from mayfly.web.openai_schemas import OpenAIBody
from mayfly.web.schemas import Texts


class TokenizeBody(OpenAIBody):
    """`POST /v1/tokenize`."""

    input: Texts = Field(description="a string or a non-empty list of strings")
    model: str = Field("", description="a string")

    def texts(self, most: int) -> tuple[str, ...]:
        """Return the texts, at most `most` of them."""
        _check(self.input, "input", most)
        return tuple(self.input)


class TokenCheckItem(OpenAIBody):
    """One prompt of `POST /api/v1/token_check`."""

    model: str = Field(description="a string")
    prompt: str = Field(description="a string")
    max_tokens: int = Field(ge=0, le=1 << 31, description="a whole number from 0 on")


class TokenCheckBody(OpenAIBody):
    """`POST /api/v1/token_check`, in FastChat's form."""

    prompts: list[TokenCheckItem] = Field(
        fail_fast=True, min_length=1, description="a non-empty list of objects with model, prompt and max_tokens")

    def items(self, most: int) -> list[TokenCheckItem]:
        """Return the prompts, at most `most` of them."""
        _check([item.prompt for item in self.prompts], "prompts", most)
        return self.prompts


def _check(texts: list[str], name: str, most: int) -> None:
    if len(texts) > most:
        raise InvalidRequest(f"'{name}' has {len(texts)} entries, but at most {most} (MAX_TEXTS) are allowed: send "
                             "them in several requests.", param=name, code="too_many_texts")
    for index, text in enumerate(texts):
        if "\0" in text:
            raise InvalidRequest(f"'{name}.{index}' has to be without NUL characters.", param=f"{name}.{index}")
