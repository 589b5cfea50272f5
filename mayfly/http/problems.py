"""What the HTTP server answers to requests that never reach the application."""

from __future__ import annotations

from mayfly.problem import Problem


def body_too_large(limit: int) -> Problem:
    """Return the answer to a body over the limit (bytes)."""
    return Problem(413, f"The body is larger than {limit} bytes (MAX_BODY): send fewer or shorter texts at once.",
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


def failed() -> Problem:
    """Return the answer to a request that met a bug."""
    return Problem(500, "Something went wrong inside the service.", "server_error", "internal_error")
