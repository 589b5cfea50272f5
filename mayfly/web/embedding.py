"""Requests for embeddings, whichever API they come by."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mayfly.errors import InvalidRequest
from mayfly.flow import Compute, Flow
from mayfly.lanes.lane import Lane
from mayfly.web.catalogue import Model
from mayfly.web.flows import admitted, as_json, result
from mayfly.web.routes import Asked
from mayfly.web.schemas import EmbedBody
from mayfly.web.service import Service
from mayfly.wire.calls import EmbedCall, Embeddings

# Writing more vectors takes so long that a thread does it.
_MOST_AT_ONCE = 8

#: Writes the JSON of an answer.
Write = Callable[[Embeddings], bytes]


def embed(service: Service, asked: Asked, body: EmbedBody, model: Model) -> Flow:
    """Return the flow that answers with the vectors of a body's texts.

    Raises:
        InvalidRequest: there are too many texts.
    """
    call = EmbedCall(asked.id, body.texts(service.settings.max_texts), body.long_text)

    def written(made: Embeddings) -> bytes:
        # numpy takes a third of the start-up time; the first request that needs it waits for it, not the start.
        from mayfly.web.vectors import embedding_list

        return embedding_list(made, len(call.texts), body.encoding_format)

    def check(made: Embeddings) -> None:
        if body.dimensions not in (None, made.dimensions):
            raise InvalidRequest(f"'dimensions' has to be {made.dimensions} for {made.model}, or left out: its vectors "
                                 "can't be cut.", param="dimensions")

    return vectors(service.switchboard.lane(model.lane), call, asked.deadline, written, check)


def vectors(lane: Lane, call: EmbedCall, deadline: float, written: Write,
            check: Callable[[Embeddings], None] = lambda made: None, *, patient: bool = False) -> Flow:
    """Answer with the vectors of a call.

    Args:
        written: the answer, from the vectors; called by a thread where there are many.
        check: raises where they aren't what was asked for.
        patient: where the queue is full, the call waits for a place.
    """
    begun = (yield from admitted(lane, call, deadline)) if patient else lane.begin(call, deadline)
    made = yield from result(begun)
    assert isinstance(made, Embeddings)
    check(made)
    if len(call.texts) <= _MOST_AT_ONCE and "mayfly.web.vectors" in sys.modules:
        yield as_json(written(made))
    else:
        yield as_json((yield Compute(lambda: written(made))))
