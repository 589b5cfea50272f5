"""Flows of the application: how its answers wait for lanes (see mayfly.flow)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from flask import Response

from mayfly.errors import QueueFull
from mayfly.flow import TAKE_OVER, Answer, Flow, Wait, drive
from mayfly.lanes.lane import Lane, LaneCall
from mayfly.problem import Problem
from mayfly.web import problems
from mayfly.wire.calls import Call, Item

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# A streaming caller hears something at least this often (s), so that proxies stay calm.
_SILENCE = 10.0
# How soon a call that waits for a place in the queue tries again (s).
_TRY_AGAIN = 0.05

Render = Callable[[Any], Iterable[dict[str, Any]]]


class Source(Protocol):
    """What a stream tells of, as `Choices` does."""

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""

    def advance(self, now: float) -> list[Any]:
        """Return what has come."""

    def wait(self, until: float) -> Wait:
        """Return what to wait for, at most until then."""

    def close(self) -> None:
        """End it."""


class FlowResponse(Response):
    """The answer to a request that isn't known yet: a flow makes it.

    Args:
        headers: of the answer; the flow adds to them until it answers.
    """

    def __init__(self, flow: Flow, request_id: str, path: str, headers: list[tuple[str, str]]) -> None:
        super().__init__()
        self._told = headers
        self.flow = guarded(flow, request_id, path)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Hand the flow to the server, or drive it here if the server can't."""
        told = self._told
        told.extend((name, value) for name, value in self.headers if name not in ("Content-Type", "Content-Length"))
        take_over = environ.get(TAKE_OVER)
        if take_over is not None:
            take_over(self.flow, told)
            return ()
        steps = drive(self.flow)
        answer = next(steps)
        assert isinstance(answer, Answer)
        start_response(answer.status, [*answer.headers, *told])
        return [answer.body] if answer.body is not None else cast("Iterator[bytes]", steps)


def guarded(flow: Flow, request_id: str, path: str) -> Flow:
    """Return a flow whose errors, before it has answered, are its answer; `path` is what was asked for."""
    try:
        yield from flow
    except (Exception, SystemExit) as exc:
        # The boundary of a request: whatever is raised below becomes JSON here, and ends one request alone.
        problem = problems.of_exception(exc, request_id)
        yield Answer(problem.status_line, problem.headers(), problem.body(path, request_id))


def result(call: LaneCall) -> Generator[Wait, None, Item]:
    """Wait for the one item that comes of a call; the call is closed.

    Raises:
        CallError: see LaneCall.
    """
    with contextlib.closing(call):
        while not (items := call.advance(time.monotonic())):
            yield Wait((call,))
        return items[-1]


def admitted(lane: Lane, call: Call, deadline: float) -> Generator[Wait, None, LaneCall]:
    """Begin a call, and wait for a place where the queue is full.

    Raises:
        QueueFull: there was none when the deadline passed.
    """
    while True:
        try:
            return lane.begin(call, deadline)
        except QueueFull:
            now = time.monotonic()
            if now >= deadline:
                raise
            yield Wait(until=min(deadline, now + _TRY_AGAIN))


def as_json(body: bytes | dict[str, Any]) -> Answer:
    """Return a whole answer."""
    return Answer("200 OK", [("Content-Type", "application/json")],
                  body if isinstance(body, bytes) else json.dumps(body).encode())


@dataclass(frozen=True)
class Form:
    """How the events of a stream are written.

    Attributes:
        content_type: of the answer.
        event: writes one.
        failure: writes the one that tells why the stream ends.
        ping: says that the service is still there.
        end: follows the last one.
    """

    content_type: str
    event: Callable[[dict[str, Any]], bytes]
    failure: Callable[[Problem], bytes]
    ping: bytes = b""
    end: bytes = b""


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def named_event(data: dict[str, Any]) -> bytes:
    """Return a server-sent event that has its type as its name too."""
    return f"event: {data['type']}\n".encode() + _event(data)


#: Server-sent events.
EVENTS = Form("text/event-stream; charset=utf-8", _event, lambda problem: _event(problem.as_object()), b": ping\n\n",
              b"data: [DONE]\n\n")


def stream(source: Source, render: Render, request_id: str, form: Form = EVENTS) -> Flow:
    """Answer with a stream of events, whatever the JSON of its events looks like.

    It begins with the first item, so that an error before it can still choose the HTTP status. Lines end in LF alone
    and JSON is ASCII, because clients parse streams by hand: some know no CR, and a network write may cut a UTF-8
    character in two.

    Args:
        source: closed with the flow.
        render: turns an item into the JSON objects that show it.
    """
    begun = False
    heard = time.monotonic()
    with contextlib.closing(source):
        try:
            while not source.finished:
                now = time.monotonic()
                items = source.advance(now)
                events = b"".join(form.event(event) for item in items for event in render(item))
                if source.finished:
                    events += form.end
                elif not events and now - heard >= _SILENCE:
                    events = form.ping
                if events:
                    if not begun:
                        begun = True
                        yield Answer("200 OK", [("Content-Type", form.content_type),
                                                ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")])
                    yield events
                    heard = now
                if not source.finished:
                    yield source.wait(heard + _SILENCE)
        except (Exception, SystemExit) as exc:
            if not begun:
                raise
            # The status has been sent, so the failure becomes the last event.
            yield form.failure(problems.of_exception(exc, request_id))
