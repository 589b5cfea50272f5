"""Completions as an event stream (`text/event-stream`), whatever the JSON of its events looks like.

Lines end in LF alone and JSON is ASCII, because clients parse streams by hand: some know no CR, and a network write
may cut a UTF-8 character in two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from flask import Response

from mayfly.errors import EngineFailed
from mayfly.lanes.calls import ClientGone, Finished, Waiting
from mayfly.web import problems

# What a lane yields (Piece, Waiting, Finished), or the like with more in it.
Items = Iterator[Any]
Render = Callable[[Any], Iterable[dict[str, Any]]]
SourceT = TypeVar("SourceT")

# Under this name a stream tells the access log that its client hung up.
GONE = "mayfly.client_gone"

# Between events: a comment, which readers skip.
PING = b": ping\n\n"


def _is_end(item: Any) -> bool:
    return isinstance(item, Finished)


class EventStream:
    """The body of a streaming answer. Closing it, at any moment, cancels the completion.

    Not a generator: closing a generator that hasn't begun runs none of its code, and the completion would go on.
    """

    def __init__(self, seat: AbstractContextManager[SourceT], start: Callable[[SourceT], Items], render: Render,
                 environ: dict[str, Any], request_id: str, is_end: Callable[[Any], bool] = _is_end) -> None:
        """Begin the completion and wait for its first item, so that an error can still choose the HTTP status.

        Args:
            seat: a place at the lane, held until the stream ends.
            start: called with what `seat` gives, the lane; returns the items.
            render: turns an item into the JSON objects that show it; a Waiting is shown as a comment.
            environ: the request's WSGI environment.
            is_end: tells, of an item that has been rendered, whether the stream is complete with it.

        Raises:
            CallError, ClientGone: what the lane raised before its first item.
        """
        self._render = render
        self._environ = environ
        self._request_id = request_id
        self._is_end = is_end
        self._over = False
        self._seat: AbstractContextManager[Any] | None = None
        self._items: Items = iter(())
        self._first: Any = None
        lane = seat.__enter__()
        self._seat = seat
        try:
            self._items = start(lane)
            self._first = next(self._items, None)
            if self._first is None:
                raise _broken_off()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> EventStream:
        """Return itself."""
        return self

    def __next__(self) -> bytes:
        """Return the next events, as bytes."""
        if self._over:
            raise StopIteration
        try:
            item = self._first if self._first is not None else next(self._items, None)
            self._first = None
            if item is None:
                raise _broken_off()
            if isinstance(item, Waiting):
                return PING
            events = b"".join(map(_event, self._render(item)))
        except ClientGone:
            self._over = True
            self._environ[GONE] = True
            raise StopIteration from None
        except Exception as exc:
            # The outermost boundary of a stream: its status has been sent, so the failure becomes its last event.
            self._over = True
            return _event(problems.of_exception(exc, self._request_id).as_object())
        if self._is_end(item):
            self._over = True
            return events + b"data: [DONE]\n\n"
        return events

    def close(self) -> None:
        """Cancel the completion unless it is over, and leave the lane."""
        self._over = True
        seat, self._seat = self._seat, None
        try:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        finally:
            if seat is not None:
                seat.__exit__(None, None, None)

    def response(self) -> Response:
        """Return the answer whose body this is."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Response(self, mimetype="text/event-stream", headers=headers)


def _broken_off() -> EngineFailed:
    return EngineFailed("The completion broke off before its end.")


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
