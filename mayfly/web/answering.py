"""Writing an answer: waitress's tasks, with a log line for each and JSON for errors found before the application."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected
from waitress.task import ErrorTask, Task, WSGITask

from mayfly.web import access_log, problems
from mayfly.web.events import GONE, PING
from mayfly.web.identity import request_id
from mayfly.web.reception import Reception, problem_of
from mayfly.web.service import BEGUN

if TYPE_CHECKING:
    from mayfly.web.connection import Connection


class _Logged(Task):  # type: ignore[misc]
    """A task that counts what it sends, closes its connection while the service stops, and writes a log line."""

    environ: dict[str, Any] | None = None
    body_bytes = 0

    def service(self) -> None:
        """Answer, and log how it ended."""
        status: int | None = problems.CLIENT_GONE
        try:
            super().service()
            status = int(self.status[:3])
        except ClientDisconnected:
            raise
        except Exception as exc:
            # waitress now answers with an error task, which writes the line, unless the answer had begun.
            status = 500 if self.wrote_header else None
            self.channel.failed_as = request_id(self.request.headers.get("X_REQUEST_ID"))
            problems.report(exc, self.channel.failed_as)
            raise
        finally:
            if status is not None:
                gone = (self.environ or {}).get(GONE, False)
                log(self.channel, self.request, problems.CLIENT_GONE if gone else status, self.body_bytes)

    def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if self.wrote_header:
            super().write(data)
        else:
            # The headers and the beginning of the body in one system call: the client wakes once.
            with self.channel.together():
                super().write(data)
        self.body_bytes += len(data)

    def finish(self) -> None:
        """Send what ends the answer."""
        with self.channel.outbuf_lock:
            super().finish()
            self.channel.pulse.close()

    def build_response_header(self) -> bytes:
        """Return the status line and the headers.

        Raises:
            ClientDisconnected: the answer's status is that of a client that has gone, for the log alone.
        """
        if self.status.startswith(str(problems.CLIENT_GONE)):
            raise ClientDisconnected
        if self.channel.server.draining.started:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        if any(name == "Content-Type" and value.startswith("text/event-stream")
               for name, value in self.response_headers):
            self.channel.pulse.allow(b"%x\r\n%s\r\n" % (len(PING), PING) if self.chunked_response else PING)
        return header


class AnswerTask(_Logged, WSGITask):  # type: ignore[misc]
    """An answer that the application makes, or that is known already."""

    def execute(self) -> None:
        """Run the application, or write what is known."""
        prepared = self.request.prepared
        if prepared is not None:
            self.status = prepared.status
            self.response_headers = prepared.headers
            self.content_length = len(prepared.body)
            self.complete = True
            self.write(prepared.body)
            return
        try:
            super().execute()
        except Exception:
            raise
        except BaseException as exc:
            # A SystemExit in a worker thread would end nothing but the answer to this client.
            raise RuntimeError("the application tried to end the process") from exc


    def get_environment(self) -> dict[str, Any]:
        """Return what the application gets."""
        environ: dict[str, Any] = super().get_environment()
        environ[BEGUN] = self.request.begun
        return environ


class ProblemTask(_Logged, ErrorTask):  # type: ignore[misc]
    """An answer to a request that never reached the application."""

    def execute(self) -> None:
        """Write the problem as JSON and close the connection."""
        problem = problem_of(self.request.error, self.channel.adj)
        body = problem.body()
        self.status = problem.status_line
        identity = self.channel.failed_as or request_id(self.request.headers.get("X_REQUEST_ID"))
        asking_page = self.channel.server.cross_origin.headers(self.request.environ(self.channel.addr[0]))
        self.response_headers.extend([*problem.headers(), ("X-Request-Id", identity), *asking_page])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(b"" if self.request.method() == "HEAD" else body)


def log(connection: Connection, request: Reception, status: int, size: int) -> None:
    """Write the log line of a request whose answer has ended, with `size` bytes of body."""
    sent = 0 if request.method() == "HEAD" else size
    connection.server.log_access(access_log.line(connection.addr[0], request.method(), request.target(),
                                                 request.version, status, sent, time.time()))
