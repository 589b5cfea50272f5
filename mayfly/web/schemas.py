"""The bodies of the native routes, validated by pydantic.

Nothing is converted: "5" isn't 5, true isn't 1, 1.0 isn't a whole number, and an unknown field is refused by its name.
Null is an absent field. Of several mistakes the client is told the first, which ends the validation, in one sentence
that says what is allowed; never with text of its own but the name of a field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mayfly.engines.backends import Backend
from mayfly.errors import InvalidRequest
from mayfly.web.answer_forms import form_of_grammar, form_of_object, form_of_regex, form_of_schema
from mayfly.web.refusals import TEXT as TEXT
from mayfly.web.refusals import allowed_in, refusal
from mayfly.web.sieve import harmless, sift
from mayfly.wire.calls import Form, Message, Sampling

_GPT4ALL = Sampling()

MOST_STOPS = 16
MOST_BIASES = 1024

# Of fields that name the caller or tune the provider's own cache: there is nothing here that they could change.
UNUSED = "a string, which changes nothing"

MAX_TOKENS = "a whole number from 1 on; more than the window holds means up to its end"


class Body(BaseModel):
    """What all bodies have in common. A field's description completes the sentence "'field' has to be ..."."""

    # Built when the first one comes: all of them together would take a fifth of the web process's start.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True,
                              allow_inf_nan=False)

    #: Fields' other names: older clients send them.
    aliases: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say in the JSON schema too that null is allowed."""
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        for name, field in resolved.get("properties", {}).items():
            nullable = field.get("type") == "null" or {"type": "null"} in field.get("anyOf", [])
            if name not in resolved.get("required", []) and not nullable:
                outer = {key: field.pop(key) for key in ("description", "default", "title") if key in field}
                resolved["properties"][name] = {"anyOf": [field, {"type": "null"}], **outer}
        return schema


class OpenAIBody(Body):
    """What the bodies have in common that other APIs' clients send: what isn't known is ignored."""

    model_config = ConfigDict(extra="ignore")


BodyT = TypeVar("BodyT", bound=Body)
Entry = TypeVar("Entry")


def listed(value: Any) -> Any:
    """Return a string as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def _stops(value: Any) -> Any:
    """Return the strings at which to stop: an empty one, as a form has it that wasn't filled, is none."""
    return [stop for stop in listed(value) if stop != ""] if isinstance(value, str | list) else value


_StopList = Annotated[list[str], Field(max_length=MOST_STOPS, fail_fast=True)]
Stops = Annotated[_StopList, BeforeValidator(_stops, json_schema_input_type=str | _StopList)]
STOPS = f"a string or a list of up to {MOST_STOPS} of them"


_TextList = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Texts = Annotated[_TextList, BeforeValidator(listed, json_schema_input_type=str | _TextList)]


# gpt4all would cut a text at NUL.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


def at_most(name: str, entries: Sequence[Entry], most: int) -> Sequence[Entry]:
    """Return the entries of a field, at most `most` of them."""
    if len(entries) > most:
        raise InvalidRequest(f"'{name}' has {len(entries)} entries, but at most {most} (MAX_TEXTS) are allowed: send "
                             "them in several requests.", param=name, code="too_many_texts")
    return entries


class EmbedBody(Body):
    """`POST /embed`."""

    input: Texts = Field(description="a string or a non-empty list of strings")
    model: str = Field("", description=UNUSED)
    encoding_format: Literal["float", "base64"] = Field("float", description='"float" or "base64"')
    long_text: Literal["mean", "truncate"] = Field("mean", description='"mean" or "truncate"')
    dimensions: int | None = Field(None, ge=1, description="the length of the model's vectors, or left out")
    user: str = Field("", description=UNUSED)

    def texts(self, most: int) -> tuple[str, ...]:
        """Return the texts to embed, at most `most` of them.

        NUL is removed, as the text cleaning of BERT's tokenizer does it: gpt4all would end the text there.
        """
        return tuple(text.replace("\0", "") if "\0" in text else text for text in at_most("input", self.input, most))


