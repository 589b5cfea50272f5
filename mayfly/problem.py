"""A failure in the form in which every client sees it: `{"error": {"message", "type", "param", "code"}}`.

Both sides of the web process make them: the HTTP server (mayfly.http.problems) and the application
(mayfly.web.problems).
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mayfly.errors import stack_of

# The status that access logs use for "the client hung up before its answer"; it is never sent.
CLIENT_GONE = 499

_DEFAULT_RETRY_AFTER = {429: 1.0, 503: 2.0}


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


def report(exc: BaseException, request_id: str) -> None:
    """Write the stack of a failure under its request's id to standard error, which the log gets."""
    sys.stderr.write(f"request {request_id} failed: " + "\n".join(stack_of(exc)) + "\n")
