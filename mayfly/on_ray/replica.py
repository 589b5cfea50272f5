"""A replica: one model's lane on a node of a Ray cluster, under a supervisor in a thread of this process.

Started by Ray Serve, which calls it with requests as the web process has framed them and gets frames back: nothing of
this program's is ever pickled. It forks nothing itself. The model's processes end with it, and it outlives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ray.serve._private.replica as serving

from mayfly.errors import CallError, LaneUnavailable
from mayfly.lanes.client import SocketCall, SocketLane
from mayfly.settings import Settings
from mayfly.supervision.lane_host import LaneHost
from mayfly.supervision.run_folder import RunFolder
from mayfly.wire import framing
from mayfly.wire.board import Board
from mayfly.wire.calls import Completion, Failed, Item, Piece, Request, ToolDelta
from mayfly.wire.codec import from_wire

#: Before the reason in what a replica that can't come up raises: Serve hands that on among other text.
REASON = "mayfly says: "
_LOOK = 0.02


class Replica:
    """See the module.

    Args:
        settings: as JSON; one of EMBED_MODEL and MODEL_NAME is set.
        name: of the lane here, "embedding" or "completion".

    Raises:
        RuntimeError: the model can't be served here.
    """

    def __init__(self, settings: str, name: str) -> None:
        _close_the_side_door()
        made: Settings = from_wire(json.loads(settings), Settings)
        self._host = _Host(made, name)
        self._lane = self._host.lane()
        patience = time.monotonic() + made.start_seconds
        while not self._lane.ready():
            said = self._lane.said()
            if said.get("state") == "failing" or time.monotonic() >= patience:
                self._host.stop()
                raise RuntimeError(f"{REASON}{said.get('reason') or 'its process is not ready in START_SECONDS'}\n")
            time.sleep(_LOOK)

    def __del__(self) -> None:
        host = getattr(self, "_host", None)
        if host is not None:
            host.stop()

    def check_health(self) -> None:
        """Raise if the lane's supervisor has ended: Serve then replaces this replica."""
        if not self._host.is_alive():
            raise RuntimeError(f"{REASON}the supervisor of its processes has ended\n")

    def facts(self) -> dict[str, Any]:
        """Return what the supervisor says of the lane."""
        return self._lane.status()

    async def ask(self, key: str, frame: bytes, sent: float) -> bytes:
        """Return the frames of the answer to a request, in one piece; see `stream`."""
        return b"".join([part async for part in self._answer(frame, sent, in_pieces=False)])

    async def stream(self, key: str, frame: bytes, sent: float) -> AsyncIterator[bytes]:
        """Yield the frames of the answer to a request.

        Args:
            key: chooses the replica (`AffinityRouter`).
            frame: the request, whose deadline is on its sender's clock.
            sent: the time on that clock.
        """
        async for part in self._answer(frame, sent, in_pieces=True):
            yield part

    async def _answer(self, frame: bytes, sent: float, *, in_pieces: bool) -> AsyncIterator[bytes]:
        request = framing.pop(bytearray(frame), Request)
        try:
            call = self._lane.begin(request.call, time.monotonic() + request.deadline - sent, in_pieces=in_pieces)
            with contextlib.closing(call):
                while True:
                    items = call.advance(time.monotonic())
                    if items:
                        yield b"".join(map(_framed, items))
                        if not isinstance(items[-1], Piece):
                            return
                    else:
                        await _can_go_on(call)
        except CallError as exc:
            yield framing.encode(Failed.of(exc))


class _Host(threading.Thread):
    """The supervisor's thread, which lives as long as the lane does."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(name="lane host", daemon=True)
        # The nodes of one machine, and the service itself, may have the same folder.
        self._settings = dataclasses.replace(
            settings, log_folder_name=settings.log_folder_name / "replicas" / f"{name}-{os.getpid()}")
        self._name = name
        self._path = Path(tempfile.mkdtemp(prefix="mayfly-lane-"))
        self._made = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._lane: SocketLane | None = None
        self.start()

    def lane(self) -> SocketLane:
        """Return the lane once its socket is there.

        Raises:
            RuntimeError: it can't be made.
        """
        self._made.wait()
        if self._lane is None:
            raise RuntimeError(f"{REASON}{self._failure}\n") from self._failure
        return self._lane

    def run(self) -> None:
        """Host the lane until `stop`."""
        try:
            with contextlib.closing(RunFolder(self._path)) as folder:
                host = LaneHost(self._settings, folder)
                try:
                    self._open(host)
                    while not self._stopping.is_set():
                        host.turn()
                    host.end()
                finally:
                    host.close()
        except Exception as exc:  # of a thread this is the outermost boundary; `lane` and `check_health` tell of it
            self._failure = exc
        finally:
            self._made.set()
            shutil.rmtree(self._path, ignore_errors=True)

    def stop(self) -> None:
        """End the lane and its processes."""
        self._stopping.set()
        if threading.current_thread() is not self:
            self.join(5.0)

    def _open(self, host: LaneHost) -> None:
        spec = host.sockets.specs()[self._name]
        if spec.address is None:
            raise LaneUnavailable(spec.missing)
        board = Board(self._path / "state.json")
        self._lane = SocketLane(self._name, lambda: board.lane(self._name), address=spec.address,
                                queue_limit=self._settings.queue_limit, served_at_once=spec.served_at_once)
        self._made.set()


def _close_the_side_door() -> None:
    """Keep Serve from opening a port here that unpickles whatever anybody sends it, without a look at the token: it is
    for a transport between replicas that isn't used."""
    if not hasattr(serving, "add_port_to_grpc_server"):
        raise RuntimeError(f"{REASON}this version of ray is not the one in requirements-ray.txt\n")
    serving.add_port_to_grpc_server = lambda server, address: 0


def _framed(item: Item) -> bytes:
    if isinstance(item, Completion):  # travels as the pieces that it came in
        calls = tuple(ToolDelta(index, call.id, call.name, call.arguments)
                      for index, call in enumerate(item.tool_calls))
        return framing.encode(Piece(item.text, item.tokens, item.reasoning, calls)) + framing.encode(item.finished)
    return framing.encode(item)


async def _can_go_on(call: SocketCall) -> None:
    """Wait for what a call waits for."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    watched, sending = call.watched, call.sending

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    timer = loop.call_later(max(0.0, call.due - time.monotonic()), wake)
    if watched is not None:
        (loop.add_writer if sending else loop.add_reader)(watched, wake)
    try:
        await ready
    finally:
        timer.cancel()
        if watched is not None:
            (loop.remove_writer if sending else loop.remove_reader)(watched)
