"""What computes the texts of `embed-file` on a node: an actor of Ray Data's pool, which hosts the model's lane."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import Any

import numpy as np

from mayfly.errors import CallError, EngineFailed, InvalidRequest, ModelCrashed
from mayfly.flow import Flow, Wait, drive
from mayfly.on_ray.files import FLOAT
from mayfly.on_ray.host import Host, failure
from mayfly.wire.calls import EmbedCall, Embeddings


class Embedder:
    """Called with a row of texts, by several threads at once, it returns one of vectors.

    Args:
        settings: see Host.
        timeout: for a call (s).

    Raises:
        RuntimeError: the model can't be served here.
    """

    def __init__(self, settings: str, timeout: float) -> None:
        self._timeout = timeout
        self._host = Host(settings, "embedding")
        self._lane = self._host.lane()
        try:  # how long a vector is, texts without one have to know
            self._dimensions = self._ask(["a"]).dimensions
        except CallError as exc:
            raise failure(exc.message) from exc

    def __del__(self) -> None:
        """Called when Ray has no more use for it."""
        host = getattr(self, "_host", None)
        if host is not None:
            host.stop()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return `vectors`, as in Embeddings, their `dimensions`, and `without`: in JSON, why texts have NaN, by their
        numbers in the row."""
        texts = list(row["texts"])
        without: dict[int, str] = {}
        try:
            vectors = self._ask(texts).vectors
        except (ModelCrashed, EngineFailed, InvalidRequest):
            # One of them is to blame, and not the others.
            vectors = b"".join(self._vector(text, number, without) for number, text in enumerate(texts))
        return {"vectors": vectors, "dimensions": self._dimensions, "without": json.dumps(without)}

    def _vector(self, text: str, number: int, without: dict[int, str]) -> bytes:
        try:
            return self._ask([text]).vectors
        except (ModelCrashed, EngineFailed, InvalidRequest) as exc:
            without[number] = exc.message
            return np.full(self._dimensions, np.nan, FLOAT).tobytes()

    def _ask(self, texts: list[str]) -> Embeddings:
        """Raises:
            RuntimeError: there is nobody to ask.
            CallError: it is about these texts.
        """
        answers: list[Embeddings] = []
        try:
            for _ in drive(self._flow(texts, answers)):
                pass
        except (ModelCrashed, EngineFailed, InvalidRequest):
            raise
        except CallError as exc:
            raise failure(exc.message) from exc
        return answers[0]

    def _flow(self, texts: list[str], answers: list[Embeddings]) -> Flow:
        call = self._lane.begin(EmbedCall(uuid.uuid4().hex, tuple(texts)), time.monotonic() + self._timeout)
        with contextlib.closing(call):
            while not (items := call.advance(time.monotonic())):
                yield Wait([call])
        assert isinstance(items[0], Embeddings)
        answers.append(items[0])
