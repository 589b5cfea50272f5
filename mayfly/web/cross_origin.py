"""Cross-origin calls (CORS): which web pages, and apps that are made of web pages, may call and read the answers. None,
unless ALLOWED_ORIGINS names some.

A browser asks before it sends a page's call (the preflight) and shows the page the answer only if its headers allow
it, errors included. A preflight carries no key, so it is answered before the access rules, and for allowed origins
alone; it tells nothing but these settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mayfly.settings import ANY, NO_ORIGIN, Settings

# How long a browser may remember a preflight's answer (s).
_REMEMBERED = 600
# Headers of answers that a page may read beside the usual ones.
_EXPOSED = "X-Request-Id, X-Ignored-Fields, X-Seed, Retry-After"


@dataclass(frozen=True)
class CrossOrigin:
    """The rules, made from the settings.

    Attributes:
        origins: whose pages may, in lower case; the star is every origin, `scheme://*` every one of a scheme.
        methods, names: HTTP methods, and names of headers, that a page may use.
        credentials: whether a browser may send cookies and stored logins along.
    """

    origins: frozenset[str]
    methods: tuple[str, ...]
    names: tuple[str, ...]
    credentials: bool

    @classmethod
    def of(cls, settings: Settings) -> CrossOrigin:
        """Make the rules from ALLOWED_ORIGINS, ALLOWED_METHODS, ALLOWED_HEADERS and ALLOW_CREDENTIALS."""
        return cls(frozenset(settings.allowed_origins), settings.allowed_methods, settings.allowed_headers,
                   settings.allow_credentials)

    def is_preflight(self, environ: Mapping[str, Any]) -> bool:
        """Tell whether a request is the preflight of an allowed origin.

        Args:
            environ: WSGI names and values.
        """
        return (environ.get("REQUEST_METHOD") == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
                and self._how_allowed(environ.get("HTTP_ORIGIN")) is not None)

    def headers(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what an answer to a request needs so that the page that asked may read it."""
        if not self.origins:
            return []
        allowed = self._how_allowed(environ.get("HTTP_ORIGIN"))
        # The answer depends on who asks: a cache must not give one origin's to another.
        vary = [] if allowed == ANY else [("Vary", "Origin")]
        if allowed is None:
            return vary
        headers = [("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", _EXPOSED), *vary]
        if self.credentials:
            headers.append(("Access-Control-Allow-Credentials", "true"))
        return headers

    def preflight_headers(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what a preflight's answer has beside `headers`."""
        headers = [
            ("Access-Control-Allow-Methods", _offered(self.methods, environ, "HTTP_ACCESS_CONTROL_REQUEST_METHOD")),
            ("Access-Control-Allow-Headers", _offered(self.names, environ, "HTTP_ACCESS_CONTROL_REQUEST_HEADERS")),
            ("Access-Control-Max-Age", str(_REMEMBERED))]
        if environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true":
            # Chrome asks so when a page of the internet calls an address of this machine.
            headers.append(("Access-Control-Allow-Private-Network", "true"))
        return headers

    def _how_allowed(self, origin: str | None) -> str | None:
        """Return how an origin is allowed: by its name, or by the star; None if it isn't."""
        if origin is None or not self.allowed(origin):
            return None
        return origin if self._named(origin) else ANY

    def allowed(self, origin: str) -> bool:
        """Tell whether an origin is allowed."""
        return ANY in self.origins or self._named(origin)

    def known(self, origin: str) -> bool:
        """Tell whether an origin is allowed and can't be another site's.

        The star would let any page that a browser on this machine shows use the service without a key, and so would
        `null`, which any site sends from a sandboxed frame.
        """
        return origin.lower() != NO_ORIGIN and self._named(origin)

    def _named(self, origin: str) -> bool:
        """Tell whether an origin is allowed by more than the star."""
        origin = origin.lower()
        scheme, separator, _ = origin.partition("://")
        return origin != ANY and (origin in self.origins or (bool(separator) and f"{scheme}://{ANY}" in self.origins))


def _offered(allowed: tuple[str, ...], environ: Mapping[str, Any], asked: str) -> str:
    """Return what a preflight is told of methods or headers."""
    if ANY not in allowed:
        return ", ".join(allowed)
    # The star itself would mean neither Authorization nor, with credentials, anything: name what was asked for.
    wanted = str(environ.get(asked, ""))
    return wanted if re.fullmatch(r"[A-Za-z0-9_, -]{1,4096}", wanted) else ANY
