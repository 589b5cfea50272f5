"""`GET /openapi.json` and the interactive page at `GET /docs`, which works without the network.

The page is Swagger UI, whose files come from the package flask-openapi3-swagger: only they are used, nothing of it
is imported.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from mayfly.errors import NotFound
from mayfly.flow import Answer
from mayfly.settings import Settings
from mayfly.web.flows import as_json
from mayfly.web.routes import Asked, Route

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


def routes(settings: Settings, table: Callable[[], Sequence[Route]]) -> list[Route]:
    """Return the routes of the document and its page.

    Args:
        table: returns all routes of the service.
    """

    def page(asked: Asked) -> Answer:
        return Answer("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY)],
                      _PAGE.encode())

    def file(asked: Asked, name: str) -> Answer:
        if name not in _FILES:
            raise NotFound("There is nothing at this path.", code="path_not_found")
        content = _SCRIPT.encode() if name == "page.js" else _asset(name)
        return Answer("200 OK", [("Content-Type", f"{_FILES[name][1]}; charset=utf-8"),
                                 ("Cache-Control", "max-age=3600")], content)

    @cache
    def written() -> bytes:
        # Made when it is first asked for: it takes longer than the rest of the start.
        # With the forms of all answers, of which nobody else needs one.
        from mayfly.web.openapi import document

        return json.dumps(document(settings, table())).encode()

    def openapi(asked: Asked) -> Answer:
        return as_json(written())

    return [Route("GET", "/docs", page), Route("GET", "/docs/{name}", file), Route("GET", "/openapi.json", openapi)]


@cache
def _asset(name: str) -> bytes:
    found = importlib.util.find_spec("flask_openapi3_swagger")
    if found is None or found.origin is None:
        raise NotFound("The page needs the package flask-openapi3-swagger: install it.",
                       code="package_missing")
    return Path(found.origin).parent.joinpath("templates", "swagger", _FILES[name][0]).read_bytes()
