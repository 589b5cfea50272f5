"""What Ollama's routes have in common."""

from __future__ import annotations

import functools

from mayfly.errors import InvalidRequest, NotFound
from mayfly.web.catalogue import Model, shown_name
from mayfly.web.routes import Route
from mayfly.web.service import Service

#: A route of Ollama's, by what of it differs from others.
route = functools.partial(Route, tag="Ollama's API", any_type=True, error="OllamaError")


def named(service: Service, name: str) -> Model:
    """Return the model of a name.

    Raises:
        InvalidRequest: there is no name.
        NotFound: there is no such model, in the words that Ollama's clients look for.
    """
    if not name:
        raise InvalidRequest("model is required", param="model", code="missing_field")
    try:
        return service.catalogue.resolve(name, None)
    except NotFound as exc:
        raise NotFound(f"model '{shown_name(name)}' not found", param="model", code="model_not_found") from exc
