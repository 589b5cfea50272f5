"""`GET /health` and `GET /ready`: open to everybody, but only callers who may use the rest see more than a word."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Flask, Response, g

from mayfly import __version__
from mayfly.errors import CallError
from mayfly.lanes.calls import Lane
from mayfly.web.problems import Problem
from mayfly.web.service import Service

PATHS = ("/health", "/ready")


def install(app: Flask, service: Service) -> None:
    """Add both routes to an application."""

    def health() -> Response:
        lanes = {name: _status(lane) for name, lane in service.switchboard.open_lanes().items()}
        answer: dict[str, Any] = {"status": _word(service)}
        if g.trusted:
            answer["version"] = __version__
            answer["uptime_s"] = round(time.monotonic() - service.started, 1)
            answer["lanes"] = lanes
        return _json(answer)

    def ready() -> Response:
        missing = _missing(service)
        if not missing and not service.draining.started:
            return _json({"status": "ready"})
        reason = "the service is stopping" if service.draining.started else "not ready: " + ", ".join(missing)
        problem = Problem(503, f"Try again later ({reason}).", "server_error", "model_unavailable")
        answer: dict[str, Any] = {"status": "unready"}
        if g.trusted:
            answer.update(waiting_for=missing, **problem.as_object())
        response = _json(answer, problem.status)
        response.headers.update(dict(problem.headers()))
        return response

    for path, view in zip(PATHS, (health, ready), strict=True):
        app.add_url_rule(path, path.strip("/"), view, methods=["GET"], provide_automatic_options=False)


def _missing(service: Service) -> list[str]:
    """Return the configured lanes that aren't ready; a service without any lane is never ready."""
    configured = {name: lane for name, lane in service.lanes.items() if lane.configured()}
    return [name for name, lane in (configured or dict(service.lanes)).items() if not lane.ready()]


def _word(service: Service) -> str:
    if service.draining.started:
        return "stopping"
    return "degraded" if _missing(service) else "ok"


def _status(lane: Lane) -> dict[str, Any]:
    try:
        return lane.status()
    except (CallError, OSError, ValueError) as exc:
        # What the lane knows about itself is read from other processes' files; /health answers whatever is in them.
        return {"state": "unknown", "reason": type(exc).__name__}


def _json(answer: dict[str, Any], status: int = 200) -> Response:
    body = json.dumps(answer, default=str)
    return Response(body, status=status, mimetype="application/json", headers={"Cache-Control": "no-store"})
