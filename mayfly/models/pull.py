"""Get a model by its name: one that is made from a package (see package.py), one of gpt4all's published list, or one of
the Hugging Face Hub (see hub.py)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mayfly.errors import ModelUnavailable
from mayfly.models import download, hub, store
from mayfly.models.defaults import RECIPES
from mayfly.models.download import File, NotOffered, Report
from mayfly.settings import Settings

# In MODEL_PATH: the list as it was last read, so that an absent model's name is known without the network.
_KEPT_LIST = ".list.json"


def pull(name: str, settings: Settings, report: Report | None = None) -> Path:
    """Get a model into MODEL_PATH, as far as it isn't there; return its file, or the first of its parts.

    Args:
        name: of a recipe or of gpt4all's list, with or without ".gguf", or one of the hub.
        report: told of the progress. Without it a progress bar goes to stderr, if that is a terminal.

    Raises:
        NotOffered: there is no model of that name.
        ModelUnavailable: it can't be had; see `download.fetch` and `package.build`.
    """
    if name.startswith(hub.PREFIX):
        return download.fetch(hub.files(name, settings), settings.model_path, report)
    if not store.is_name(name):
        raise NotOffered(f"{name[:100]!r} can't be the name of a model: name one of gpt4all's list, or one of the "
                         "Hugging Face Hub, hf:OWNER/REPO/FILE.gguf")
    with contextlib.suppress(ModelUnavailable):
        return store.find(settings.model_path, name)
    recipe = RECIPES.get(store.file_name(name))
    if recipe is None:
        return _pull_listed(name, settings, report)
    from mayfly.models import package

    print(f"mayfly: making the model {recipe.file_name}, for which {recipe.megabytes} MB are fetched once",
          file=sys.stderr)
    try:
        return package.build(settings.model_path, recipe)
    except ModelUnavailable as exc:
        built = str(exc)
    print(f"mayfly: {built}; trying gpt4all's own download instead", file=sys.stderr)
    try:
        return _pull_listed(name, settings, report)
    except NotOffered as exc:
        raise ModelUnavailable(built) from exc
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"{built}; {exc}") from exc


def _pull_listed(name: str, settings: Settings, report: Report | None) -> Path:
    models = _read_list(settings.model_list)
    file = _file(name, models, settings.model_list)
    _keep(settings.model_path, models)
    return download.fetch([file], settings.model_path, report)


def listed(name: str, model_path: Path) -> int | None:
    """Return the size in bytes of a model in the list that was kept by an earlier `pull`.

    Returns:
        None if it isn't in there; 0 if no list was kept.
    """
    try:
        models = json.loads((model_path / _KEPT_LIST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return 0
    file = _files(models, "").get(store.file_name(name))
    return file.size if file is not None else None


def _keep(model_path: Path, models: Any) -> None:
    temporary = model_path / f"{_KEPT_LIST}.{os.getpid()}"
    with contextlib.suppress(OSError):  # only a convenience: where there is no room, the download says so
        model_path.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(models))
        os.replace(temporary, model_path / _KEPT_LIST)


def _read_list(list_url: str) -> Any:
    import requests

    try:
        answer = requests.get(list_url, timeout=download.TIMEOUT)
        answer.raise_for_status()
        return answer.json()
    except (requests.RequestException, ValueError) as exc:
        raise ModelUnavailable(f"gpt4all's list of models can't be read: {download.short(exc)}; set MODEL_LIST to "
                               "where it can, or put the model's file into MODEL_PATH") from exc


def _files(models: Any, list_url: str) -> dict[str, File]:
    found = [_parse(model, list_url) for model in (models if isinstance(models, list) else [])]
    return {file.name: file for file in found if file is not None}


def _file(name: str, models: Any, list_url: str) -> File:
    """Look `name` up in the list that came from `list_url`."""
    known = _files(models, list_url)
    if store.file_name(name) not in known:
        names = ", ".join(sorted(known)) or "nothing"
        raise NotOffered(f"gpt4all's list has no model {name[:100]!r}, it has: {names}")
    return known[store.file_name(name)]


def _parse(model: Any, list_url: str) -> File | None:
    """Return an entry of the list, or None for one that can't be downloaded safely."""
    try:
        name, md5, size = model["filename"], model["md5sum"], int(model["filesize"])
        url = model.get("url") or urljoin(list_url, "gguf/" + name)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    good = download.is_plain(name) and isinstance(md5, str) and isinstance(url, str) and size > 0
    return File(name, url, size, "md5", md5.lower()) if good else None
