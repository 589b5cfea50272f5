"""`embed-file`: the vectors of all texts of a file, computed on a Ray cluster (`data.py`).

They are written in the texts' order, so that what is written says how far it is. Ended in whatever way, it goes on from
there when it is called again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from mayfly.errors import ModelUnavailable, SettingError
from mayfly.models.inventory import Inventory
from mayfly.on_ray import node
from mayfly.on_ray.files import Texts, Vectors
from mayfly.settings import Settings

_TELLS = 5.0


def embed_file(settings: Settings, source: Path, output: Path) -> int:
    """Write the vectors of a file's texts; return how many texts have none, but NaN.

    Raises:
        ModelUnavailable: there is no such model, or it can't be served; what is done stays.
        SettingError: see Texts and Vectors.
        OSError: the vectors can't be written, or there is no cluster.
    """
    model = Inventory(settings.model_path, (settings.embed_model,)).require(settings.embed_model).id
    texts = Texts(source)
    without = 0
    with contextlib.ExitStack() as closing:
        vectors = closing.enter_context(contextlib.closing(Vectors(output, texts, model)))
        if vectors.done < texts.count:
            address = settings.ray_address or closing.enter_context(
                node.started(Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="mayfly-ray-")))))
            try:
                without = _write(dataclasses.replace(settings, ray_address=address), texts, vectors, model)
            except ModelUnavailable as exc:
                raise ModelUnavailable(f"{exc}. {vectors.done} of {texts.count} vectors are there; the same command "
                                       "goes on from them") from exc
        if vectors.done != texts.count:
            raise SettingError(f"{source} has changed meanwhile")
        vectors.finish()
    return without


def _write(settings: Settings, texts: Texts, vectors: Vectors, model: str) -> int:
    # Ray reads as it is imported what `started` puts into the environment.
    from mayfly.on_ray import data

    without = before = 0
    began = told = 0.0
    with contextlib.closing(data.rows(settings, texts, vectors.done, model)) as rows:
        for row in rows:
            for number, why in json.loads(row["without"]).items():
                print(f"mayfly: line {vectors.done + int(number) + 1} has no vector: {why}", file=sys.stderr)
                without += 1
            vectors.add(row["vectors"], row["dimensions"])
            now = time.monotonic()
            if not began:
                began = told = now
                before = vectors.done
            if now - told >= _TELLS or vectors.done == texts.count:
                told = now
                rate = (vectors.done - before) / max(now - began, 1e-9)
                print(f"mayfly: {vectors.done} of {texts.count} texts, {rate:.0f} a second", file=sys.stderr)
    return without
