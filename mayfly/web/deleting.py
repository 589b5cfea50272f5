"""`DELETE /v1/models/{name}`: delete a model's files. Needs a key from everybody, as fetching does."""

from __future__ import annotations

import time
from collections.abc import Generator

from mayfly.errors import InvalidRequest, ModelUnavailable
from mayfly.flow import Compute, Flow, Wait
from mayfly.models import store
from mayfly.models.inventory import Model
from mayfly.web.flows import as_json
from mayfly.web.routes import Asked, Route
from mayfly.web.service import Service

# How long a model that is loaded has to leave (s), and how often it is looked for.
_PATIENCE = 5.0
_TICK = 0.1


def routes(service: Service) -> list[Route]:
    """Return the route of a service."""
    def delete(asked: Asked, name: str) -> Flow:
        return _delete(service, service.catalogue.file(name), asked.deadline)

    return [Route("DELETE", "/v1/models/{name}", delete, "Delete a model's files", "Models and tokens",
                  answer="DeletedModel", key="always")]


def _delete(service: Service, model: Model, deadline: float) -> Flow:
    yield from removed(service, model, deadline)
    yield as_json({"id": model.id, "object": "model", "deleted": True})


def removed(service: Service, model: Model, deadline: float) -> Generator[Wait | Compute, None, None]:
    """Delete a model's files, once it isn't loaded any more.

    Raises:
        InvalidRequest: it is in use, or can't be deleted.
    """
    setting = service.catalogue.setting_of(model)
    if setting:
        raise _refused(model, f"it is the model of {setting}. Name another one there in .env, and start again")
    # Whatever the system lets be done with a file that is open: what is deleted isn't to answer any more.
    if not (yield from unloaded(service, model.id, min(deadline, time.monotonic() + _PATIENCE))):
        raise InvalidRequest(f"The model '{model.id}' is in use: somebody waits for its answer, or it is being "
                             "loaded. Try again later.", status=409, code="model_in_use", param="model")
    try:
        yield Compute(lambda: store.remove(service.settings.model_path, model.path))
    except ModelUnavailable as exc:
        raise _refused(model, f"{exc}. Delete the link itself") from exc
    except OSError as exc:
        raise _refused(model, exc.strerror or str(exc)) from exc


def unloaded(service: Service, model: str, until: float) -> Generator[Wait, None, bool]:
    """Have a model leave that was loaded on demand, given by its id; tell whether it has, before `until`."""
    while not service.switchboard.unload(model):
        now = time.monotonic()
        if now >= until:
            return False
        yield Wait(until=now + _TICK)
    return True


def _refused(model: Model, why: str) -> InvalidRequest:
    return InvalidRequest(f"The model '{model.id}' can't be deleted: {why}.", status=409, code="model_not_deletable",
                          param="model")
