"""The Flask application: the routes, and what happens before and after each of them."""

from __future__ import annotations

from flask import Flask, Response, g, request

from mayfly.errors import AccessDenied
from mayfly.web import docs, health, native, openai, problems, pulling, tokens
from mayfly.web.express import Express
from mayfly.web.identity import request_id
from mayfly.web.paths import CanonicalPaths
from mayfly.web.service import Service


def build(service: Service) -> Flask:
    """Return the application for a service."""
    app = Flask("mayfly", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.settings.max_body
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.wsgi_app = CanonicalPaths(app.wsgi_app)  # type: ignore[method-assign]

    # Before routing errors are raised, so that a stranger can't tell which paths exist.
    @app.before_request
    def admit() -> Response | None:
        g.request_id = request_id(request.headers.get("X-Request-Id"))
        g.trusted = False
        g.ignored = ()
        if service.cross_origin.is_preflight(request.environ):
            return Response(status=204, headers=service.cross_origin.preflight_headers(request.environ))
        is_open = request.path in health.PATHS
        try:
            service.access.check(request.environ)
            g.trusted = True
        except AccessDenied:
            if not is_open:
                raise
        if not is_open:
            service.refuse_if_stopping()
        return None

    @app.after_request
    def identify(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        response.headers.extend(service.ignored.headers(g.ignored))
        response.headers.extend(service.cross_origin.headers(request.environ))
        return response

    # The application's outermost boundary: whatever is raised below becomes JSON here.
    @app.errorhandler(Exception)
    def explain(exc: Exception) -> Response:
        problem = problems.of_exception(exc, g.request_id, request.path)
        return Response(problem.body(), status=problem.status_line, headers=problem.headers())

    readers = {**native.install(app, service), **openai.install(app, service)}
    app.extensions["mayfly.express"] = Express(service, readers)
    tokens.install(app, service)
    pulling.install(app, service)
    docs.install(app, service)
    health.install(app, service)
    return app
