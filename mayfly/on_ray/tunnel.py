"""A call's way to a replica: what the web process sends into a socket, a deployment is asked; the answer comes back.

All of it runs in the loop of `cluster.py`. A replica that dies is no answer: as long as nothing of one has come, others
are asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError

from mayfly.errors import CallError, EngineFailed, LaneUnavailable, ModelCrashed
from mayfly.wire import framing
from mayfly.wire.calls import Failed

_TRIES = 3
# Until the router has heard of a death (s); the last pause is for a node's.
_PAUSES = (0.1, 1.0)


class Tunnel(asyncio.Protocol):
    """See the module.

    Args:
        handle: of the deployment.
        key: see `Replica.stream`.
        in_pieces: the answer is wanted in pieces.
    """

    def __init__(self, handle: Any, key: str, in_pieces: bool) -> None:
        self._handle = handle
        self._key = key
        self._in_pieces = in_pieces
        self._received = bytearray()
        self._asking: asyncio.Task[None] | None = None
        self._transport: Any = None
        self._told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self._received += data
        if self._asking is None and framing.is_whole(
                bytes(self._received[:framing.HEAD_SIZE]), len(self._received)):
            self._asking = asyncio.get_running_loop().create_task(self._carry(bytes(self._received)))

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol: the caller has left, or has its answer."""
        if self._asking is not None:
            self._asking.cancel()

    async def _carry(self, frame: bytes) -> None:
        try:
            await self._ask_until_answered(frame)
        except CallError as exc:
            self._tell(framing.encode(Failed.of(exc)))
        finally:
            self._transport.close()

    async def _ask_until_answered(self, frame: bytes) -> None:
        """Raises:
            CallError: there is no answer.
        """
        for pause in (*_PAUSES, None):
            try:
                await self._ask(frame)
                return
            except RayActorError as exc:
                if self._told:
                    raise ModelCrashed("the replica died while it answered this request", retry_after=2) from exc
                if pause is None:
                    raise ModelCrashed(f"the replica died, {_TRIES} times on this request", retry_after=2) from exc
                await asyncio.sleep(pause)
            except DeploymentUnavailableError as exc:
                raise LaneUnavailable("the model's replicas fail to start", retry_after=5) from exc
            except (asyncio.CancelledError, TaskCancelledError):
                raise
            except Exception as exc:  # whatever else Ray raises, at its edge
                raise EngineFailed(f"Ray failed: {type(exc).__name__}") from exc

    async def _ask(self, frame: bytes) -> None:
        method = self._handle.options(stream=True).stream if self._in_pieces else self._handle.ask
        answer = method.remote(self._key, frame, time.monotonic())
        try:
            if self._in_pieces:
                async for part in answer:
                    self._tell(part)
            else:
                self._tell(await answer)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # it has ended, or its replica has
                answer.cancel()
            raise

    def _tell(self, frames: bytes) -> None:
        self._told = True
        self._transport.write(frames)
