"""Writing an answer: waitress's tasks, with a log line for each and JSON for errors found before the application.

Relies on waitress 3.0.2: `Task.service` calls `start`, `execute` and `finish`; `write` hands what
`build_response_header` returns to the channel before the first bytes, and frames a body without a known length as
chunks (see tests/unit/test_waitress_upstream.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from waitress.task import ErrorTask, Task

from mayfly.flow import Answer
from mayfly.http import access_log
from mayfly.http.pulse import PING
from mayfly.http.request import Refused, Request, problem_of
from mayfly.http.site import Headers
from mayfly.problem import failed, report

if TYPE_CHECKING:
    from mayfly.http.connection import Connection


class _Logged(Task):  # type: ignore[misc]
    """A task that counts what it sends, closes its connection while the service stops, and writes a log line."""

    body_bytes = 0

    def service(self) -> None:
        """Answer, and log how it ended."""
        try:
            super().service()
        except Exception as exc:
            # waitress now answers with an error task, unless the answer had begun.
            fail(self.channel, self.request, exc)
            raise
        log(self.channel, self.request, int(self.status[:3]), self.body_bytes)

    def write(self, data: bytes) -> None:
        """Send a part of the body."""
        super().write(data)
        self.body_bytes += len(data)

    def finish(self) -> None:
        """Send what ends the answer."""
        super().finish()
        self.channel.pulse.close()

    def build_response_header(self) -> bytes:
        """Return the status line and the headers."""
        if self.channel.server.draining.announced:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        if any(name == "Content-Type" and value.startswith("text/event-stream")
               for name, value in self.response_headers):
            self.channel.pulse.allow(b"%x\r\n%s\r\n" % (len(PING), PING) if self.chunked_response else PING)
        return header


class AnswerTask(_Logged):
    """An answer that is known whole: `request.answer`."""

    complete = True

    def execute(self) -> None:
        """Write it."""
        answer = self.request.answer
        assert answer is not None and answer.body is not None
        self.status = answer.status
        self.response_headers = answer.headers
        if self.request.method() == "HEAD":
            # Its headers say how long the body would be.
            self.write(b"")
            return
        self.content_length = len(answer.body)
        self.write(answer.body)


class StreamTask(_Logged):
    """An answer whose body comes piece by piece, by `write`, before `service` ends it."""

    complete = True

    def __init__(self, channel: Connection, request: Request, answer: Answer) -> None:
        super().__init__(channel, request)
        self.status = answer.status
        self.response_headers = answer.headers
        super().start()

    def start(self) -> None:
        """It has begun already."""

    def execute(self) -> None:
        """All of it has been written."""


class ProblemTask(_Logged, ErrorTask):  # type: ignore[misc]
    """An answer to a request that never reached the application."""

    def execute(self) -> None:
        """Write the problem as JSON and close the connection."""
        problem = problem_of(self.request.error, self.channel.adj)
        stamped = stamp(self.channel, self.request)
        body = problem.body(getattr(self.request, "path", ""), dict(stamped)["X-Request-Id"])
        self.status = problem.status_line
        self.response_headers.extend([*problem.headers(), *stamped])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(b"" if self.request.method() == "HEAD" else body)


def stamp(connection: Connection, request: Request) -> Headers:
    """Return the headers that a request's answer has, whatever it is: always the same."""
    if request.stamp is None:
        request.stamp = connection.server.site.gate.stamp(request.environ(connection.addr[0]))
    return request.stamp


def fail(connection: Connection, request: Request, exc: BaseException) -> None:
    """Report a bug under the name by which the client knows its request, which will be answered with an error."""
    name = dict(stamp(connection, request))["X-Request-Id"]
    report(exc, name)
    request.error = Refused(failed(name))


def log(connection: Connection, request: Request, status: int, size: int) -> None:
    """Count a request whose answer has ended, with `size` bytes of body, and write its log line, if it gets one."""
    site, path = connection.server.site, getattr(request, "path", "")
    site.answered(request.method() or "", path, status, time.monotonic() - request.began)
    if status == 200 and path.rstrip("/") in site.probes:
        return
    sent = 0 if request.method() == "HEAD" else size
    connection.server.log_access(access_log.line(connection.addr[0], request.method(), request.target(),
                                                 request.version, status, sent, time.time()))