def _few(value: Any) -> Any:
    """Refuse too many entries before each is looked at."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError("too many")
    return value


_TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
_Biases = Annotated[dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_few)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_WHERE_SAMPLER = "where the model's engine has such a sampler"
_PENALTY = "a number from -2 to 2, where the model's engine has such a penalty"

_NO_FORM = "{engine} can't be held to a form, llamacpp can"
_WHERE_FORM = "where the model's engine can be held to a form"

#: Fields that an engine may have nothing for: how a refusal ends then. What they are left out is their default.
_LACKING = {
    "seed": "left out: {engine} takes no seed",
    "logit_bias": "empty or left out: {engine} can't bias tokens",
    "frequency_penalty": "0 or left out: {engine} has repeat_penalty instead",
    "presence_penalty": "0 or left out: {engine} has repeat_penalty instead",
    "typical_p": "1 or left out: {engine} has no such filter",
    "dry_multiplier": "0 or left out: {engine} has repeat_penalty instead",
    "xtc_probability": "0 or left out: {engine} has no such sampler",
    "n_ctx": "left out: {engine} has the model's whole window",
    "suffix": "left out: {engine} can't fill gaps, llamacpp can with models that have tokens for it",
    "logprobs": "left out: {engine} gives no probabilities",
    "top_logprobs": "0 or left out: {engine} gives no probabilities",
    "response_format": f"of the type text or left out: {_NO_FORM}",
    "format": f"left out: {_NO_FORM}",
    "grammar": f"left out: {_NO_FORM}",
    "regex": f"left out: {_NO_FORM}",
    "tools": "empty or left out: {engine} can't be held to calls of tools, llamacpp can",
}


# Variables that a chat template gets from here.
_OWN_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now"))
MOST_NESTED = 32


def nested(value: Any, most: int = MOST_NESTED) -> bool:
    """Tell whether objects and lists are nested in a value deeper than `most`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not most or nested(each, most - 1) for each in inner if isinstance(each, (dict, list)))


class TemplatedBody(Body):
    """What the bodies have in common whose messages are put into a chat template."""

    reasoning_effort: str | None = Field(
        None, pattern="^[a-z]{1,16}$", description='a word such as "none", "low" or "high", for models that reason')
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="an object of variables for the model's chat template")

    def template_kwargs(self) -> dict[str, Any]:
        """Return the variables that the model's chat template gets.

        Raises:
            InvalidRequest: one has a name that it can't have, or too much in it.
        """
        for name in self.chat_template_kwargs:
            if not name.isidentifier() or name in _OWN_VARIABLES:
                raise InvalidRequest(f"'chat_template_kwargs' has to be without '{harmless(name)}': the name has to be "
                                     "one of a variable, and none that the service itself gives.",
                                     param="chat_template_kwargs")
        if nested(self.chat_template_kwargs):
            raise InvalidRequest(f"'chat_template_kwargs' has to be nested less than {MOST_NESTED} deep.",
                                 param="chat_template_kwargs")
        effort = self.reasoning_effort
        # By these names templates ask whether the model is to reason.
        told = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none",
                                          "thinking": effort != "none"}
        return {**told, **self.chat_template_kwargs}


class SampledBody(Body):
    """What all bodies for completions have in common. The defaults are gpt4all's own; `top_k` 0 means all tokens."""

    aliases: ClassVar[Mapping[str, str]] = {"repeat_penality": "repeat_penalty"}

    model: str = Field("", description="a string")
    max_tokens: int | None = Field(None, ge=1, description=MAX_TOKENS)
    temperature: float = Field(_GPT4ALL.temperature, ge=0, le=2, description="a number from 0 to 2")
    top_k: int = Field(_GPT4ALL.top_k, ge=0, le=100_000, description="a whole number from 0 (all tokens) to 100000")
    top_p: float = Field(_GPT4ALL.top_p, gt=0, le=1, description="a number above 0, up to 1")
    min_p: float = Field(_GPT4ALL.min_p, ge=0, le=1, description="a number from 0 to 1")
    repeat_penalty: float = Field(_GPT4ALL.repeat_penalty, gt=0, le=10, description="a number above 0, up to 10")
    repeat_last_n: int = Field(_GPT4ALL.repeat_last_n, ge=0, description="a whole number from 0 to {n_ctx} (N_CTX)")
    stop: Stops = Field([], description=STOPS)
    stream: bool = Field(False, description="true or false")
    seed: int | None = Field(
        None, ge=-1 << 63, lt=1 << 63, description="a whole number of 64 bits, where the model's engine takes one")
    n_ctx: int | None = Field(
        None, ge=1, description="a whole number from 1 to the model's window, where its engine can do with less")
    typical_p: float = Field(
        1.0, gt=0, le=1, description="a number above 0, up to 1, where the model's engine has such a filter")
    dry_multiplier: float = Field(0.0, ge=0, le=10, description=f"a number from 0 to 10, {_WHERE_SAMPLER}")
    dry_base: float = Field(1.75, ge=1, le=10, description="a number from 1 to 10")
    dry_allowed_length: int = Field(2, ge=1, le=1000, description="a whole number from 1 to 1000")
    xtc_probability: float = Field(0.0, ge=0, le=1, description=f"a number from 0 to 1, {_WHERE_SAMPLER}")
    xtc_threshold: float = Field(0.1, ge=0, le=0.5, description="a number from 0 to 0.5")
    logit_bias: _Biases = Field(
        {}, description=f"an object of up to {MOST_BIASES} token ids, each with a number from -100 to 100, where the "
                        "model's engine can bias tokens")
    frequency_penalty: _Penalty = Field(0, description=_PENALTY)
    presence_penalty: _Penalty = Field(0, description=_PENALTY)
    grammar: Text = Field("", description=f"a grammar in Lark's form or in GBNF, {_WHERE_FORM}")
    regex: Text = Field("", description=f"a regular expression that the whole answer matches, {_WHERE_FORM}")

    def most_tokens(self) -> int | None:
        """Return how many tokens are sampled at most; None is up to the window's end."""
        return self.max_tokens

    def sampling(self, n_ctx: int) -> Sampling:
        """Return how tokens are to be chosen, for a window of `n_ctx` tokens: the fields that Sampling has, too.

        Raises:
            InvalidRequest: a number is larger than the window.
        """
        if "repeat_last_n" in self.model_fields_set and self.repeat_last_n > n_ctx:
            raise InvalidRequest(f"'repeat_last_n' has to be {allowed_in(type(self), 'repeat_last_n', n_ctx)}.",
                                 param="repeat_last_n")
        most = self.most_tokens()
        chosen = {each.name: getattr(self, each.name) for each in dataclasses.fields(Sampling)
                  if each.name in type(self).model_fields}
        chosen.update(max_tokens=most and min(most, n_ctx), repeat_last_n=min(self.repeat_last_n, n_ctx),
                      stop=tuple(self.stop), logprobs=self.alternatives(), form=self.form())
        return Sampling(**chosen)

    def form(self) -> Form | None:
        """Return what the answer is held to.

        Raises:
            InvalidRequest: to more than one form.
        """
        forms = [each for each in (self.json_form(), form_of_grammar(self.grammar), form_of_regex(self.regex)) if each]
        if len(forms) > 1:
            first, second = forms[:2]
            raise InvalidRequest(f"'{second.param}' has to be left out where '{first.param}' is sent: an answer has "
                                 "one form.", param=second.param)
        return forms[0] if forms else None

    def json_form(self) -> Form | None:
        """Return what of it is asked for as JSON."""
        return None

    def alternatives(self) -> int | None:
        """Return how many of the likeliest tokens are told with the log-probability of each; None tells none."""
        return None

    def require_features(self, engine: Backend) -> None:
        """Check what is asked for against what the engine can that will serve it.

        Raises:
            InvalidRequest: it has nothing for a field that isn't left out.
        """
        for name in self.features():
            if name not in engine.features:
                raise InvalidRequest(f"'{name}' has to be {_LACKING[name].format(engine=engine.name)}.", param=name)

    def features(self) -> tuple[str, ...]:
        """Return the fields that aren't left out and that an engine may have nothing for."""
        fields = type(self).model_fields
        return tuple(name for name in _LACKING if name in fields and getattr(self, name) != fields[name].default)


