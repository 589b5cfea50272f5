"""A real HTTP server that plays what a test wrote, for tests of embed_client.py.

    with PlayedService(busy, page) as service:  # answers with `busy`, then with `page`, then as a service does
        ...
    service.requests                            # what arrived: path, headers, body, connection

An answer is a function that is given the request's handler, or an `Answer`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """A whole answer. `cut` promises more bytes than it sends and then closes the connection."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    def __call__(self, handler: Handler) -> None:
        if isinstance(self.body, bytes):
            data, content_type = self.body, "text/html"
        else:
            data, content_type = json.dumps(self.body).encode(), "application/json"
        handler.send_response(self.status)
        for name, value in {"Content-Type": content_type, **self.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) + 1000 * self.cut))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = self.cut


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    """Return an error as the service words it; `Retry_After="1"` becomes the header Retry-After."""
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, {"X-Request-Id": "req-1", **named})


def stream(*lines: str | threading.Event, chunked: bool = True) -> Callable[[Handler], None]:
    """Return an answer of server-sent lines; at an event it waits until the test sets it."""

    def play(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("X-Request-Id", "req-2")
        handler.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        handler.end_headers()
        for line in lines:
            if isinstance(line, threading.Event):
                assert line.wait(30)
                continue
            data = line.encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        if chunked:
            handler.wfile.write(b"0\r\n\r\n")

    return play


def event(**fields: Any) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(fields)}\n\n"


DONE = "data: [DONE]\n\n"


@dataclass
class Request:
    """What arrived. Requests over the same connection have the same client port."""

    path: str
    headers: dict[str, str]
    body: Any
    client_port: int


class PlayedService:
    """The server; a context manager."""

    def __init__(self, *answers: Callable[[Handler], None]) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.arrived = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.service = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> PlayedService:
        # The interval in which the server notices that it is to stop; its default is half a second.
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.shutdown()
        self.server.socket.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self) -> None:
        service: PlayedService = self.server.service  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service.requests.append(Request(self.path, dict(self.headers), body, self.client_address[1]))
        service.arrived.set()
        answer = service.answers.pop(0) if service.answers else as_a_service
        try:
            answer(self)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def vector_of(text: str) -> list[float]:
    """Return the vector that the server gives a text: nonsense, but another one for another text."""
    return [float(len(text)), float(sum(map(ord, text)) % 5 - 2), 1.0]


def as_a_service(handler: Handler) -> None:
    body = handler.server.service.requests[-1].body  # type: ignore[attr-defined]
    if handler.path == "/embed":
        data = [{"object": "embedding", "index": index, "embedding": vector_of(text)}
                for index, text in enumerate(body["input"])]
        Answer(body={"object": "list", "model": "played", "data": data})(handler)
    elif body.get("stream"):
        stream(event(response="Because "), event(response="it is."),
               event(response="", finish_reason="stop"), DONE)(handler)
    else:
        Answer(body={"response": "Because it is.", "finish_reason": "stop", "generation": 1})(handler)
