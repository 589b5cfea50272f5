"""Which models can be asked for, and under which names."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mayfly import places
from mayfly.engines.backends import Backend, Kind
from mayfly.errors import ContextLengthExceeded, InvalidRequest, LaneUnavailable, ModelUnusable, NotFound
from mayfly.flow import Flow
from mayfly.lanes.switchboard import Switchboard
from mayfly.models import hub, inventory, pull, store
from mayfly.models.aliases import Aliases, untagged
from mayfly.models.defaults import RECIPES
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings
from mayfly.web.schemas import SampledBody

# A name that no model has isn't looked up again for so long (s), where it does no harm; and so many are remembered.
_STRANGE_FOR = 2.0
_MOST_STRANGE = 256
_LONGEST_STRANGE = 200
# What is told of a model's file as it stands there.
_TOLD = ("architecture", "quantization", "parameter_count", "embedding_length")


@dataclass(frozen=True)
class Model:
    """A model that is listed.

    Attributes:
        id: the name under which it is listed and under which it answers.
        kind: what it does; None if its file doesn't tell.
        lane: the name of the lane that serves it; "" if it is unusable.
        file: what its file says of it; None if there is no such file.
        window: tokens that it takes at once; 0 if that isn't known.
        chat_template: where the template of its prompts is from; "" if it has none.
        features: what its engine can, of what not every engine can.
    """

    id: str
    kind: Kind | None
    lane: str
    file: inventory.Model | None
    window: int = 0
    chat_template: str = ""
    features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Failure:
    """Why a model's file couldn't be loaded, and which process it was that tried."""

    file: inventory.Model | None
    reason: str
    generation: int | None


class Catalogue:
    """The models of a service, and their names."""

    def __init__(self, settings: Settings, switchboard: Switchboard, inventory: Inventory) -> None:
        self._settings = settings
        self._lanes = switchboard.configured
        self._switchboard = switchboard
        self._inventory = inventory
        self.aliases = Aliases(settings)
        self._strange: dict[str, float] = {}
        # By the models' ids: the watchdog forgets them soon.
        self._failures: dict[str, _Failure] = {}
        # By kind, which is also the name of the lane that is always there for it.
        self._configured: dict[Kind, str] = {"embedding": settings.embed_model, "completion": settings.model_name}

    def list(self) -> list[Model]:
        """Return all models of MODEL_PATH, those that can't be used included; the configured ones first."""
        models = [self._listed(file) for file in self._inventory.models()]
        first: dict[str, int] = {kind: place for place, kind in enumerate(self._configured)}
        return sorted(models, key=lambda model: first.get(model.lane, len(first)))

    def shown(self, model: Model) -> dict[str, Any]:
        """Return a model in OpenAI's form, with what its file says, and what computes it if it is loaded."""
        file = model.file
        shown: dict[str, Any] = {"id": model.id, "object": "model", "created": file.modified if file else 0,
                                 "owned_by": "mayfly"}
        if model.kind is not None:
            shown["kind"] = model.kind
        if file is None:
            return shown
        told = {name: getattr(file, name) for name in _TOLD}
        status = self._switchboard.lane(model.lane).status() if model.lane else {}
        reason = file.unusable or self._failure(model, status)
        told.update(context_length=model.window, chat_template=model.chat_template, tools=self.tools(model),
                    reason=reason)
        told.update((name, status[name]) for name in ("engine", "precision") if name in status)
        return {**shown, "size": file.size, "usable": not reason,
                **{name: value for name, value in told.items() if value}}

    def tools(self, model: Model) -> str:
        """Return how a completion model is told of tools; see inventory.Model; "" if its engine can't be held to calls.
        """
        if model.file is None or not model.lane or "tools" not in self._backend(model.lane, model.file).features:
            return ""
        return "generic" if model.chat_template == "setting" else model.file.tools

    def fills_gaps(self, model: Model) -> bool:
        """Tell whether a model fills the gap between two texts, and its engine can have it do that."""
        if model.file is None or not model.lane or not model.file.fills_gaps:
            return False
        return "suffix" in self._backend(model.lane, model.file).features

    def _failure(self, model: Model, status: Mapping[str, Any]) -> str:
        """Return why a model couldn't be loaded when that was last tried, if its file is still the same, or ""."""
        now = _Failure(model.file, str(status.get("reason", "")), status.get("generation"))
        before = self._failures.get(model.id)
        # A lane that has failed goes on saying so, though its file may be another by then.
        if status.get("state") == "failing" and (before is None or replace(now, file=before.file) != before):
            self._failures[model.id] = before = now
        if status.get("state") == "ready":
            self._failures.pop(model.id, None)
            return ""
        # The inventory describes a file anew when it has changed, if only within a second.
        return before.reason if before is not None and before.file is model.file else ""

    def resolve(self, name: str, kind: Kind | None) -> Model:
        """Return the model that a request means.

        Args:
            name: an id, a file's name, an alias, or "" for the configured model of the kind.
            kind: what the model has to do; None if it is only to be described.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: the model is of another kind, or can't be used.
            LaneUnavailable: it is a configured one that can't be used.
        """
        aliases = self.aliases.all()
        spelt = self._spelt(name, aliases)
        meant = self._configured_kind(spelt, kind, aliases)
        if meant is not None:
            return self._of_kind(self._default(meant), kind)
        file = self._inventory.find(aliases.get(spelt, spelt))
        if file is not None:
            return self._of_kind(self._listed(file), kind)
        # A configured model whose file isn't there isn't its callers' to mend: its lane says what to do.
        called = inventory.public_name(aliases.get(spelt, spelt))
        for each, configured in self._configured.items():
            if kind is not None and configured and inventory.public_name(configured) == called:
                return self._of_kind(self._default(each), kind)
        raise _unknown(name, self._settings.model_path)

    def _spelt(self, name: str, aliases: Mapping[str, str]) -> str:
        """Return the name, of those that there are, which a caller means; the caller's own if there is none such."""
        for spelt in (name, untagged(name)):
            if not name or spelt in aliases or self._inventory.find(spelt) is not None:
                return spelt
        wanted = untagged(name).lower()
        known = (*aliases, *(file.id for file in self._inventory.models()))
        return next((each for each in known if untagged(each).lower() == wanted), name)

    def file(self, name: str) -> inventory.Model:
        """Return the file of a model by its id, or its own name; aliases aren't looked at.

        Raises:
            NotFound: there is no such model.
        """
        file = self._inventory.find(self._spelt(name, {}))
        if file is None:
            raise _unknown(name, self._settings.model_path)
        return file

    def setting_of(self, file: inventory.Model) -> str:
        """Return the name of the setting that names a model, or ""."""
        for setting, name in (("EMBED_MODEL", self._settings.embed_model), ("MODEL_NAME", self._settings.model_name)):
            found = self._inventory.find(name) if name else None
            if found is not None and found.file == file.file:
                return setting
        return ""

    def completing(self, body: SampledBody) -> Model:
        """Return the model that a request for a completion means; see `resolve`.

        Raises:
            InvalidRequest: its engine has nothing for a field of the request, or its window is smaller than is asked.
        """
        model = self.resolve(body.model, "completion")
        if model.file is None:
            return model
        engine = self._backend(model.lane, model.file)
        body.require_features(engine)
        window = body.n_ctx or model.window
        if window > model.window:
            raise InvalidRequest(f"'n_ctx' has to be a whole number from 1 to {model.window}: that is the window of "
                                 f"'{model.id}'.", param="n_ctx")
        return replace(model, features=engine.features, window=window)

    def _backend(self, lane: str, file: inventory.Model) -> Backend:
        """Return the engine that serves a model: what its process says, if it is loaded, else the one that is tried."""
        loaded = self._switchboard.lane(lane).status().get("engine", "")
        return file.backend("completion", loaded or self._settings.chat_engine)

    def embedding_of_any(self, name: str) -> Model:
        """Return the model for a request whose model may be called anything: the embedding model which is listed under
        the name, else the configured one."""
        aliases = self.aliases.all()
        if (self._configured_kind(name, "embedding", aliases) != "embedding"
                and self._strange.get(name, 0.0) <= time.monotonic()):
            file = self._inventory.find(aliases.get(name, name))
            if file is not None and file.kind == "embedding" and not file.unusable:
                return self._listed(file)
            if len(self._strange) >= _MOST_STRANGE:
                self._strange.clear()
            if len(name) <= _LONGEST_STRANGE:
                self._strange[name] = time.monotonic() + _STRANGE_FOR
        return self._default("embedding")

    def naming(self, field: str, asked: Model, flow: Flow) -> Flow:
        """Have a prompt that is too long for a model refused by the name of the field that it was sent in.

        Raises:
            ContextLengthExceeded: what the flow raised, with advice.
        """
        try:
            yield from flow
        except (LaneUnavailable, ModelUnusable):
            self._failure(asked, self._switchboard.lane(asked.lane).status())
            raise
        except ContextLengthExceeded as exc:
            # Beyond what the model was made for a larger N_CTX changes nothing; a file that doesn't say may take more.
            made_for = asked.file.context_length if asked.file is not None else 0
            wider = not made_for or made_for > max(self._settings.n_ctx, exc.tokens or 0)
            advice = " or raise N_CTX" if wider else ""
            if asked.file is not None and asked.window < asked.file.window(self._settings):
                advice = " or raise 'n_ctx'"
            raise ContextLengthExceeded(f"'{field}' is too long: {exc.message}; shorten it{advice}.", param=field,
                                        tokens=exc.tokens) from exc

    def _configured_kind(self, name: str, kind: Kind | None, aliases: Mapping[str, str]) -> Kind | None:
        """Return the kind whose configured model a request means that names no model, or has an alias for that one."""
        word = aliases.get(name, name)
        if word == "":
            return kind
        for each in self._configured:
            if word == each and name in aliases and self._lanes[each].configured():
                return each
        return None

    def countable(self, name: str) -> Model:
        """Return the model that a request for tokens means; "" is the configured completion model, if there is one.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: it can't be used.
            LaneUnavailable: nor can it, and it is a configured one.
        """
        if name == "":
            configured = [self._default(kind) for kind in reversed(self._configured) if self._configured[kind]]
            name = configured[0].id if configured else ""
        model = self.resolve(name, None)
        return self._of_kind(model, model.kind or "completion")

    def _default(self, kind: Kind) -> Model:
        """Return the configured model of a kind. If there is none, its lane says which setting is to be filled."""
        name = self._configured[kind]
        file = self._inventory.find(name) if name else None
        if file is None:
            return Model(inventory.public_name(name), kind, kind, None)
        return self._served(file, kind, kind)

    def _listed(self, file: inventory.Model) -> Model:
        if file.unusable or file.kind is None:
            return Model(file.id, file.kind, "", file)
        lane = self._switchboard.lane_of(file.id, file.kind)
        return self._served(file, file.kind, lane)

    def _served(self, file: inventory.Model, kind: Kind, lane: str) -> Model:
        template = file.chat_template
        if lane == "completion" and self._settings.prompt_template:
            template = "setting"
        return Model(file.id, kind, lane, file, file.window(self._settings), template)

    def _of_kind(self, model: Model, kind: Kind | None) -> Model:
        if kind is None:
            return model
        if not model.lane and model.file is not None:
            if self.setting_of(model.file):
                raise LaneUnavailable.of(model.id, model.file.unusable)
            raise ModelUnusable.of(model.id, model.file.unusable)
        if model.kind != kind:
            raise InvalidRequest(f"The model '{model.id}' makes {model.kind}s, not {kind}s: name another, or leave "
                                 "'model' out.", param="model", code="wrong_kind_of_model")
        return model


