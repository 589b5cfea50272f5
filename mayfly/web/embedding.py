"""Requests for embeddings, apart from how they are served: what is wanted, and the answer's body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mayfly.errors import InvalidRequest
from mayfly.lanes.calls import EmbedCall, Embeddings
from mayfly.web.schemas import EmbedBody


@dataclass(frozen=True)
class Wanted:
    """A valid request.

    Attributes:
        lane: see `Switchboard.lane`.
        encoding: of the vectors in the answer.
        dimensions: the length that they have to have; None is any.
        ignored: names of fields that were sent and mean nothing here.
    """

    call: EmbedCall
    lane: str
    encoding: Literal["float", "base64"]
    dimensions: int | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, body: EmbedBody, identity: str, most: int, lane_of: Callable[[str], str | None]) -> Wanted | None:
        """Return what a body asks for, None if its lane isn't known.

        Args:
            identity: the request's id.
            most: texts at once.
            lane_of: returns the lane of a model's name, or None.

        Raises:
            InvalidRequest: there are too many texts.
        """
        call = EmbedCall(identity, body.texts(most), body.long_text)
        lane = lane_of(body.model)
        if lane is None:
            return None
        return cls(call, lane, body.encoding_format, body.dimensions, body.ignored)

    def answer(self, made: Embeddings) -> bytes:
        """Return the answer's body, JSON.

        Raises:
            InvalidRequest: the vectors have another length.
            EngineFailed: they fail their checks.
        """
        # numpy takes a third of the start-up time; the first request that needs it waits for it, not the start.
        from mayfly.web.vectors import embedding_list

        if self.dimensions not in (None, made.dimensions):
            raise InvalidRequest(f"'dimensions' has to be {made.dimensions} for {made.model}, or left out: its vectors "
                                 "can't be cut.", param="dimensions")
        return embedding_list(made, len(self.call.texts), self.encoding)


#: Reads a request's JSON object, under its id, and doesn't wait for a disk. None if that doesn't do; raises a CallError
#: if the request isn't right.
Reader = Callable[[dict[str, Any], str], Wanted | None]
