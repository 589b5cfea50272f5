"""The models, as Ollama's clients see them: `/api/tags`, `/api/show`, `/api/ps`, and what changes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from mayfly.errors import CallError, InvalidRequest, ModelUnusable, NotFound
from mayfly.flow import Answer, Flow
from mayfly.models import inventory
from mayfly.models.aliases import tagged, untagged
from mayfly.web import pulling
from mayfly.web.catalogue import Model
from mayfly.web.deleting import removed
from mayfly.web.flows import Form, as_json, stream
from mayfly.web.ollama.bodies import CopyBody, DeleteBody, OllamaPullBody, ShowBody
from mayfly.web.ollama.lines import NDJSON, failure, line, rfc3339
from mayfly.web.ollama.routing import named, route
from mayfly.web.pulling import Progress
from mayfly.web.routes import Asked, Route
from mayfly.web.schemas import validate
from mayfly.web.service import Service

# The version of Ollama that is imitated: some clients refuse older ones.
_VERSION = "0.14.2"
# Clients show a time that is far enough away as none.
_FOREVER = datetime(2318, 1, 1, tzinfo=timezone.utc).timestamp()
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:/-]{0,127}")
_LINES = Form(NDJSON, line, failure)


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""
    def running(asked: Asked) -> Answer:
        return Answer("200 OK", [("Content-Type", "text/plain; charset=utf-8")], b"Ollama is running")

    def version(asked: Asked) -> Answer:
        return as_json({"version": _VERSION})

    def tags(asked: Asked) -> Answer:
        return as_json({"models": _tags(service)})

    def show(asked: Asked) -> Answer:
        return as_json(_shown(service, named(service, validate(ShowBody, asked.sent, asked.ignored).named())))

    def ps(asked: Asked) -> Answer:
        said = [(model, service.switchboard.lane(model.lane).status()) for model in _usable(service)]
        return as_json({"models": [_loaded(model, status.get("leaves_at", _FOREVER)) for model, status in said
                                   if status.get("state") == "ready"]})

    def pull(asked: Asked) -> Flow:
        return _pull(service, asked, validate(OllamaPullBody, asked.sent, asked.ignored))

    def delete(asked: Asked) -> Flow:
        return _delete(service, asked, validate(DeleteBody, asked.sent, asked.ignored).named())

    def copy(asked: Asked) -> Answer:
        return _copy(service, validate(CopyBody, asked.sent, asked.ignored))

    def absent(asked: Asked, digest: str = "") -> Answer:
        raise CallError("models are neither made nor sent anywhere here: put a GGUF file into MODEL_PATH, or pull it",
                        status=501, code="not_implemented")

    return [
        # What these do no program has a use for, so the document leaves them out.
        route("GET", "/", running),
        *(route("POST", f"/api/{name}", absent) for name in ("create", "push", "blobs/{digest}")),
        route("GET", "/api/version", version, "See which Ollama this answers as", answer="Version"),
        route("GET", "/api/tags", tags, "List the models, as Ollama's API", answer="TagList"),
        route("POST", "/api/show", show, "Show a model", body=ShowBody, answer="ShownModel",
              examples={"A model": {"model": "all-minilm"}}),
        route("GET", "/api/ps", ps, "List the models that are loaded", answer="LoadedModels"),
        route("POST", "/api/pull", pull, "Fetch a model, as Ollama's API", body=OllamaPullBody, answer="Pulled",
              stream=NDJSON, key="always"),
        route("DELETE", "/api/delete", delete, "Delete a model's files, or another name of it", body=DeleteBody,
              key="always"),
        route("POST", "/api/copy", copy, "Give a model another name", body=CopyBody, key="always"),
    ]


def _done() -> Answer:
    return Answer("200 OK", [("Content-Type", "application/json")], b"")


def _usable(service: Service) -> list[Model]:
    return [model for model in service.catalogue.list() if service.catalogue.shown(model).get("usable")]


def _tags(service: Service) -> list[dict[str, Any]]:
    """Return all names of all models; clients look for a name with its tag."""
    usable = {model.id: model for model in _usable(service)}
    names = {tagged(model.id): model for model in usable.values()}
    for alias in service.catalogue.aliases.all():
        try:
            meant = usable.get(service.catalogue.resolve(alias, None).id)
        except (NotFound, InvalidRequest):
            continue
        if meant is not None:
            names.setdefault(tagged(alias), meant)
    listed = [_entry(service, name, model) for name, model in names.items()]
    return sorted(listed, key=lambda entry: str(entry["modified_at"]), reverse=True)


def _capabilities(service: Service, model: Model) -> list[str]:
    """Return what a model can, in Ollama's words."""
    able = {"tools": bool(service.catalogue.tools(model)), "insert": service.catalogue.fills_gaps(model),
            "thinking": model.file is not None and model.file.thinks}
    return [*([model.kind] if model.kind else []), *(name for name, can in able.items() if can)]


def _entry(service: Service, name: str, model: Model) -> dict[str, Any]:
    return {**_identity(name, _file(model)), "modified_at": rfc3339(_file(model).modified), "details": _details(model),
            "capabilities": _capabilities(service, model)}


def _loaded(model: Model, leaves_at: float) -> dict[str, Any]:
    return {**_identity(tagged(model.id), _file(model)), "details": _details(model), "expires_at": rfc3339(leaves_at),
            "size_vram": 0, "context_length": model.window}


