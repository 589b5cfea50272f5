"""The seeds of a request's completions: whoever knows them gets the same answers again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from mayfly.engines import backends
from mayfly.lanes.lane import Lane
from mayfly.web.catalogue import Model
from mayfly.web.routes import Asked
from mayfly.wire.calls import CompletionCall

HEADER = "X-Seed"
_BITS = 31  # that clients in any language read


def seeded(model: Model, calls: Sequence[CompletionCall], candidates: int = 1) -> list[CompletionCall]:
    """Return calls of which each has a seed, if the model's engine takes one.

    Args:
        candidates: of each prompt. They have seeds that follow one another, as those of the next prompt have.
    """
    if "seed" not in model.features:
        return list(calls)
    given = calls[0].sampling.seed
    first = secrets.randbits(_BITS) if given is None else given
    return [replace(call, sampling=replace(call.sampling, seed=first + number % candidates,
                                           repeatable=given is not None or not call.sampling.temperature))
            for number, call in enumerate(calls)]


def used(lane: Lane, call: CompletionCall) -> int | None:
    """Return the seed with which a lane has begun to answer a call; None if its engine takes none.

    That may show only as a model is loaded: where llama.cpp refuses the file, another engine serves it.
    """
    engine = lane.status().get("engine")
    return None if engine and backends.lacking(["seed"], engine) else call.sampling.seed


def tell(asked: Asked, lane: Lane, call: CompletionCall) -> None:
    """Have the answer's header tell the seed with which a lane has begun to answer a call."""
    seed = used(lane, call)
    if seed is not None:
        asked.headers.append((HEADER, str(seed)))
