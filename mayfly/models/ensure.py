"""Make the embedding model ready: build it, or download it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from mayfly.compat.files import folder_lock
from mayfly.engines.backends import GGUF
from mayfly.errors import ModelUnavailable
from mayfly.models import store
from mayfly.settings import parse


def ensure(model_path: Path, embed_model: str, *, list_url: str) -> Path:
    """Return the embedding model's file; if it isn't there, build or download it.

    Only the default model can be built. A file that is there is only looked at: nothing is fetched then.
    `list_url` is where gpt4all's list is.

    Raises:
        ModelUnavailable: neither way succeeded; the message holds the reason of each.
    """
    try:
        return _checked(store.find(model_path, embed_model))
    except store.ModelAbsent:
        if not store.file_name(embed_model).endswith(GGUF):
            raise
    with folder_lock(model_path):  # of two first starts at once the second finds what the first has made
        with contextlib.suppress(store.ModelAbsent):
            return _checked(store.find(model_path, embed_model))
        return _make(model_path, embed_model, list_url)


def _make(model_path: Path, embed_model: str, list_url: str) -> Path:
    from mayfly.models import minilm, pull

    reasons = []
    if minilm.FILE_NAME in (embed_model, embed_model + GGUF):
        print(f"mayfly: making the embedding model {minilm.FILE_NAME}, for which 84 MB are fetched once",
              file=sys.stderr)
        try:
            return minilm.build(model_path)
        except ModelUnavailable as exc:
            print(f"mayfly: {exc}; trying gpt4all's own download instead", file=sys.stderr)
            reasons.append(str(exc))
    try:
        return pull.pull(embed_model, parse({"MODEL_PATH": str(model_path), "MODEL_LIST": list_url}))
    except ModelUnavailable as exc:
        reasons.append(str(exc))
    raise ModelUnavailable(
        f"the embedding model isn't ready: {'; '.join(reasons)}; start again with a network, "
        f"or put the file {embed_model} into {model_path}"
    )


def _checked(path: Path) -> Path:
    if path.name.endswith(GGUF):
        from mayfly.models.header import read_header

        try:
            read_header(path)
        except ModelUnavailable as exc:
            raise ModelUnavailable(f"{exc}; remove {path} and start again") from exc
    return path