def _file(model: Model) -> inventory.Model:
    assert model.file is not None
    return model.file


def _identity(name: str, file: inventory.Model) -> dict[str, Any]:
    # The sum of gigabytes would take too long, and clients only ask whether it has changed.
    digest = hashlib.sha256(f"{file.file}\0{file.size}\0{file.modified}".encode()).hexdigest()
    return {"name": name, "model": name, "size": file.size, "digest": digest}


def _details(model: Model) -> dict[str, Any]:
    file = _file(model)
    return {"parent_model": "", "format": "gguf", "family": file.architecture, "families": [file.architecture],
            "parameter_size": _rounded(file.parameter_count), "quantization_level": file.quantization,
            "context_length": model.window, "embedding_length": file.embedding_length}


def _rounded(parameters: int) -> str:
    size, unit = next(((size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if parameters >= size),
                      (1, ""))
    return f"{parameters / size:.4g}{unit}"


def _shown(service: Service, model: Model) -> dict[str, Any]:
    file = model.file
    if file is None:
        raise ModelUnusable.of(model.id, "it has no file, whatever MODEL_NAME or EMBED_MODEL says")
    arch = file.architecture
    # The window is the one that there is, for clients fill it.
    info = {"general.architecture": arch, "general.basename": model.id, "general.parameter_count": file.parameter_count,
            f"{arch}.context_length": model.window, f"{arch}.embedding_length": file.embedding_length}
    return {"license": "", "modelfile": f"FROM {model.id}\n", "parameters": f"{'num_ctx':<30} {model.window}",
            "template": "", "system": "", "details": _details(model), "model_info": info,
            "capabilities": _capabilities(service, model), "modified_at": rfc3339(file.modified)}


def _pull(service: Service, asked: Asked, body: OllamaPullBody) -> Flow:
    name = untagged(body.named())
    if _is_known(service, name):
        return _there_already(body.stream)
    # By this name Ollama's users know the hub.
    source = pulling.download(service, re.sub(r"^(hf\.co|huggingface\.co)/", "hf:", name))
    told = _Told(lambda model: _known_as(service, name, model))
    return stream(source, told.render, asked.id, _LINES) if body.stream else _waited_for(source, told.fetched)


def _known_as(service: Service, name: str, model: str) -> None:
    """Have a model that was just fetched be found by the name that it was asked for with."""
    if not _is_known(service, name):
        service.catalogue.aliases.add(name, model)


def _is_known(service: Service, name: str) -> bool:
    try:
        service.catalogue.resolve(name, None)
    except NotFound:
        return False
    return True


def _there_already(streamed: bool) -> Flow:
    if not streamed:
        yield as_json({"status": "success"})
        return
    yield Answer("200 OK", [("Content-Type", NDJSON), ("Cache-Control", "no-store")])
    yield line({"status": "pulling manifest"}) + line({"status": "success"})


def _waited_for(source: pulling.Download, fetched: Callable[[str], None]) -> Flow:
    fetched((yield from pulling.waited_for(source)))
    yield as_json({"status": "success"})


class _Told:
    """The lines of a download.

    Args:
        fetched: called with the model's id before its client hears of the end.
    """

    def __init__(self, fetched: Callable[[str], None]) -> None:
        self.fetched = fetched
        self._said: set[str] = set()

    def render(self, item: Progress) -> Iterator[dict[str, Any]]:
        """Return the lines that show how far it is."""
        digest = hashlib.sha256(item.model.encode()).hexdigest()
        yield from self._once("pulling manifest")
        if item.status == "downloading":
            yield {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": item.total,
                   "completed": item.completed}
        elif item.status == "verifying":
            yield from self._once("verifying sha256 digest")
        else:
            yield from self._once("writing manifest")
            self.fetched(item.model)
            yield {"status": "success"}

    def _once(self, status: str) -> Iterator[dict[str, Any]]:
        if status not in self._said:
            self._said.add(status)
            yield {"status": status}


def _delete(service: Service, asked: Asked, name: str) -> Flow:
    _require_names(service)
    if service.catalogue.aliases.remove(name):
        yield _done()
        return
    try:
        model = service.catalogue.file(name)
    except NotFound as exc:
        named(service, name)
        raise InvalidRequest(f"'{name}' is a name in MODEL_ALIASES: take it out there", param="model",
                             status=409, code="model_not_deletable") from exc
    yield from removed(service, model, asked.deadline)
    yield _done()


def _require_names(service: Service) -> None:
    pulling.require_writable(service, "Models and their names can't be changed here", "Set names in MODEL_ALIASES.")


def _copy(service: Service, body: CopyBody) -> Answer:
    _require_names(service)
    model = named(service, body.source)
    if not _ALIAS.fullmatch(body.destination):
        raise InvalidRequest("'destination' has to be a name of letters, digits and ._:/-", param="destination")
    if _is_known(service, body.destination):
        raise InvalidRequest("'destination' has to be a name that no model has", param="destination")
    try:
        service.catalogue.aliases.add(body.destination, model.id)
    except OSError as exc:
        raise CallError(f"The name can't be kept: {exc.strerror or exc}.", status=500, code="internal_error") from exc
    return _done()
