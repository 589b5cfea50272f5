"""Paths are made canonical before they are routed, so that no answer is ever a redirect.

A slash redirect names the host that the request came to; behind a tunnel that is `localhost`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SLASHES = re.compile("/{2,}")


class CanonicalPaths:
    """WSGI middleware: `//embed/` is routed as `/embed`."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass the request on under its canonical path."""
        environ["PATH_INFO"] = canonical(environ.get("PATH_INFO", ""))
        return self._application(environ, start_response)


def canonical(path: str) -> str:
    """Return a path with single slashes and none at its end."""
    return _SLASHES.sub("/", "/" + path).rstrip("/") or "/"
