"""`GET /health` and `GET /ready`: open to everybody, but only callers who may use the rest see more than a word."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from mayfly import __version__
from mayfly.errors import CallError
from mayfly.flow import Answer
from mayfly.lanes.lane import Lane
from mayfly.problem import Problem
from mayfly.web.routes import Asked, Route
from mayfly.web.service import Service

TAG = "The service's state"
_HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


def routes(service: Service) -> list[Route]:
    """Return both routes of a service."""

    def health(asked: Asked) -> Answer:
        lanes = {name: status_of(lane) for name, lane in service.switchboard.open_lanes().items()}
        answer: dict[str, Any] = {"status": _word(service)}
        if asked.trusted:
            answer["version"] = __version__
            answer["node"] = socket.gethostname()
            answer["uptime_s"] = round(time.monotonic() - service.started, 1)
            answer["lanes"] = lanes
        return _answer("200 OK", answer)

    def ready(asked: Asked) -> Answer:
        missing = _missing(service)
        if not missing and not service.draining.announced:
            return _answer("200 OK", {"status": "ready"})
        reasons = [f"the {name} model isn't ready ({_state(service.lanes[name])})" for name in missing]
        reason = "the service is stopping" if service.draining.announced else "; ".join(reasons)
        problem = Problem(503, f"Try again later: {reason}.", "server_error", "model_unavailable")
        answer: dict[str, Any] = {"status": "unready"}
        if asked.trusted:
            answer.update(waiting_for=missing, **problem.as_object())
        return _answer(problem.status_line, answer, problem.headers())

    return [
        Route("GET", "/health", health, "See what the service does", TAG, answer="Health", key="never"),
        Route("GET", "/ready", ready, "See whether every configured model can answer", TAG, answer="Ready",
              key="never", fails_as={503: "Unready"}),
    ]


def _missing(service: Service) -> list[str]:
    """Return the configured lanes that aren't ready; a service without any lane is never ready."""
    configured = {name: lane for name, lane in service.lanes.items() if lane.configured()}
    return [name for name, lane in (configured or dict(service.lanes)).items() if not lane.ready()]


def _state(lane: Lane) -> str:
    status = status_of(lane)
    return str(status.get("reason") or status.get("state"))


def _word(service: Service) -> str:
    if service.draining.announced:
        return "stopping"
    return "degraded" if _missing(service) else "ok"


def status_of(lane: Lane) -> dict[str, Any]:
    """Return what a lane says of itself, whatever state it is in."""
    try:
        return lane.status()
    except (CallError, OSError, ValueError) as exc:
        # What the lane knows about itself is read from other processes' files; /health answers whatever is in them.
        return {"state": "unknown", "reason": type(exc).__name__}


def _answer(status: str, answer: dict[str, Any], headers: Sequence[tuple[str, str]] = _HEADERS) -> Answer:
    return Answer(status, list(headers), json.dumps(answer, default=str).encode())
