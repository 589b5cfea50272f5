"""`DELETE /v1/models/{name}`: delete a model's files. Needs a key from everybody, as fetching does."""

from __future__ import annotations

import time

from mayfly.errors import InvalidRequest, ModelUnavailable
from mayfly.flow import Compute, Flow, Wait
from mayfly.models import store
from mayfly.models.inventory import Model
from mayfly.web import answer_schemas as answers
from mayfly.web.flows import as_json
from mayfly.web.routes import Asked, Route
from mayfly.web.service import Service

# How long a model that is loaded has to leave (s), and how often it is looked for.
_PATIENCE = 5.0
_TICK = 0.1


def routes(service: Service) -> list[Route]:
    """Return the route of a service."""
    catalogue, switchboard, folder = service.catalogue, service.switchboard, service.settings.model_path

    def delete(asked: Asked, name: str) -> Flow:
        model = catalogue.file(name)
        setting = catalogue.setting_of(model)
        if setting:
            raise _refused(model, f"it is the model of {setting}. Name another one there in .env, and start again")
        return _delete(model, min(asked.deadline, time.monotonic() + _PATIENCE))

    def _delete(model: Model, until: float) -> Flow:
        # Whatever the system lets be done with a file that is open: what is deleted isn't to answer any more.
        while not switchboard.unload(model.id):
            now = time.monotonic()
            if now >= until:
                raise InvalidRequest(f"The model '{model.id}' is in use: somebody waits for its answer, or it is being "
                                     "loaded. Try again later.", status=409, code="model_in_use", param="model")
            yield Wait(until=now + _TICK)
        try:
            yield Compute(lambda: store.remove(folder, model.path))
        except ModelUnavailable as exc:
            raise _refused(model, f"{exc}. Delete the link itself") from exc
        except OSError as exc:
            raise _refused(model, exc.strerror or str(exc)) from exc
        yield as_json({"id": model.id, "object": "model", "deleted": True})

    return [Route("DELETE", "/v1/models/{name}", delete, "Delete a model's files", "Models and tokens",
                  answer=answers.DeletedModel, key="always")]


def _refused(model: Model, why: str) -> InvalidRequest:
    return InvalidRequest(f"The model '{model.id}' can't be deleted: {why}.", status=409, code="model_not_deletable",
                          param="model")
