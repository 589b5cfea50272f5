"""The OpenAPI 3.1 document, made from the table of routes and the pydantic schemas that validate their bodies.

By hand from pydantic's own JSON schemas and not by flask-openapi3: that library wants to parse and validate the
bodies itself, with another JSON parser and another form of errors than the one this service promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mayfly import __version__
from mayfly.settings import Settings
from mayfly.web import answer_schemas
from mayfly.web.messages import answers as anthropics
from mayfly.web.ollama import answers as ollamas
from mayfly.web.responses import answers as responses
from mayfly.web.routes import Route

# The forms of answers and errors, by their names.
FORMS: dict[str, type[BaseModel]] = {
    name: form for module in (answer_schemas, ollamas, responses, anthropics) for name, form in vars(module).items()
    if isinstance(form, type) and issubclass(form, BaseModel)}

_REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "A field is missing, unknown or not what it has to be, or the prompt is too long: `param` names the field.",
    401: "A key is needed and there is none, or a wrong one.",
    403: "The Host or Origin isn't this machine's.",
    404: "There is no such path or model.",
    405: "The path takes another method.",
    408: "The request didn't arrive in time.",
    409: "Another model is being pulled; the model is in use, or can't be deleted.",
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

# A key is sent in one of these ways.
_WITH_KEY: tuple[dict[str, list[str]], ...] = ({"key": []}, {"keyAlone": []})
# What happens only to those who fetch something.
_PULL_ALONE = (409, 502)


def document(settings: Settings, table: Sequence[Route]) -> dict[str, Any]:
    """Return the document for a service with these settings and routes; those without a summary aren't in it."""
    routes = [route for route in table if route.summary]
    bodies = {route.body: "validation" for route in routes if route.body is not None}
    forms = {FORMS[name]: "serialization" for route in routes
             for name in (route.answer, route.error, *route.fails_as.values()) if name}
    wanted: list[Any] = [*bodies.items(), *forms.items()]
    _, definitions = models_json_schema(wanted, ref_template=_REF)
    components: dict[str, Any] = definitions["$defs"]
    for route in routes:
        if route.body is not None:
            _complete(components[route.body.__name__], settings, route.body.aliases)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mayfly", "version": __version__,
                 "summary": "Local embeddings and completions; each completion in a fresh process."},
        "servers": [{"url": "/"}],
        # On this machine without a key, from elsewhere with one.
        "security": [{}, *_WITH_KEY],
        "paths": paths,
        "components": {"schemas": components,
                       "securitySchemes": {
                           "key": {"type": "http", "scheme": "bearer"},
                           "keyAlone": {"type": "apiKey", "in": "header", "name": "x-api-key"}}},
    }


def _complete(schema: dict[str, Any], settings: Settings, aliases: Mapping[str, str]) -> None:
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


def _operation(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer:
        content["application/json"] = {"schema": _ref(FORMS[route.answer])}
    if route.stream:
        content[route.stream] = {"schema": {"type": "string"}}
    statuses: dict[str, Any] = {"200": {"description": "The answer.", "headers": _headers(), "content": content}}
    for status, meaning in _ERRORS.items():
        if status in _PULL_ALONE and route.key != "always":
            continue
        form = route.fails_as.get(status, route.error)
        statuses[str(status)] = {"description": meaning, "headers": _headers(status),
                                 "content": {"application/json": {"schema": _ref(FORMS[form])}}}
    operation: dict[str, Any] = {"summary": route.summary, "tags": [route.tag], "responses": statuses,
                                 "operationId": f"{route.method.lower()}_{route.path.strip('/')}".translate(_PLAIN)}
    if route.key != "usual":
        operation["security"] = list(_WITH_KEY) if route.key == "always" else []
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        sent: dict[str, Any] = {"schema": _ref(route.body)}
        if route.examples:
            sent["examples"] = {title: {"value": value} for title, value in route.examples.items()}
        operation["requestBody"] = {"required": True, "content": {"application/json": sent}}
    return operation


_PLAIN = str.maketrans("/{}.-~", "______")


def _parameters(route: Route) -> Sequence[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "description": "A model's id, file name or alias.",
             "example": "text-embedding-ada-002", "schema": {"type": "string", "minLength": 1}}
            for name in route.parameters()]


def _headers(status: int = 200) -> dict[str, Any]:
    headers = {"X-Request-Id": {"description": "The name under which reports and logs know the request.",
                                "required": True, "schema": {"type": "string"}}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}
    return headers


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
