"""The seeds of a request's completions: whoever knows them gets the same answers again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from mayfly.web.catalogue import Model
from mayfly.web.routes import Asked
from mayfly.wire.calls import CompletionCall

HEADER = "X-Seed"
_BITS = 31  # that clients in any language read


def seeded(asked: Asked, model: Model, calls: Sequence[CompletionCall], candidates: int = 1) -> list[CompletionCall]:
    """Return calls of which each has a seed, if the model's engine takes one; the answer's header tells the first.

    Args:
        candidates: of each prompt. They have seeds that follow one another, as those of the next prompt have.
    """
    if "seed" not in model.features:
        return list(calls)
    given = calls[0].sampling.seed
    first = secrets.randbits(_BITS) if given is None else given
    asked.headers.append((HEADER, str(first)))
    return [replace(call, sampling=replace(call.sampling, seed=first + number % candidates,
                                           repeatable=given is not None or not call.sampling.temperature))
            for number, call in enumerate(calls)]
