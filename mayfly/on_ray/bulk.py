"""`embed-file`: the vectors of all texts of a file, by replicas of its own on a Ray cluster.

A front without a server: it asks the replicas as a service does, and writes the vectors in the texts' order, so that
what is written says how far it is. Ended in whatever way, it goes on from there when it is called again.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

from mayfly.errors import CallError, EngineFailed, InvalidRequest, ModelCrashed, ModelUnavailable
from mayfly.flow import Flow, Wait, drive
from mayfly.lanes.lane import Lane, LaneCall
from mayfly.models.inventory import Inventory
from mayfly.on_ray import node
from mayfly.on_ray.cluster import Cluster
from mayfly.on_ray.files import FLOAT, Texts, Vectors
from mayfly.on_ray.lanes import RayLane
from mayfly.settings import Settings
from mayfly.wire.calls import MOST_CALLS_HELD, EmbedCall, Embeddings

# Texts a call, and calls at once for each replica that there may be: as many as have all of them started, and enough
# for the next texts to be there when some are done.
_TEXTS, _CALLS = 64, 6
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
    with contextlib.ExitStack() as closing:
        vectors = closing.enter_context(contextlib.closing(Vectors(output, texts, model)))
        job = _Job(texts, vectors, settings.request_timeout, _CALLS * settings.replicas[1])
        if vectors.done < texts.count:
            address = settings.ray_address or closing.enter_context(
                node.started(Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="mayfly-ray-")))))
            cluster = Cluster(dataclasses.replace(settings, ray_address=address))
            closing.callback(cluster.close)
            name = f"bulk:{model}"
            lane = RayLane(cluster, cluster.add(name, model, "embedding", MOST_CALLS_HELD, stays=False),
                           queue_limit=settings.queue_limit, served_at_once=MOST_CALLS_HELD * settings.replicas[1])
            closing.callback(cluster.dismiss, name)
            try:
                collections.deque(drive(job.flow(lane)), maxlen=0)
            except CallError as exc:
                raise ModelUnavailable(f"{exc.message}. {vectors.done} of {texts.count} vectors are there; the same "
                                       "command goes on from them") from exc
        vectors.finish()
    return job.without


class _Job:
    """The calls under way, by the number of their first text.

    Attributes:
        without: texts that have no vector.
    """

    def __init__(self, texts: Texts, vectors: Vectors, timeout: float, most: int) -> None:
        self._texts = texts
        self._vectors = vectors
        self._timeout = timeout
        self._most = most
        self._running: dict[int, tuple[LaneCall, list[str]]] = {}
        # What has come before its turn: a vector or more, or None for a text without.
        self._come: dict[int, Embeddings | None] = {}
        self.without = 0
        self._told = time.monotonic()
        self._began: tuple[float, int] | None = None

    def flow(self, lane: Lane) -> Flow:
        """Ask for what isn't there.

        Raises:
            CallError: there is nobody to ask.
        """
        batches = self._texts.after(self._vectors.done, _TEXTS)
        try:
            while True:
                while len(self._running) + len(self._come) < 2 * self._most and len(self._running) < self._most:
                    first, texts = next(batches, (0, []))
                    if not texts:
                        break
                    self._ask(lane, first, texts)
                if not self._running:
                    break
                yield Wait([call for call, _ in self._running.values()])
                for first in list(self._running):
                    self._go_on(lane, first)
                self._write()
        finally:
            for call, _ in self._running.values():
                call.close()
        if self._come:
            raise EngineFailed("no text has a vector")

    def _ask(self, lane: Lane, first: int, texts: list[str]) -> None:
        call = lane.begin(EmbedCall(uuid.uuid4().hex, tuple(texts)), time.monotonic() + self._timeout)
        self._running[first] = call, texts

    def _go_on(self, lane: Lane, first: int) -> None:
        call, texts = self._running[first]
        try:
            items = call.advance(time.monotonic())
            if not items:
                return
            self._come[first] = items[0] if isinstance(items[0], Embeddings) else None
        except (ModelCrashed, EngineFailed, InvalidRequest) as exc:
            # One of them is to blame, and not the others.
            for number, text in enumerate(texts) if len(texts) > 1 else ():
                self._ask(lane, first + number, [text])
            if len(texts) == 1:
                print(f"mayfly: line {first + 1} has no vector: {exc.message}", file=sys.stderr)
                self._come[first] = None
        finally:
            if self._running[first][0] is not call or first in self._come:
                call.close()
        if first in self._come:
            del self._running[first]

    def _write(self) -> None:
        vectors = self._vectors
        while vectors.done in self._come:
            came = self._come[vectors.done]
            if came is None and not vectors.dimensions:
                return  # how long a vector is will be known by those of others
            del self._come[vectors.done]
            if came is None:
                self.without += 1
                vectors.add(_nothing(vectors.dimensions), vectors.dimensions)
            else:
                vectors.add(came.vectors, came.dimensions)
        now = time.monotonic()
        if self._began is None and vectors.done:
            self._began = now, vectors.done
        if self._began is not None and (now - self._told >= _TELLS or vectors.done == self._texts.count):
            since, before = self._began
            rate = (vectors.done - before) / max(now - since, 1e-9)
            self._told = now
            print(f"mayfly: {vectors.done} of {self._texts.count} texts, {rate:.0f} a second", file=sys.stderr)


def _nothing(dimensions: int) -> bytes:
    return np.full(dimensions, np.nan, FLOAT).tobytes()
