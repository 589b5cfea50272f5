"""Which models can be asked for, and under which names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mayfly.errors import InvalidRequest, NotFound
from mayfly.lanes.calls import Lane
from mayfly.settings import Settings

Kind = Literal["embedding", "completion"]

_LANES: tuple[tuple[Kind, str], ...] = (("embedding", "embed"), ("completion", "chat"))


@dataclass(frozen=True)
class Model:
    """A model that can be asked for.

    Attributes:
        id: the name under which it is listed and under which it answers.
        kind: what it does.
        lane: the name of the lane that serves it.
        created: when its file was made, in seconds since 1970; 0 if that isn't known.
    """

    id: str
    kind: Kind
    lane: str
    created: int

    def as_object(self) -> dict[str, Any]:
        """Return the model in OpenAI's form."""
        return {"id": self.id, "object": "model", "created": self.created, "owned_by": "mayfly"}


class Catalogue:
    """The models of a service, and their names.

    Args:
        settings: for MODEL_PATH, the models' files and MODEL_ALIASES.
        lanes: "embed" and "chat".
    """

    def __init__(self, settings: Settings, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._folder = settings.model_path
        self._files: dict[Kind, str] = {"embedding": settings.embed_model, "completion": settings.model_name}
        self._aliases = settings.model_aliases

    def list(self) -> list[Model]:
        """Return the models that can be asked for."""
        return [self._model(kind, lane) for kind, lane in _LANES if self._lanes[lane].configured()]

    def resolve(self, name: str, kind: Kind | None) -> Model:
        """Return the model that a request means.

        Args:
            name: an id, a file's name, an alias, or "" for the default model of the kind.
            kind: what the model has to do; None if it doesn't matter.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: the model is of another kind.
        """
        word = self._aliases.get(name, name)
        for each, lane in _LANES:
            if word == "" and each == kind:
                # Also without a model: the lane itself tells best which setting is to be filled.
                return self._model(each, lane)
            model = self._model(each, lane)
            known = {model.id, self._files[each], self._files[each].removesuffix(".gguf")}
            if name in self._aliases:
                known.add(each)
            if not self._lanes[lane].configured() or word not in known - {""}:
                continue
            if kind not in (None, each):
                raise InvalidRequest(f"The model '{model.id}' makes {each}s, not {kind}s: name another, or leave "
                                     "'model' out.", param="model", code="wrong_kind_of_model")
            return model
        raise _unknown(name)

    def _model(self, kind: Kind, lane: str) -> Model:
        file = self._files[kind]
        try:
            created = int((self._folder / file).stat().st_mtime) if file else 0
        except OSError:
            created = 0
        # Until it has loaded, a lane knows its model by its file alone.
        loaded = self._lanes[lane].model if self._lanes[lane].ready() else None
        return Model(loaded or _name_of(file), kind, lane, created)


def _name_of(file: str) -> str:
    name = file.removesuffix(".gguf").removesuffix(".script.json")
    return "all-MiniLM-L6-v2" if name.startswith("all-MiniLM-L6-v2.") else name


def _unknown(name: str) -> NotFound:
    harmless = name if re.fullmatch(r"[A-Za-z0-9._/-]{1,100}", name) else "NAME"
    return NotFound(f"There is no model {harmless} here. /v1/models lists those that are; if it is one of gpt4all's "
                    f"list, 'python3 start.sh pull {harmless}' fetches it.", param="model", code="model_not_found")
