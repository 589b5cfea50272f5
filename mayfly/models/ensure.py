"""Make the configured models ready: build them, or download them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from mayfly.compat.files import folder_lock
from mayfly.engines.backends import GGUF, Kind
from mayfly.errors import ModelUnavailable
from mayfly.models import store
from mayfly.models.defaults import RECIPES
from mayfly.settings import Settings, parse


def absent(settings: Settings) -> dict[Kind, str]:
    """Return the names of the configured models that aren't there and that `ensure` makes: the embedding model, and a
    completion model that has a recipe. Others are pulled by whoever wants them."""
    names: dict[Kind, str] = {"embedding": settings.embed_model}
    if store.file_name(settings.model_name) in RECIPES:
        names["completion"] = settings.model_name
    return {kind: name for kind, name in names.items() if name and _is_absent(settings.model_path, name)}


def ensure(settings: Settings) -> None:
    """Build or download the configured models that aren't there, as far as they are among `absent`.

    Files that are there are only looked at: nothing is fetched then.

    Raises:
        ModelUnavailable: one can't be had, or isn't what it should be; the message holds the reason of each attempt.
            The others have been made.
    """
    reasons = []
    if settings.embed_model and "embedding" not in absent(settings):
        _check(store.find(settings.model_path, settings.embed_model))
    for kind, name in absent(settings).items():
        _make_folder(settings.model_path)
        try:
            with folder_lock(settings.model_path):  # of two first starts the second finds what the first has made
                if _is_absent(settings.model_path, name):
                    _make(kind, name, settings)
        except ModelUnavailable as exc:
            reasons.append(str(exc))
    if reasons:
        raise ModelUnavailable("; ".join(reasons))


def _make_folder(folder: Path) -> None:
    """Make the folder of models, and say so if it was named: a misspelt one is better noticed before it is filled."""
    with contextlib.suppress(OSError):  # whoever writes there says it
        folder.mkdir(parents=True)
        if folder != parse({}).model_path:
            print(f"mayfly: made the folder {folder}, which MODEL_PATH names and which wasn't there", file=sys.stderr)


def _is_absent(model_path: Path, name: str) -> bool:
    try:
        store.find(model_path, name)
    except store.ModelAbsent:
        return True
    except ModelUnavailable:
        return False  # its worker finds the same, and says it
    return False


def _make(kind: Kind, name: str, settings: Settings) -> None:
    from mayfly.models import pull

    file = store.file_name(name)
    if not file.endswith(GGUF):
        store.find(settings.model_path, name)
    try:
        pull.pull(name, settings)
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"the {kind} model isn't ready: {exc}; start again with a network, or put the file "
                               f"{file} into {settings.model_path}") from exc


def _check(path: Path) -> None:
    if path.name.lower().endswith(GGUF):
        from mayfly.models.header import read_header

        try:
            read_header(path)
        except ModelUnavailable as exc:
            raise ModelUnavailable(f"{exc}; remove {path} and start again") from exc
