"""The gate: what every request meets, however it is served - its id, who may call, pages of other sites, the stop."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mayfly.draining import Draining
from mayfly.errors import AccessDenied, LaneUnavailable
from mayfly.problem import Problem
from mayfly.settings import Settings
from mayfly.web import problems
from mayfly.web.access import Access
from mayfly.web.cross_origin import CrossOrigin

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Gate:
    """See the module. An `environ` is what WSGI calls so, or the part of it that says who asks for what."""

    access: Access
    cross_origin: CrossOrigin
    draining: Draining

    @classmethod
    def of(cls, settings: Settings, draining: Draining) -> Gate:
        """Make the gate that the settings ask for."""
        return cls(Access.of(settings), CrossOrigin.of(settings), draining)

    def admit(self, environ: Mapping[str, Any], *, is_open: bool = False) -> bool:
        """Let a request in; return whether its caller may use everything.

        Args:
            is_open: whether the path is for everybody, at any time.

        Raises:
            AccessDenied: its caller may not.
            LaneUnavailable: the service is stopping.
        """
        try:
            self.access.check(environ)
        except AccessDenied:
            if not is_open:
                raise
            return False
        if not is_open and self.draining.started:
            raise self.last_word()
        return True

    def refusal(self, environ: Mapping[str, Any]) -> Problem | None:
        """Return why a request's body isn't even received: nobody without a key fills memory or disk."""
        try:
            self.admit(environ)
        except (AccessDenied, LaneUnavailable) as exc:
            return problems.of_exception(exc, "")
        return None

    def stopping(self) -> Problem:
        """Return the answer to a request that hasn't arrived whole when the service stops."""
        return problems.of_exception(self.last_word(), "")

    def last_word(self) -> LaneUnavailable:
        """Return what ends a request that comes, or isn't answered, when the service stops."""
        return LaneUnavailable("The service is stopping: try again when it is back.", retry_after=2)

    def stamp(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the headers that every answer has: the request's id, and what a page may read."""
        return [("X-Request-Id", request_id(environ)), *self.cross_origin.headers(environ)]


def request_id(environ: Mapping[str, Any]) -> str:
    """Return the id that the client sent in X-Request-Id if it is a harmless one, else a fresh one.

    By it a request is known in its answer, in logs and in failure reports.
    """
    sent = environ.get("HTTP_X_REQUEST_ID")
    if sent is not None and _SANE.fullmatch(sent):
        return str(sent)
    return "req_" + secrets.token_hex(12)
