"""The Flask application: the table of routes, and what happens before and after each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from mayfly.web import deleting, docs, health, metrics, native, openai, problems, pulling, routes, tokens
from mayfly.web.gate import request_id
from mayfly.web.messages import completing as messages
from mayfly.web.ollama import completing, embedding, library
from mayfly.web.responses import completing as responses
from mayfly.web.routes import AtOnce, Route
from mayfly.web.service import Service

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def build(service: Service) -> Flask:
    """Return the application for a service."""
    app = Flask("mayfly", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    as_routed = app.wsgi_app

    # A redirect to the path that is routed would name the host that the request came to; behind a tunnel that is
    # `localhost`. So `//embed/` is taken for `/embed`.
    def canonical(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = re.sub("/{2,}", "/", "/" + environ.get("PATH_INFO", "")).rstrip("/") or "/"
        return as_routed(environ, start_response)

    app.wsgi_app = canonical  # type: ignore[method-assign]
    gate = service.gate
    table = route_table(service)
    requests = metrics.Requests(table)
    table += metrics.routes(service, requests)
    open_paths = {route.path for route in table if route.key == "never"}
    paths: dict[str, list[str]] = {}
    for route in table:
        if not route.parameters():
            paths.setdefault(route.path, []).append(route.method)

    # Before routing errors are raised, so that a stranger can't tell which paths exist.
    @app.before_request
    def admit() -> Response | None:
        g.request_id = request_id(request.environ)
        g.trusted = False
        g.ignored = []
        # What the answer's headers are made from.
        request.environ["HTTP_X_REQUEST_ID"] = g.request_id
        if gate.cross_origin.is_preflight(request.environ):
            return Response(status=204, headers=gate.cross_origin.preflight_headers(request.environ))
        g.trusted = gate.admit(request.environ, is_open=request.path in open_paths)
        return None

    @app.after_request
    def identify(response: Response) -> Response:
        response.headers.extend(service.ignored.headers(g.ignored))
        response.headers.extend(gate.stamp(request.environ))
        return response

    # The application's outermost boundary: whatever is raised below becomes JSON here.
    @app.errorhandler(Exception)
    def explain(exc: Exception) -> Response:
        problem = problems.of_exception(exc, g.request_id, request.path, paths)
        return Response(problem.body(request.path, g.request_id), status=problem.status_line, headers=problem.headers())

    routes.install(app, table, service)
    # For the server, which asks more than WSGI tells.
    app.extensions["mayfly.gate"] = gate
    app.extensions["mayfly.answered"] = requests.note
    app.extensions["mayfly.probes"] = open_paths
    app.extensions["mayfly.at_once"] = AtOnce(table, service)
    return app


def route_table(service: Service) -> list[Route]:
    """Return all routes of a service: the one list of them."""
    table = [route for part in (
        native, openai, responses, messages, completing, embedding, library, tokens, pulling, deleting, health)
        for route in part.routes(service)]
    return [*table, *docs.routes(service.settings, lambda: table)]
