"""The OpenAPI 3.1 document, made from the pydantic schemas that validate the bodies.

By hand from pydantic's own JSON schemas and not by flask-openapi3: that library wants to parse and validate the
bodies itself, with another JSON parser and another form of errors than the one this service promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mayfly import __version__
from mayfly.settings import Settings
from mayfly.web import answer_schemas as answers
from mayfly.web import health, openai_schemas, schemas, token_schemas

_REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "A field is missing, unknown or not what it has to be, or the prompt is too long: `param` names the field.",
    401: "A key is needed and there is none, or a wrong one.",
    403: "The Host or Origin isn't this machine's.",
    404: "There is no such path or model.",
    405: "The path takes another method.",
    408: "The request didn't arrive in time.",
    409: "Another model is being pulled.",
    413: "The body is larger than MAX_BODY.",
    415: "The body isn't said to be application/json.",
    429: "Too many requests wait already: try again after Retry-After seconds.",
    431: "The headers are too large.",
    500: "The model's process died twice on this request, or the engine failed.",
    501: "The Transfer-Encoding isn't known.",
    502: "A model can't be fetched: the network or the disk failed, or the file isn't what the list says.",
    503: "The model isn't available, or the service stops: try again after Retry-After seconds.",
    504: "The request took longer than REQUEST_TIMEOUT.",
}

_PULL_ALONE = (409, 502)


@dataclass(frozen=True)
class Operation:
    """One route.

    Attributes:
        aliases: other names of the body's fields.
        answer: the form of the answer's JSON; None where the answer is always an event stream.
        streams: whether `stream: true` is answered by an event stream.
        needs_key: whether even this machine's own programs need a key.
        examples: bodies that can be sent as they are, by their titles.
        fails_as: another form of some status than that of errors.
    """

    path: str
    method: str
    summary: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False
    needs_key: bool = False
    examples: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    fails_as: Mapping[int, type[BaseModel]] = field(default_factory=dict)


def operations(settings: Settings) -> list[Operation]:
    """Return all routes but those of the document itself."""
    vectors: dict[str, dict[str, Any]] = {"One text": {"input": "The cat sat on the mat."},
               "Several texts": {"input": ["The cat sat on the mat.", "A feline rested on the rug."],
                                 "encoding_format": "base64"}}
    hello = [{"role": "system", "content": "You are Ada, a lighthouse keeper."},
             {"role": "user", "content": "Who are you?"}]
    chats: dict[str, dict[str, Any]] = {
        "A question": {"messages": hello, "max_tokens": 20},
        "Streamed, with usage": {"messages": hello, "max_tokens": 20, "stream": True,
                                 "stream_options": {"include_usage": True}}}
    texts: dict[str, dict[str, Any]] = {
        "A text": {"prompt": "Once upon a time", "max_tokens": 20},
        "In a template": {"prompt": "Who are you?", "prompt_template": "### Human:\n%1\n### Ada:\n",
                          "max_tokens": 20, "stop": ["###"]}}
    return [
        Operation("/embed", "post", "Embed texts", answers.EmbeddingList, schemas.EmbedBody, examples=vectors),
        Operation(settings.route, "post", "Complete a prompt", answers.Completed, schemas.CompletionBody,
                  schemas.ALIASES, streams=True, examples={
                      "A prompt": {"prompt": "Who are you?", "max_tokens": 20},
                      "A persona, streamed": {"prompt": "Who are you?", "persona": "You are Ada, a lighthouse keeper.",
                                              "max_tokens": 20, "stream": True}}),
        Operation("/v1/models", "get", "List the models", answers.ModelList),
        Operation("/v1/models/{name}", "get", "Find a model by its id or an alias", answers.ListedModel),
        Operation("/v1/embeddings", "post", "Embed texts, as OpenAI's API", answers.EmbeddingList,
                  openai_schemas.EmbeddingsBody, examples=vectors),
        Operation("/v1/engines/{engine}/embeddings", "post", "Embed texts, as older clients ask",
                  answers.EmbeddingList, openai_schemas.EmbeddingsBody),
        Operation("/v1/completions", "post", "Complete texts, as OpenAI's API", answers.TextCompletion,
                  openai_schemas.TextBody, openai_schemas.ALIASES, streams=True, examples=texts),
        Operation("/v1/chat/completions", "post", "Complete a conversation, as OpenAI's API", answers.ChatCompletion,
                  openai_schemas.ChatBody, openai_schemas.ALIASES, streams=True, examples=chats),
        Operation("/v1/tokenize", "post", "Show the tokens of texts", answers.TokenizedTexts,
                  token_schemas.TokenizeBody, examples={"One text": {"input": "The cat sat on the mat."}}),
        Operation("/api/v1/token_check", "post", "See whether prompts fit, as FastChat's API", answers.TokenChecks,
                  token_schemas.TokenCheckBody, examples={"A prompt": {"prompts": [
                      {"model": "gpt-3.5-turbo", "prompt": "Once upon a time", "max_tokens": 20}]}}),
        Operation("/v1/models/{name}/pull", "post", "Fetch a model of gpt4all's list, telling of the progress", None,
                  streams=True, needs_key=True),
        Operation("/health", "get", "See what the service does", answers.Health),
        Operation("/ready", "get", "See whether every configured model can answer", answers.Ready,
                  fails_as={503: answers.Unready}),
    ]


def document(settings: Settings) -> dict[str, Any]:
    """Return the document for a service with these settings."""
    routes = operations(settings)
    bodies = {route.body: "validation" for route in routes if route.body is not None}
    forms = {form: "serialization" for route in routes for form in (route.answer, *route.fails_as.values())
             if form is not None}
    wanted: list[Any] = [*bodies.items(), *forms.items(), (answers.Error, "serialization")]
    _, definitions = models_json_schema(wanted, ref_template=_REF)
    components: dict[str, Any] = definitions["$defs"]
    for route in routes:
        if route.body is not None:
            _complete(components[route.body.__name__], route.body, settings, route.aliases)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mayfly", "version": __version__,
                 "summary": "Local embeddings and completions; each completion in a fresh process."},
        "servers": [{"url": "/"}],
        # On this machine without a key, from elsewhere with one.
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": components,
                       "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _complete(schema: dict[str, Any], body: type[BaseModel], settings: Settings, aliases: Mapping[str, str]) -> None:
    """Add to a body's schema what only the settings know: limits; and the fields' other names."""
    properties = schema["properties"]
    for name, field_ in properties.items():
        description = field_.get("description", "")
        if "{n_ctx}" in description:
            field_["description"] = description.replace("{n_ctx}", str(settings.n_ctx))
            _number(field_)["maximum"] = settings.n_ctx
        if name == "prompts":
            field_["maxItems"] = settings.max_texts
        if name == "input":
            next(form for form in field_["anyOf"] if form["type"] == "array")["maxItems"] = settings.max_texts
    for alias, name in aliases.items():
        properties[alias] = {**properties[name], "deprecated": True, "description": f"Another name of {name}."}


def _number(schema: dict[str, Any]) -> dict[str, Any]:
    return next((form for form in schema.get("anyOf", ()) if form.get("type") == "integer"), schema)


def _operation(route: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer is not None:
        content["application/json"] = {"schema": _ref(route.answer)}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    statuses: dict[str, Any] = {"200": {"description": "The answer.", "headers": _headers(), "content": content}}
    for status, meaning in _ERRORS.items():
        if status in _PULL_ALONE and not route.needs_key:
            continue
        form = route.fails_as.get(status, answers.Error)
        statuses[str(status)] = {"description": meaning, "headers": _headers(status),
                                 "content": {"application/json": {"schema": _ref(form)}}}
    operation: dict[str, Any] = {"summary": route.summary, "tags": [_tag(route.path)], "responses": statuses,
                                 "operationId": f"{route.method}_{route.path.strip('/')}".translate(_PLAIN)}
    if route.path in health.PATHS:
        operation["security"] = []
    if route.needs_key:
        operation["security"] = [{"key": []}]
    parameters = _parameters(route.path)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        sent: dict[str, Any] = {"schema": _ref(route.body)}
        if route.examples:
            sent["examples"] = {title: {"value": value} for title, value in route.examples.items()}
        operation["requestBody"] = {"required": True, "content": {"application/json": sent}}
    return operation


def _tag(path: str) -> str:
    if path in health.PATHS:
        return "The service's state"
    if path.endswith(("/pull", "/tokenize", "/token_check")):
        return "Models and tokens"
    return "OpenAI's API" if path.startswith("/v1/") else "mayfly's own"


_PLAIN = str.maketrans("/{}.-~", "______")


def _parameters(path: str) -> Sequence[dict[str, Any]]:
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "description": "A model's id, file name or alias.",
             "example": "text-embedding-ada-002", "schema": {"type": "string", "minLength": 1}} for name in names]


def _headers(status: int = 200) -> dict[str, Any]:
    headers = {"X-Request-Id": {"description": "The name under which reports and logs know the request.",
                                "required": True, "schema": {"type": "string"}}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}
    return headers


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
