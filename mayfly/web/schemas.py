"""The bodies of the native routes, validated by pydantic.

Nothing is converted: "5" isn't 5, true isn't 1, 1.0 isn't a whole number, null isn't an absent field, and an unknown
field is refused by its name. Of several mistakes the client is told the first, in one sentence that says what is
allowed; never with text of its own but the name of a field.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mayfly.errors import InvalidRequest
from mayfly.lanes.calls import Message, Sampling
from mayfly.web.bodies import kind

_GPT4ALL = Sampling()

MOST_STOPS = 16


class Body(BaseModel):
    """What all bodies have in common. A field's description completes the sentence "'field' has to be ..."."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True,
                              allow_inf_nan=False)


BodyT = TypeVar("BodyT", bound=Body)


def listed(value: Any) -> Any:
    """Return a string as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


_Stop = Annotated[str, Field(min_length=1)]
_StopList = Annotated[list[_Stop], Field(max_length=MOST_STOPS)]
Stops = Annotated[_StopList, BeforeValidator(listed, json_schema_input_type=_Stop | _StopList)]
STOPS = f"a non-empty string or a list of up to {MOST_STOPS} of them"


_TextList = Annotated[list[str], Field(min_length=1)]
Texts = Annotated[_TextList, BeforeValidator(listed, json_schema_input_type=str | _TextList)]


class EmbedBody(Body):
    """`POST /embed`."""

    input: Texts = Field(description="a string or a non-empty list of strings")
    model: str = Field("", description="a string")
    encoding_format: Literal["float", "base64"] = Field("float", description='"float" or "base64"')
    long_text: Literal["mean", "truncate"] = Field("mean", description='"mean" or "truncate"')

    def texts(self, most: int) -> tuple[str, ...]:
        """Return the texts to embed, at most `most` of them.

        NUL is removed, as the text cleaning of BERT's tokenizer does it: gpt4all would end the text there.
        """
        if len(self.input) > most:
            raise InvalidRequest(f"'input' has {len(self.input)} texts, but at most {most} (MAX_TEXTS) are allowed: "
                                 "send them in several requests.", param="input", code="too_many_texts")
        return tuple(text.replace("\0", "") if "\0" in text else text for text in self.input)


class CompletionBody(Body):
    """`POST /gpt4all_api`. The defaults are gpt4all's own; `top_k` 0 means all tokens."""

    prompt: str = Field(description="a string")
    persona: str = Field("", description="a string")
    assist: str = Field("", description="a string")
    model: str = Field("", description="a string")
    # What gpt4all would do with less than 1 token or more than the window holds is not what anybody wants.
    max_tokens: int = Field(_GPT4ALL.max_tokens or 200, ge=1, description="a whole number from 1 to {n_ctx} (N_CTX)")
    temperature: float = Field(_GPT4ALL.temperature, ge=0, le=2, description="a number from 0 to 2")
    top_k: int = Field(_GPT4ALL.top_k, ge=0, le=100_000, description="a whole number from 0 (all tokens) to 100000")
    top_p: float = Field(_GPT4ALL.top_p, gt=0, le=1, description="a number above 0, up to 1")
    min_p: float = Field(_GPT4ALL.min_p, ge=0, le=1, description="a number from 0 to 1")
    repeat_penalty: float = Field(_GPT4ALL.repeat_penalty, gt=0, le=10, description="a number above 0, up to 10")
    repeat_last_n: int = Field(_GPT4ALL.repeat_last_n, ge=0, description="a whole number from 0 to {n_ctx} (N_CTX)")
    stop: Stops = Field([], description=STOPS)
    stream: bool = Field(False, description="true or false")

    def messages(self) -> tuple[Message, ...]:
        """Return the conversation: the persona, the earlier answer and the prompt, as far as there are any.

        Raises:
            InvalidRequest: the prompt is empty, or a text holds NUL, at which gpt4all would cut it.
        """
        for name in ("prompt", "persona", "assist"):
            if "\0" in getattr(self, name):
                raise InvalidRequest(f"'{name}' has to be a string without NUL characters.", param=name)
        if not self.prompt.strip():
            raise InvalidRequest("'prompt' has to be a string that isn't empty or blank.", param="prompt")
        turns = (Message("system", self.persona), Message("assistant", self.assist), Message("user", self.prompt))
        return tuple(turn for turn in turns if turn.content.strip())

    def sampling(self, n_ctx: int) -> Sampling:
        """Return how tokens are to be chosen, for a window of `n_ctx` tokens."""
        for name in ("max_tokens", "repeat_last_n"):
            if name in self.model_fields_set and getattr(self, name) > n_ctx:
                raise InvalidRequest(f"'{name}' has to be {_allowed(type(self), name, n_ctx)}.", param=name)
        return Sampling(max_tokens=min(self.max_tokens, n_ctx), temperature=self.temperature, top_k=self.top_k,
                        top_p=self.top_p, min_p=self.min_p, repeat_penalty=self.repeat_penalty,
                        repeat_last_n=min(self.repeat_last_n, n_ctx), stop=tuple(self.stop))


