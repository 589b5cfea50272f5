"""Every failure becomes one JSON form: `{"error": {"message", "type", "param", "code"}}`.

Errors come from three sides: a CallError that some room raised, an HTTPException of werkzeug (no such path, wrong
method, body too large), and an error that waitress found while it read the request, before the application was
asked. All of them become a `Problem`. Anything else is a bug: the client gets a 500 with the request's id.

Whatever the 500, the log gets the stack under that id, without the exception's message, which may hold a client's text.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from werkzeug.exceptions import HTTPException

from mayfly.errors import CallError, stack_of
from mayfly.lanes.calls import ClientGone

# The status that access logs use for "the client hung up before its answer"; it is never sent.
CLIENT_GONE = 499

_DEFAULT_RETRY_AFTER = {429: 1.0, 503: 2.0}

# How the paths of OpenAI's API end, where they are asked for in a wrong place.
_OPENAI = ("/chat/completions", "/completions", "/embeddings", "/models")


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
        if self.status == CLIENT_GONE:
            return "499 Client Closed Request"
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"{self.status} Error"

    def as_object(self) -> dict[str, Any]:
        """Return the JSON form, as an object."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def body(self) -> bytes:
        """Return the JSON form, as ASCII."""
        return json.dumps(self.as_object()).encode()

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


def of_exception(exc: BaseException, request_id: str, path: str = "") -> Problem:
    """Return the problem that an exception means to the client; that of a 500 is logged.

    Args:
        path: what was asked for, if that may be what is wrong.
    """
    if isinstance(exc, CallError):
        problem = Problem(exc.status, exc.message, exc.type, exc.code, exc.param, exc.retry_after)
    elif isinstance(exc, ClientGone):
        problem = Problem(CLIENT_GONE, "the client hung up")
    elif isinstance(exc, HTTPException) and exc.code is not None:
        problem = _of_http_exception(exc, exc.code, path)
    else:
        problem = Problem(500, "Something went wrong inside the service; its log tells more of the request "
                               f"{request_id}.", "server_error", "internal_error")
    if problem.status == 500:
        report(exc, request_id)
    return problem


def _of_http_exception(exc: HTTPException, status: int, path: str) -> Problem:
    if status == 404:
        return no_such_path(path)
    if status == 405:
        allow = ", ".join(sorted(getattr(exc, "valid_methods", None) or ()))
        return Problem(405, f"This path takes {allow or 'another method'} only.", code="method_not_allowed",
                       allow=allow)
    if status == 413:
        return body_too_large(None)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "an error"
    if status >= 500:
        return Problem(status, f"The service failed: {phrase}.", "server_error", "internal_error")
    return Problem(status, f"The request was refused: {phrase}.", code="bad_request")


def no_such_path(path: str) -> Problem:
    """Return the answer to a path that doesn't exist."""
    meant = next((end for end in _OPENAI if path.endswith(end)), "")
    advice = (f"What is meant is at /v1{meant}: end the client's base URL in /v1, once." if meant
              else "OpenAI's routes are below /v1, which a client's base URL ends in; /docs shows all.")
    return Problem(404, f"There is nothing at this path. {advice}", "not_found_error", "path_not_found")


def body_too_large(limit: int | None) -> Problem:
    """Return the answer to a body over the limit (bytes), if it is known here."""
    known = f"{limit} bytes" if limit is not None else "the limit"
    return Problem(413, f"The body is larger than {known} (MAX_BODY): send fewer or shorter texts at once.",
                   code="body_too_large")


def malformed(reason: str) -> Problem:
    """Return the answer to bytes that aren't HTTP. `reason` is ours: it holds nothing that the client sent."""
    return Problem(400, f"The request isn't valid HTTP/1.1: {reason}.", code="malformed_request")


def headers_too_large(limit: int) -> Problem:
    """Return the answer to a request line and headers over the limit (bytes)."""
    return Problem(431, f"The request line and headers are larger than {limit} bytes: send fewer or shorter ones.",
                   code="headers_too_large")


def coding_not_implemented() -> Problem:
    """Return the answer to a Transfer-Encoding other than chunked."""
    return Problem(501, "Transfer-Encoding has to be chunked, or absent with a Content-Length.",
                   code="transfer_encoding_not_implemented")


def version_not_supported() -> Problem:
    """Return the answer to a request in another version of HTTP, such as the beginning of HTTP/2."""
    return Problem(505, "This port speaks HTTP/1.1: send the request in that version.",
                   code="http_version_not_supported")


def too_slow(seconds: float) -> Problem:
    """Return the answer to a request that didn't arrive in time."""
    return Problem(408, f"The request didn't arrive whole within {seconds:g} s: send it faster.",
                   code="request_timeout")


def crowded_out() -> Problem:
    """Return the answer to a request that gives way because too many connections are open."""
    return Problem(503, "Too many connections are open, and this one's request arrived too slowly: try again.",
                   "server_error", "too_many_connections")


def stopping() -> Problem:
    """Return the answer to a request that comes while the service stops."""
    return Problem(503, "The service is stopping: try again when it is back.", "server_error", "model_unavailable")


def report(exc: BaseException, request_id: str) -> None:
    """Write the stack of a failure under its request's id to standard error, which the log gets."""
    sys.stderr.write(f"request {request_id} failed: " + "\n".join(stack_of(exc)) + "\n")
