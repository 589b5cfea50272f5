"""What a route is, and how requests come to its view. The table of all routes is in mayfly.web.application.

A view reads a request and says what is wanted: it returns an Answer, or a flow that makes one. It is called by a thread
through Flask, or, for small requests, by the server's loop (`AtOnce`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flask import Flask, Response, g, request

from mayfly.flow import Answer, Flow
from mayfly.web.bodies import is_plain_json, json_object, most_values, parsed
from mayfly.web.flows import FlowResponse, guarded
from mayfly.web.gate import request_id
from mayfly.web.schemas import Body
from mayfly.web.service import Service


@dataclass(frozen=True)
class Asked:
    """A request, as a view gets it.

    Attributes:
        id: the request's id.
        environ: its WSGI environment, or the part of it that tells its headers and who sent it.
        sent: its body, a JSON object; empty where the route takes none.
        deadline: when its answer has to be there, on the clock of `time.monotonic`.
        trusted: whether its caller may use everything.
        ignored: the view adds the names of fields that mean nothing here.
        headers: the view adds those of the answer, and its flow does until it answers.
    """

    id: str
    environ: Mapping[str, Any]
    sent: dict[str, Any]
    deadline: float
    trusted: bool
    ignored: list[str] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    """A path and what it is for.

    Attributes:
        path: parameters are written {name}; one takes slashes, too.
        view: called with an Asked, and the path's parameters by name.
        summary, tag: for the document; a route without a summary isn't in it.
        body: what it takes, if it takes a body.
        any_type: the body is JSON whatever its Content-Type says.
        answer: the form of what it answers, by its name in `openapi.FORMS`, which are made when the document is asked
            for; empty if it is always a stream.
        stream: the content type of its stream, if it can stream.
        key: who needs one: callers from elsewhere ("usual"), all ("always"), or nobody ("never").
        examples: bodies, by their titles.
        error: what is answered at any failure.
        fails_as: what is answered at a status, where that isn't the usual error.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    view: Callable[..., Answer | Flow]
    summary: str = ""
    tag: str = ""
    body: type[Body] | None = None
    any_type: bool = False
    answer: str = ""
    stream: Literal["", "text/event-stream", "application/x-ndjson"] = ""
    key: Literal["usual", "always", "never"] = "usual"
    examples: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    error: str = "Error"
    fails_as: Mapping[int, str] = field(default_factory=dict)

    def parameters(self) -> list[str]:
        """Return the names of the path's parameters."""
        return re.findall(r"{(\w+)}", self.path)


def install(app: Flask, routes: Sequence[Route], service: Service) -> None:
    """Add routes to an application. The names of ignored fields are put into `g.ignored`."""
    for route in routes:
        rule = re.sub(r"{(\w+)}", r"<path:\1>", route.path)
        app.add_url_rule(rule, f"{route.method} {route.path}", _flask_view(route, service),
                         methods=[route.method], provide_automatic_options=False)


def _flask_view(route: Route, service: Service) -> Callable[..., Response]:
    most = most_values(service.settings.max_texts)

    def view(**parameters: str) -> Response:
        if route.key == "always":
            service.gate.access.demand_key(request.environ)
        sent = json_object(request, most, any_type=route.any_type) if route.body is not None else {}
        asked = Asked(g.request_id, request.environ, sent, service.deadline(), g.trusted, g.ignored)
        made = route.view(asked, **parameters)
        if isinstance(made, Answer):
            return Response(made.body, status=made.status, headers=made.headers)
        return FlowResponse(made, asked.id, request.path, asked.headers)

    return view


class AtOnce:
    """See mayfly.http.site.Site: routes without parameters that take a body, or that are for everybody at any time."""

    def __init__(self, routes: Sequence[Route], service: Service) -> None:
        self._routes: dict[tuple[str, str], Route] = {
            (route.method, route.path): route for route in routes if not route.parameters()
            and (route.key == "never" or (route.key == "usual" and route.body is not None))}
        self._service = service

    def __call__(self, method: str, path: str, environ: Mapping[str, Any], body: bytes
                 ) -> tuple[Flow, list[tuple[str, str]]] | None:
        """Return the flow that answers a request, and its answer's headers; None leaves it to Flask."""
        route = self._routes.get((method, path))
        if route is None or (route.body is not None and not is_plain_json(environ)):
            return None
        # The request has one id, wherever it is told of.
        name = request_id(environ)
        known = {**environ, "HTTP_X_REQUEST_ID": name}
        headers = self._service.gate.stamp(known)
        return guarded(self._read(route, known, name, body, headers), name, path), headers

    def _read(self, route: Route, environ: Mapping[str, Any], name: str, body: bytes, headers: list[tuple[str, str]]
              ) -> Flow:
        trusted = self._service.gate.admit(environ, is_open=route.key == "never")
        # A small body can't hold too many values.
        sent = parsed(body, len(body)) if route.body is not None else {}
        asked = Asked(name, environ, sent, self._service.deadline(), trusted, headers=headers)
        made = route.view(asked)
        headers.extend(self._service.ignored.headers(asked.ignored))
        if isinstance(made, Answer):
            yield made
        else:
            yield from made