class CompletionBody(SampledBody, TemplatedBody):
    """`POST /gpt4all_api`."""

    aliases: ClassVar[Mapping[str, str]] = {**SampledBody.aliases, "temp": "temperature"}

    prompt: Text = Field(description=TEXT)
    persona: Text = Field("", description=TEXT)
    assist: Text = Field("", description=TEXT)
    # What gpt4all would do with less than 1 token or more than the window holds is not what anybody wants.
    max_tokens: int = Field(_GPT4ALL.max_tokens or 200, ge=1, description=MAX_TOKENS)

    format: Literal["", "json"] | dict[str, Any] = Field("", description=f'"json" or a JSON schema, {_WHERE_FORM}')

    def json_form(self) -> Form | None:
        """See SampledBody."""
        if self.format == "json":
            return form_of_object("format")
        return form_of_schema(self.format, "format") if isinstance(self.format, dict) else None

    def messages(self) -> tuple[Message, ...]:
        """Return the conversation: the persona, the earlier answer and the prompt, as far as there are any.

        Raises:
            InvalidRequest: the prompt is empty.
        """
        if not self.prompt.strip():
            raise InvalidRequest("'prompt' has to be a string that isn't empty or blank.", param="prompt")
        turns = (Message("system", self.persona), Message("assistant", self.assist), Message("user", self.prompt))
        return tuple(turn for turn in turns if turn.content.strip())


def validate(model: type[BodyT], body: dict[str, Any], ignored: list[str], *, n_ctx: int = 0) -> BodyT:
    """Return a body of the given kind.

    Args:
        body: the parsed JSON.
        ignored: takes the names of fields that the client has sent and this body doesn't know; see `sift`.
        n_ctx: the window in tokens, for messages that name it.

    Raises:
        InvalidRequest: a field is missing, unknown where that isn't ignored, given under two names, or not what it has
            to be.
    """
    sent_as: dict[str, str] = {}
    for alias, name in model.aliases.items():
        value = body.pop(alias, None)
        if value is not None:
            if body.get(name) is not None:
                raise InvalidRequest(f"'{alias}' and '{name}' are two names of one field: send one of them.",
                                     param=alias)
            body[name] = value
            sent_as[name] = alias
    unknown: dict[str, None] = {}
    kept = sift(model, body, unknown)
    ignored.extend(unknown)
    try:
        return model.model_validate(kept)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        raise refusal(model, error["type"], error["loc"], error["input"], n_ctx, sent_as) from None
