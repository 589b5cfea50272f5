"""`GET /openapi.json` and the interactive page at `GET /docs`, which works without the network.

The page is Swagger UI, whose files come from the package flask-openapi3-swagger: only they are used, nothing of it
is imported.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

from flask import Flask, Response

from mayfly.errors import NotFound
from mayfly.web.openapi import document
from mayfly.web.service import Service

# name below /docs -> where the package has it, and its type
_FILES = {"swagger-ui.css": ("css/swagger-ui.css", "text/css"),
          "swagger-ui-bundle.js": ("js/swagger-ui-bundle.js", "text/javascript"),
          "page.js": ("", "text/javascript")}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mayfly</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/page.js"></script>
</body>
</html>
"""
_SCRIPT = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});
"""
# Whatever the page shows, it loads and calls nothing but this service.
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
           "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def install(app: Flask, service: Service) -> None:
    """Add the routes to an application."""

    def page() -> Response:
        return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})

    def file(name: str) -> Response:
        if name not in _FILES:
            raise NotFound("There is nothing at this path.", code="path_not_found")
        content = _SCRIPT.encode() if name == "page.js" else _asset(name)
        return Response(content, mimetype=_FILES[name][1], headers={"Cache-Control": "max-age=3600"})

    @cache
    def written() -> str:
        # Made when it is first asked for: it takes longer than the rest of the start.
        return json.dumps(document(service.settings))

    def openapi() -> Response:
        return Response(written(), mimetype="application/json")

    app.add_url_rule("/docs", "docs", page, methods=["GET"], provide_automatic_options=False)
    app.add_url_rule("/docs/<name>", "docs_file", file, methods=["GET"], provide_automatic_options=False)
    app.add_url_rule("/openapi.json", "openapi", openapi, methods=["GET"], provide_automatic_options=False)


@cache
def _asset(name: str) -> bytes:
    found = importlib.util.find_spec("flask_openapi3_swagger")
    if found is None or found.origin is None:
        raise NotFound("The page needs the package flask-openapi3-swagger: install requirements.txt.",
                       code="package_missing")
    return Path(found.origin).parent.joinpath("templates", "swagger", _FILES[name][0]).read_bytes()
