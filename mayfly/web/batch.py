"""The completions of one request: one call of the lane for each, so that each has a fresh process.

As many run side by side as the lane serves at once; the rest follow as those end, so a request takes no more of the
queue than it can use. One that fails ends them all, and so does the client by leaving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mayfly.errors import DeadlinePassed, LaneUnavailable, QueueFull
from mayfly.lanes.calls import ClientGone, Completion, CompletionCall, Finished, Lane, Piece, Waiting, Watch
from mayfly.web.service import Service

T = TypeVar("T")

# How often a call that finds the queue full looks again, while others of its request are being answered.
_LOOK_AGAIN = 0.1


@dataclass(frozen=True)
class Part:
    """A part of one of the completions.

    Attributes:
        index: which of the calls it belongs to.
        last: whether all of the calls are finished with it.
    """

    index: int
    item: Piece | Finished
    last: bool = False


class Batch:
    """Several completion calls, made and ended together.

    Args:
        service: where the lane's places are taken.
        lane: the lane's name.
        calls: at least one.
        watch: the caller's side; the deadline is that of all calls together.
    """

    def __init__(self, service: Service, lane: str, calls: Sequence[CompletionCall], watch: Watch) -> None:
        self._service = service
        self._lane = lane
        self._calls = calls
        self._cancelled = threading.Event()
        self._watch = dataclasses.replace(
            watch, client_gone=lambda: self._cancelled.is_set() or watch.client_gone())

    def complete(self) -> list[Completion]:
        """Make all completions; return them in the order of the calls.

        Raises:
            CallError, ClientGone: what the first call that failed raised.
        """
        def whole(lane: Lane, call: CompletionCall) -> Generator[Completion, None, None]:
            yield lane.complete(call, self._watch)

        with contextlib.closing(self._each(whole)) as answers:
            made = dict(answers)
        return [made[index] for index in range(len(self._calls))]

    def stream(self) -> Generator[Part | Waiting, None, None]:
        """Make all completions piece by piece; the parts of those that run side by side come interleaved.

        Raises:
            CallError, ClientGone: what the first call that failed raised.
        """
        def pieces(lane: Lane, call: CompletionCall) -> Generator[Piece | Waiting | Finished, None, None]:
            items = lane.stream(call, self._watch)
            try:
                yield from items
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()

        unfinished = len(self._calls)
        with contextlib.closing(self._each(pieces)) as items:
            for index, item in items:
                if isinstance(item, Waiting):
                    yield item
                    continue
                unfinished -= isinstance(item, Finished)
                yield Part(index, item, last=unfinished == 0)

    def _each(self, work: Callable[[Lane, CompletionCall], Generator[T, None, None]]
              ) -> Generator[tuple[int, T], None, None]:
        """Do the work for each call; yield what comes of it, as it comes, with the call's number."""
        if len(self._calls) == 1:
            with self._service.seat(self._lane) as lane, contextlib.closing(work(lane, self._calls[0])) as items:
                for item in items:
                    yield 0, item
            return
        results: queue.SimpleQueue[tuple[int, T] | BaseException | None] = queue.SimpleQueue()
        turns = iter(range(len(self._calls)))
        lock = threading.Lock()

        def run() -> None:
            try:
                while True:
                    with lock:
                        index = next(turns, None)
                    if index is None:
                        break
                    for item in self._patiently(work, index):
                        results.put((index, item))
                results.put(None)
            except BaseException as exc:
                # A thread's outermost boundary: the request's own thread raises it.
                results.put(exc)

        threads = [threading.Thread(target=run, name="completion", daemon=True)
                   for _ in range(min(len(self._calls), self._service.settings.chat_processes))]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            # A call notices within a tick of its lane.
            self._cancelled.set()
            for thread in threads:
                thread.join()

    def _patiently(self, work: Callable[[Lane, CompletionCall], Generator[T, None, None]], index: int) -> Iterator[T]:
        """Do the work for one call. Only the first may find the queue full: then the request hasn't begun."""
        while True:
            try:
                with self._service.seat(self._lane) as lane, contextlib.closing(
                        work(lane, self._calls[index])) as items:
                    yield from items
                return
            except QueueFull:
                if index == 0:
                    raise
            self._cancelled.wait(_LOOK_AGAIN)
            if self._watch.client_gone():
                raise ClientGone
            if self._watch.stopping():
                raise LaneUnavailable("The service is stopping: try again when it is back.", retry_after=2)
            if time.monotonic() >= self._watch.deadline:
                raise DeadlinePassed("the request was not finished when its deadline (REQUEST_TIMEOUT) passed")
