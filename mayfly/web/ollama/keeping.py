"""`keep_alive`: how long a model that was loaded on demand stays when it is idle."""

from __future__ import annotations

import time
from collections.abc import Iterable

from mayfly.flow import Flow, Step
from mayfly.web.catalogue import Model
from mayfly.web.deleting import unloaded
from mayfly.web.service import Service

# How long a model that is to leave at once has for it, while the caller waits (s).
_PATIENCE = 2.0


def kept(service: Service, model: Model, seconds: float, flow: Iterable[Step]) -> Flow:
    """Answer by a flow, and have the model stay for so long after it; with 0 it is gone when the answer ends.

    A model of the settings stays, and one that somebody else uses leaves when it is idle.
    """
    try:
        yield from flow
    finally:
        service.switchboard.keep(model.id, seconds)
    if not seconds:
        yield from unloaded(service, model.id, time.monotonic() + _PATIENCE)
