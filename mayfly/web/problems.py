"""What goes wrong in the application, as a `Problem`.

Errors come from two sides: a CallError, and an HTTPException of werkzeug (no such path, wrong
method, body too large). Anything else is a bug: the client gets a 500 with the request's id.

Whatever the 500, the log gets the stack under that id, without the exception's message, which may hold a client's text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from werkzeug.exceptions import HTTPException

from mayfly.errors import CallError
from mayfly.problem import Problem, failed, report

# How the paths of OpenAI's API end, where they are asked for in a wrong place.
_OPENAI = ("/chat/completions", "/completions", "/embeddings", "/models", "/responses")
# How alike two paths are for one to be meant by the other (difflib's ratio). With long ones that would take too long.
_ALIKE = 0.75
_LONGEST = 64


def of_exception(exc: BaseException, request_id: str, path: str = "", paths: Mapping[str, Sequence[str]] | None = None
                 ) -> Problem:
    """Return the problem that an exception means to the client; that of a 500 is logged.

    Args:
        path: what was asked for, if that may be what is wrong.
        paths: those that there are, with their methods.
    """
    if isinstance(exc, CallError):
        message = _sentence(exc.message) if exc.status >= 500 else exc.message
        problem = Problem(exc.status, message, exc.type, exc.code, exc.param, exc.retry_after)
    elif isinstance(exc, HTTPException) and exc.code is not None:
        problem = _of_http_exception(exc, exc.code, path, paths or {})
    else:
        problem = failed(request_id)
    if problem.status == 500:
        report(exc, request_id)
    return problem


def _sentence(message: str) -> str:
    """Return a message as a sentence: engines and lanes say what is wrong in words that others put into theirs."""
    begun = message[:1].upper() + message[1:] if re.match(r"[a-z]+('[a-z]+)? ", message) else message
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def _of_http_exception(exc: HTTPException, status: int, path: str, paths: Mapping[str, Sequence[str]]) -> Problem:
    if status == 404:
        return _no_such_path(path, paths)
    if status == 405:
        allow = ", ".join(sorted(getattr(exc, "valid_methods", None) or ()))
        return Problem(405, f"This path takes {allow or 'another method'} only.", code="method_not_allowed",
                       allow=allow)
    if status == 413:
        return Problem(413, "The body is larger than the limit (MAX_BODY): send fewer or shorter texts at once.",
                       code="body_too_large")
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "an error"
    if status >= 500:
        return Problem(status, f"The service failed: {phrase}.", "server_error", "internal_error")
    return Problem(status, f"The request was refused: {phrase}.", code="bad_request")


def _no_such_path(path: str, paths: Mapping[str, Sequence[str]]) -> Problem:
    meant = next((end for end in _OPENAI if path.endswith(end)), "")
    near = difflib.get_close_matches(path.lower(), paths, 1, _ALIKE) if len(path) <= _LONGEST else []
    advice = "/docs shows all paths."
    if meant:
        advice = f"What is meant is at /v1{meant}: end the client's base URL in /v1, once."
    elif near:
        advice = f"Is {' or '.join(paths[near[0]])} {near[0]} meant? /docs shows all paths."
    elif not path.startswith("/v1/"):
        advice = "OpenAI's routes are below /v1, which a client's base URL ends in; /docs shows all."
    return Problem(404, f"There is nothing at this path. {advice}", "not_found_error", "path_not_found")
