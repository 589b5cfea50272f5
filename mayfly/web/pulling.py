"""`POST /v1/models/{id}/pull`: fetch a model of gpt4all's list, and tell of the progress as an event stream.

It fills the disk from the network, so it needs a key from everybody, this machine's own programs included. One download
runs at a time. It ends when its client leaves; what has arrived stays for the next one.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, g, request

from mayfly.errors import InvalidRequest, LaneUnavailable, ModelUnavailable, NotFound, PullFailed
from mayfly.lanes.calls import ClientGone, Waiting, Watch
from mayfly.models import pull
from mayfly.models.inventory import public_name
from mayfly.settings import Settings
from mayfly.web.events import EventStream
from mayfly.web.service import Service

# What a file of the list can be called. Whatever else is asked for isn't looked up anywhere.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_TICK = 0.2
# A client hears of progress this often (s), and if there is none, that the service is still there.
_INTERVAL = 0.5
_SILENCE = 10.0


@dataclass(frozen=True)
class Progress:
    """How far it is. `status` is "downloading", "verifying" or "success"; `completed` and `total` are bytes."""

    status: str
    completed: int
    total: int
    model: str


class _Stopped(Exception):
    """Nobody waits for this download any more."""


class _Download:
    """A download in a thread of its own, because reading from the network can't watch the client meanwhile."""

    def __init__(self, name: str, settings: Settings, over: threading.Lock) -> None:
        self._name = name
        self._settings = settings
        self._over = over
        self._stopped = threading.Event()
        self._news: queue.SimpleQueue[Progress | BaseException] = queue.SimpleQueue()
        self._next = 0.0
        self._stage = ""
        threading.Thread(target=self._run, name="pull", daemon=True).start()

    def events(self, watch: Watch) -> Iterator[Progress | Waiting]:
        """Yield the progress; "success" comes last.

        Raises:
            CallError: it failed; the message says why.
            ClientGone: the client hung up.
        """
        heard = time.monotonic()
        try:
            while True:
                if watch.client_gone():
                    raise ClientGone
                if watch.stopping():
                    raise LaneUnavailable("The service is stopping: the same request continues the download.",
                                          retry_after=2)
                try:
                    news = self._news.get(timeout=_TICK)
                except queue.Empty:
                    if time.monotonic() - heard >= _SILENCE:
                        heard = time.monotonic()
                        yield Waiting()
                    continue
                heard = time.monotonic()
                if isinstance(news, BaseException):
                    raise _as_answer(news) from news
                yield news
                if news.status == "success":
                    return
        finally:
            self._stopped.set()

    def _run(self) -> None:
        try:
            path = pull.pull(self._name, self._settings.model_path, list_url=self._settings.model_list, keep_list=True,
                             report=self._report)
            size = path.stat().st_size
            self._news.put(Progress("success", size, size, public_name(path.name)))
        except _Stopped:
            return
        except BaseException as exc:
            # The thread's outermost boundary: the request's own thread raises it.
            self._news.put(exc)
        finally:
            self._over.release()

    def _report(self, status: str, completed: int, total: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        now = time.monotonic()
        if now >= self._next or status != self._stage:
            self._next, self._stage = now + _INTERVAL, status
            self._news.put(Progress(status, completed, total, public_name(self._name)))


def _as_answer(exc: BaseException) -> BaseException:
    if isinstance(exc, pull.NotListed):
        return NotFound(f"{exc}.", param="model", code="model_not_found")
    return PullFailed(f"{exc}.") if isinstance(exc, ModelUnavailable) else exc


def install(app: Flask, service: Service) -> None:
    """Add the route to an application."""
    running = threading.Lock()

    def pull_model(name: str) -> Response:
        service.access.demand_key(request.environ)
        if not _PLAIN.fullmatch(name):
            raise NotFound("This isn't the name of a model on gpt4all's list: a name there is a file's, without any "
                           "folder.", param="model", code="model_not_found")
        watch = service.watch(request.environ)

        def begin(_: None) -> Iterator[Any]:
            if not running.acquire(blocking=False):
                raise InvalidRequest("Another model is being pulled: one download runs at a time.", status=409,
                                     code="pull_in_progress")
            return _Download(name, service.settings, running).events(watch)

        return EventStream(contextlib.nullcontext(), begin, _render, request.environ, g.request_id,
                           lambda item: item.status == "success").response()

    app.add_url_rule("/v1/models/<path:name>/pull", "pull", pull_model, methods=["POST"],
                     provide_automatic_options=False)


def _render(item: Progress) -> Iterator[dict[str, Any]]:
    yield {"status": item.status, "completed": item.completed, "total": item.total, "model": item.model}
