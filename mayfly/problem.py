"""A failure in the form in which every client sees it: `{"error": {"message", "type", "param", "code"}}`.

On Ollama's paths it is `{"error": "message"}`, because its clients take the error for a string, and on Anthropic's
`{"type": "error", "error": {"type", "message"}, "request_id"}`.

Both sides of the web process make them: the HTTP server, for requests that never reach the application, and the
application (mayfly.web.problems).
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mayfly.errors import stack_of

# The status that access logs use for "the client hung up before its answer"; it is never sent.
CLIENT_GONE = 499

_DEFAULT_RETRY_AFTER = {429: 1.0, 503: 2.0}
# FastChat's are below /api/v1.
_OLLAMA = re.compile("/+api/+(?!v1/)")
_ANTHROPIC = re.compile("/+v1/+messages(/|$)")
_ANTHROPICS_TYPES = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}


@dataclass(frozen=True)
class Problem:
    """A failure as a client sees it.

    Attributes:
        status: the HTTP status.
        message: one sentence that says what to change.
        type, code: the OpenAI-style error type and code.
        param: the field of the request that is wrong.
        retry_after: seconds after which a new try makes sense.
        allow: the methods that a path takes, for a 405.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    allow: str | None = None

    @property
    def status_line(self) -> str:
        """The status with its reason, such as "404 Not Found"."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    def as_object(self, path: str = "", request_id: str = "") -> dict[str, Any]:
        """Return the JSON form, as an object; `path` is what was asked for, by the request of this id."""
        if _OLLAMA.match(path):
            return {"error": self.message}
        if _ANTHROPIC.match(path):
            usual = "api_error" if self.status >= 500 else self.type
            return {"type": "error", "error": {"type": _ANTHROPICS_TYPES.get(self.status, usual),
                                               "message": self.message}, "request_id": request_id}
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def body(self, path: str, request_id: str) -> bytes:
        """Return the JSON form, as ASCII; see `as_object`."""
        return json.dumps(self.as_object(path, request_id)).encode()

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that go with it (without the request's id)."""
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        wait = self.retry_after if self.retry_after is not None else _DEFAULT_RETRY_AFTER.get(self.status)
        if wait is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(wait)))))
        if self.status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
        if self.allow is not None:
            headers.append(("Allow", self.allow))
        return headers


CODING_NOT_IMPLEMENTED = Problem(501, "Transfer-Encoding has to be chunked, or absent with a Content-Length.",
                                 code="transfer_encoding_not_implemented")
# What comes in another version of HTTP may be the beginning of HTTP/2.
VERSION_NOT_SUPPORTED = Problem(505, "This port speaks HTTP/1.1: send the request in that version.",
                                code="http_version_not_supported")
# What it asks for isn't here, so there is no other method for it either.
NO_PROXY = Problem(405, "CONNECT asks for a tunnel to another host, and this service is no proxy: call it by its own "
                   "address, and don't name it in HTTPS_PROXY.", code="method_not_allowed", allow="")
NO_SPACE = Problem(503, "The service has no room to receive this body: try again later.", "server_error", "no_space")
CROWDED_OUT = Problem(503, "Too many connections are open, and this one's request arrived too slowly: try again.",
                      "server_error", "too_many_connections")


def body_too_large(limit: int) -> Problem:
    """Return the answer to a body over the limit (bytes)."""
    return Problem(413, f"The body is larger than {limit} bytes (MAX_BODY): send fewer or shorter texts at once.",
                   code="body_too_large")


def headers_too_large(limit: int) -> Problem:
    """Return the answer to a request line and headers over the limit (bytes)."""
    return Problem(431, f"The request line and headers are larger than {limit} bytes: send fewer or shorter ones.",
                   code="headers_too_large")


def malformed(reason: str) -> Problem:
    """Return the answer to bytes that aren't HTTP. `reason` is ours: it holds nothing that the client sent."""
    return Problem(400, f"The request isn't valid HTTP/1.1: {reason}.", code="malformed_request")


def too_slow(seconds: float) -> Problem:
    """Return the answer to a request that didn't arrive in time."""
    return Problem(408, f"The request didn't arrive whole within {seconds:g} s: send it faster.",
                   code="request_timeout")


def failed(request_id: str) -> Problem:
    """Return the answer to a request that met a bug."""
    return Problem(500, f"Something went wrong inside the service; its log tells more of the request {request_id}.",
                   "server_error", "internal_error")


def report(exc: BaseException | None = None, request_id: str = "(not known)") -> None:
    """Write the stack of a failure (by default the one that is being handled) under its request's id to standard error,
    which the log gets."""
    exc = exc or sys.exc_info()[1]
    assert exc is not None
    sys.stderr.write(f"request {request_id} failed: " + "\n".join(stack_of(exc)) + "\n")