def shown_name(name: str) -> str:
    """Return a model's name as a client has sent it, for a message: shortened, and what can't be printed escaped."""
    return store.quoted(name)[1:-1]


def can_be_pulled(name: str, model_path: Path) -> bool:
    """Tell whether a model that isn't there is known to be somewhere from where it can be had."""
    return hub.is_name(name) or store.file_name(name) in RECIPES or bool(pull.listed(name, model_path))


def _unknown(name: str, model_path: Path) -> NotFound:
    if not (store.is_plain(name) and store.is_name(name)):
        # It can't be pulled, and isn't to be found in a command that somebody copies.
        return NotFound(f"There is no model {store.quoted(name)} here. /v1/models names those that are.", param="model",
                        code="model_not_found")
    # No file of gpt4all's list is called so.
    foreign = re.search(r"[:@]", name) is not None
    size = None if foreign else pull.listed(name, model_path)
    pulled = f"'{places.COMMAND} pull {name}' (or POST /v1/models/pull) fetches it"
    if size:
        known = f"gpt4all's list has it ({size / 1e9:.2g} GB): {pulled}."
    elif hub.is_name(name) or store.file_name(name) in RECIPES:
        known = f"{pulled}, and /v1/models names it then."
    elif foreign:
        known = "/v1/models names those that are."
    elif size is None:
        known = "Nor does gpt4all's list have it. /v1/models names those that are here."
    else:
        known = f"/v1/models lists those that are; if it is one of gpt4all's list, {pulled}."
    return NotFound(f"There is no model {name} here. {known}", param="model", code="model_not_found")
