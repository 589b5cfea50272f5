"""Requests for embeddings, whichever API they come by."""

from __future__ import annotations

import sys

from mayfly.errors import InvalidRequest
from mayfly.flow import Compute, Flow
from mayfly.lanes.lane import Lane
from mayfly.web.catalogue import Model
from mayfly.web.flows import as_json, result
from mayfly.web.routes import Asked
from mayfly.web.schemas import EmbedBody
from mayfly.web.service import Service
from mayfly.wire.calls import EmbedCall, Embeddings

# Writing more vectors takes so long that a thread does it.
_MOST_AT_ONCE = 8


def embed(service: Service, asked: Asked, body: EmbedBody, model: Model) -> Flow:
    """Return the flow that answers with the vectors of a body's texts.

    Raises:
        InvalidRequest: there are too many texts.
    """
    call = EmbedCall(asked.id, body.texts(service.settings.max_texts), body.long_text)
    return _vectors(service.switchboard.lane(model.lane), call, asked.deadline, body)


def _vectors(lane: Lane, call: EmbedCall, deadline: float, body: EmbedBody) -> Flow:
    made = yield from result(lane.begin(call, deadline))
    assert isinstance(made, Embeddings)
    if body.dimensions not in (None, made.dimensions):
        raise InvalidRequest(f"'dimensions' has to be {made.dimensions} for {made.model}, or left out: its vectors "
                             "can't be cut.", param="dimensions")

    def written() -> bytes:
        # numpy takes a third of the start-up time; the first request that needs it waits for it, not the start.
        from mayfly.web.vectors import embedding_list

        return embedding_list(made, len(call.texts), body.encoding_format)

    if len(call.texts) <= _MOST_AT_ONCE and "mayfly.web.vectors" in sys.modules:
        yield as_json(written())
    else:
        yield as_json((yield Compute(written)))
