"""`POST /v1/models/pull`: fetch a model by its name, and tell of the progress as an event stream.

It fills the disk from the network, so it needs a key from everybody, this machine's own programs included. One download
runs at a time. It ends when its client leaves; what has arrived stays for the next one.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from mayfly.errors import InvalidRequest, ModelUnavailable, NotFound, PullFailed
from mayfly.flow import Flow, Wait
from mayfly.models import hub, parts, pull
from mayfly.models.download import NotOffered
from mayfly.models.inventory import public_name
from mayfly.settings import Settings
from mayfly.web.flows import stream
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import OpenAIBody, validate
from mayfly.web.service import Service

TAG = "Models and tokens"

# What a file of gpt4all's list can be called. What is neither that nor a name of the hub isn't looked up anywhere.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
# How often a stream looks for news of the download's thread (s).
_TICK = 0.1
# A client hears of progress this often (s), and if there is none, that the service is still there.
_INTERVAL = 0.5


class PullBody(OpenAIBody):
    """`POST /v1/models/pull`."""

    model: str = Field(description="the name of a model on gpt4all's list, hf:OWNER/REPO/FILE.gguf, or hf:OWNER/REPO "
                                   "with :QUANTIZATION or without")


@dataclass(frozen=True)
class Progress:
    """How far it is. `status` is "downloading", "verifying" or "success"; `completed` and `total` are bytes."""

    status: str
    completed: int
    total: int
    model: str


class _Stopped(Exception):
    """Nobody waits for this download any more."""


class Download:
    """A download in a thread of its own, because reading from the network can't watch the client meanwhile. A Source of
    flows.py."""

    def __init__(self, name: str, settings: Settings, over: threading.Lock) -> None:
        self._name = name
        self._settings = settings
        self._over = over
        self._stopped = threading.Event()
        self._news: queue.SimpleQueue[Progress | BaseException] = queue.SimpleQueue()
        self.finished = False
        self._failure: BaseException | None = None  # told after the progress that came before it
        self._next = 0.0
        self._stage = ""
        threading.Thread(target=self._run, name="pull", daemon=True).start()

    def advance(self, now: float) -> list[Progress]:
        """Return the progress since the last time; "success" comes last.

        Raises:
            CallError: it failed; the message says why.
        """
        come = []
        with contextlib.suppress(queue.Empty):
            while True:
                news = self._news.get_nowait()
                if isinstance(news, BaseException):
                    self._failure = news
                    break
                come.append(news)
                self.finished = news.status == "success"
        if self._failure is not None and not come:
            raise _as_answer(self._failure) from self._failure
        return come

    def wait(self, until: float) -> Wait:
        """See Source."""
        return Wait(until=min(until, time.monotonic() + _TICK))

    def close(self) -> None:
        """End it. What has arrived stays for the next one."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            path = pull.pull(self._name, self._settings, self._report)
            size = sum(size for _, _, size, _ in parts.mark(path))
            self._news.put(Progress("success", size, size, public_name(path.name)))
        except _Stopped:
            return
        except BaseException as exc:
            # The thread's outermost boundary: the request's own thread raises it.
            self._news.put(exc)
        finally:
            self._over.release()

    def _report(self, status: str, file: str, completed: int, total: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        now = time.monotonic()
        if now >= self._next or status != self._stage:
            self._next, self._stage = now + _INTERVAL, status
            self._news.put(Progress(status, completed, total, public_name(file)))


def _as_answer(exc: BaseException) -> BaseException:
    if isinstance(exc, NotOffered):
        return NotFound(f"{exc}.", param="model", code="model_not_found")
    return PullFailed(f"{exc}.") if isinstance(exc, ModelUnavailable) else exc


def require_writable(service: Service, refused: str, advice: str) -> None:
    """Require that the models' folder may be changed.

    Args:
        refused, advice: what can't be done otherwise, and what to do instead.

    Raises:
        InvalidRequest: it may not.
    """
    folder = service.settings.model_path
    if folder.exists() and not os.access(folder, os.W_OK):
        raise InvalidRequest(f"{refused}: MODEL_PATH is read-only. {advice}", status=409, code="read_only")


def download(service: Service, name: str) -> Download:
    """Begin to fetch a model; what comes are `Progress`.

    Raises:
        NotFound: no model has such a name, wherever one looks.
        InvalidRequest: another one is being fetched, or MODEL_PATH is read-only.
    """
    if not _PLAIN.fullmatch(name) and not hub.is_name(name):
        raise NotFound("This is neither the name of a model on gpt4all's list, which is a file's without any "
                       "folder, nor one of the hub: hf:OWNER/REPO/FILE.gguf.", param="model",
                       code="model_not_found")
    require_writable(service, "Models can't be fetched here", "Put the file where that folder comes from.")
    if not service.pulling.acquire(blocking=False):
        raise InvalidRequest("Another model is being pulled: one download runs at a time.", status=409,
                             code="pull_in_progress")
    return Download(name, service.settings, service.pulling)


def waited_for(source: Download) -> Generator[Wait, None, str]:
    """Wait for a download's end; return the model's id.

    Raises:
        CallError: it failed; the message says why.
    """
    come: list[Progress] = []
    with contextlib.closing(source):
        while not source.finished:
            come = source.advance(time.monotonic())
            if not source.finished:
                yield source.wait(math.inf)
    return come[-1].model


def routes(service: Service) -> list[Route]:
    """Return the route of a service."""
    def pull_model(asked: Asked) -> Flow:
        return stream(download(service, validate(PullBody, asked.sent, asked.ignored).model), _render, asked.id)

    return [Route("POST", "/v1/models/pull", pull_model, "Fetch a model, telling of the progress", TAG, body=PullBody,
                  stream="text/event-stream", key="always")]


def _render(item: Progress) -> Iterator[dict[str, Any]]:
    yield {"status": item.status, "completed": item.completed, "total": item.total, "model": item.model}