# A field's other names: the seeds' clients send these.
ALIASES = {"temp": "temperature", "repeat_penality": "repeat_penalty"}


def validate(model: type[BodyT], body: dict[str, Any], *, n_ctx: int = 0,
             aliases: dict[str, str] | None = None) -> BodyT:
    """Return a body of the given kind.

    Args:
        body: the parsed JSON.
        n_ctx: the window in tokens, for messages that name it.
        aliases: other names of fields.

    Raises:
        InvalidRequest: a field is missing, unknown, given under two names, or not what it has to be.
    """
    sent_as: dict[str, str] = {}
    for alias, name in (aliases or {}).items():
        if alias in body:
            if name in body:
                raise InvalidRequest(f"'{alias}' and '{name}' are two names of one field: send one of them.",
                                     param=alias)
            body[name] = body.pop(alias)
            sent_as[name] = alias
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        raise _refusal(model, error["type"], error["loc"], error["input"], n_ctx, sent_as) from None


def _refusal(model: type[Body], problem: str, location: tuple[int | str, ...], value: object, n_ctx: int,
             sent_as: dict[str, str]) -> InvalidRequest:
    inner = _innermost(model, location)
    name = str(location[0])
    sent = sent_as.get(name, name)
    param = ".".join([sent, *(_harmless(str(part)) for part in location[1:])])
    if problem == "extra_forbidden":
        shown = _harmless(param) if len(location) == 1 else param
        known = ", ".join(inner.model_fields)
        return InvalidRequest(f"There is no field '{shown}' here: remove it. The fields are {known}.", param=shown,
                              code="unknown_field")
    last = location[-1]
    if isinstance(last, str):
        allowed = _allowed(inner, last, n_ctx)
    elif inner is not model:
        allowed = "an object"
    else:
        allowed = "a string" if problem == "string_type" else "a non-empty string"
    if problem == "missing":
        return InvalidRequest(f"The field '{param}' is missing: add it, with {allowed}.", param=param,
                              code="missing_field")
    suffix = f", not {kind(value)}" if problem.endswith("_type") else ""
    return InvalidRequest(f"'{param}' has to be {allowed}{suffix}.", param=param)


def _innermost(model: type[Body], location: tuple[int | str, ...]) -> type[Body]:
    """Return the kind of object that the last name of a location is a field of (or its list a list of)."""
    for part, after in zip(location, (*location[1:], None), strict=True):
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None and after is not None:
            model = _object_in(field.annotation) or model
    return model


def _object_in(annotation: Any) -> type[Body] | None:
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return annotation
    return next((found for part in get_args(annotation) if (found := _object_in(part)) is not None), None)


def _allowed(model: type[Body], name: str, n_ctx: int) -> str:
    return (model.model_fields[name].description or "").replace("{n_ctx}", str(n_ctx))


def _harmless(name: str) -> str:
    """Return the name of an unknown field in a form that does no harm in an answer or a log."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", name[:40])
