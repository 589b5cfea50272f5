"""What the server needs of the application: `mayfly.app` hands it over, and the server knows no more of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mayfly.flow import TAKE_OVER, Answer, Flow
from mayfly.problem import Problem

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: Headers of an answer.
Headers = list[tuple[str, str]]


class Gate(Protocol):
    """Who may call. `environ` is what WSGI calls so, with at least the peer's address and the request's headers."""

    def refusal(self, environ: Mapping[str, Any]) -> Problem | None:
        """Return why a request's body isn't even received; None if it is."""

    def stamp(self, environ: Mapping[str, Any]) -> Headers:
        """Return the headers that the answer to a request has, whatever it is: its id, and what a page may read."""

    def stopping(self) -> Problem:
        """Return the answer to a request that hasn't arrived whole when the service stops."""

    def last_word(self) -> Exception:
        """Return what the flows meet that haven't ended when the service has waited for them long enough."""


@dataclass(frozen=True)
class Site:
    """The application.

    Attributes:
        application: run by a thread; what it can't answer at once it hands over as a flow (`flow.TAKE_OVER`).
        at_once: called by the server's loop with the method, path, environ and body of a small request, because reading
            one may take no longer than waking a thread. Returns the flow that answers, and the headers that its answer
            gets beside its own; or None, which leaves the request to the application.
        answered: called with the method, path and status of each request that was answered, and the seconds from its
            first byte to its answer's last.
        probes: the paths that programs ask for again and again. A probe that succeeds gets no line in the access log,
            or a balancer's would be most of it.
    """

    application: WSGIApplication
    gate: Gate
    at_once: Callable[[str, str, Mapping[str, Any], bytes], tuple[Flow, Headers] | None]
    answered: Callable[[str, str, int, float], None]
    probes: Collection[str]

    def ask(self, environ: dict[str, Any]) -> tuple[Flow, Headers]:
        """Call the application; return the flow that answers, and the headers that its answer gets beside its own."""
        handed_over: list[tuple[Flow, Headers]] = []
        environ[TAKE_OVER] = lambda flow, headers: handed_over.append((flow, headers))
        answer = Answer("500 Internal Server Error")
        parts: list[bytes] = []

        def start_response(status: str, headers: Headers, exc_info: object = None) -> Callable[[bytes], object]:
            answer.status, answer.headers = status, headers
            return parts.append

        body = self.application(environ, start_response)
        parts.extend(body)
        if hasattr(body, "close"):
            body.close()
        answer.body = b"".join(parts)
        return handed_over[0] if handed_over else (_said(answer), [])


def _said(answer: Answer) -> Flow:
    yield answer
