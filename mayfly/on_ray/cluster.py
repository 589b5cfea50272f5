"""The web process's side of a Ray cluster: a thread that has a driver (`driver.py`) running, tells it which lanes are
wanted, and hears where their replicas are. Calls go there by themselves (`lines.py`), driver or not.

What is connected to Ray is a process of its own, since Ray ends such a one when its head has been gone for a minute.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import threading
from typing import Any

from mayfly.on_ray.lines import Known, Lines
from mayfly.on_ray.messages import Dismissed, Turn, Wanted, WantedLane
from mayfly.places import ABOVE
from mayfly.settings import Settings
from mayfly.wire.codec import from_wire, plain

_TRY_AGAIN = 2.0
# Who doesn't take a connection in so long (s) isn't there.
_ANSWERS = 5.0
# A driver says something each half second; one that connects, or waits for an answer, may take this long (s).
_SILENCE = 120.0
# It ends within so long (s) after its last word, or is ended.
_ENDS = 2.0
# For a line of what it says: many replicas.
_LONGEST = 1 << 24


@dataclasses.dataclass(eq=False)
class Deployed:
    """A lane on the cluster.

    Attributes:
        told: what its first driver was told of it.
        lines: to its replicas.
        wanted: somebody asks for it.
        said: how it is.
    """

    told: WantedLane
    lines: Lines
    wanted: bool
    said: dict[str, Any] = dataclasses.field(default_factory=dict)


class Cluster:
    """See the module. Its methods may be called by any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes: dict[str, Deployed] = {}
        self._lock = threading.Lock()
        self._trouble = ""
        self._driver: asyncio.subprocess.Process | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_until_complete, args=(self._live(),), name="ray", daemon=True).start()

    def add(self, name: str, model: str, kind: str, at_once: int, *, stays: bool) -> Deployed:
        """Return a lane that is deployed soon, or, unless it stays, when it is wanted; see `WantedLane`."""
        deployed = Deployed(WantedLane(name, model, kind, at_once, stays, wanted=stays), Lines(at_once), wanted=stays)
        with self._lock:
            self._lanes[name] = deployed
        self._tell(deployed.told)
        return deployed

    def want(self, deployed: Deployed) -> None:
        """Have a lane get a replica if it has none."""
        deployed.wanted = True
        self._tell(Wanted(deployed.told.name))

    def dismiss(self, name: str) -> None:
        """Have a lane leave that doesn't stay."""
        lane = self._lanes.get(name)
        if lane is not None and not lane.told.stays:
            lane.wanted = False
            self._tell(Dismissed(name))

    def status(self, deployed: Deployed) -> dict[str, Any]:
        """Return how a lane is."""
        said = {"state": "loading", "model": deployed.told.model, **deployed.said}
        return {**said, **({"reason": self._trouble} if self._trouble else {})}

    def open(self) -> list[str]:
        """Return the names of the lanes that have a replica."""
        return [lane.told.name for lane in self._all() if lane.lines.names()]

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            try:
                await self._require_listener()
                await self._have_driver()
                self._trouble = self._trouble or "the connection to the Ray cluster has ended, and is made again"
            except Exception as exc:  # whatever it is, the next driver may do better
                self._trouble = f"the Ray cluster can't be reached: {str(exc) or 'its driver says nothing'}"
            await self._see_who_is_left()
            await asyncio.sleep(_TRY_AGAIN)

    async def _require_listener(self) -> None:
        """See whether somebody listens at the address: where nobody does, Ray takes a minute to say so.

        Raises:
            ConnectionError: nobody does.
        """
        host, _, port = self._settings.ray_address.rpartition(":")
        if port.isdecimal() and not await _reached(host.strip("[]"), int(port)):
            raise ConnectionError(f"nobody listens on {self._settings.ray_address}")

    async def _have_driver(self) -> None:
        """Have a driver, until it ends.

        Raises:
            OSError: it can't be started.
            asyncio.TimeoutError: it has said nothing for long.
        """
        driver = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly.on_ray", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=ABOVE, start_new_session=True, limit=_LONGEST)
        assert driver.stdout is not None
        try:
            self._driver = driver
            self._write(self._settings)
            for lane in self._all():
                # It may have replicas of which the driver before this one knew.
                self._write(dataclasses.replace(lane.told, wanted=lane.wanted or bool(lane.lines.names())))
            while line := await asyncio.wait_for(driver.stdout.readline(), _SILENCE):
                await self._hear(from_wire(json.loads(line), Turn))
        finally:
            self._driver = None
            try:
                await asyncio.wait_for(driver.wait(), _ENDS)
            except asyncio.TimeoutError:
                driver.kill()
                await driver.wait()

    async def _hear(self, turn: Turn) -> None:
        self._trouble = turn.trouble
        for heard in turn.lanes:
            lane = self._lanes[heard.name]
            lane.said = heard.said
            if heard.doors is not None:
                known = lane.lines.names()
                lane.lines.change([Known(**vars(door)) for door in heard.doors if door.name not in known],
                                  known - {door.name for door in heard.doors})
            if lane.lines.names():
                # If another service has it leave, it comes back only when somebody asks for it.
                lane.wanted = lane.told.stays
        if turn.trouble:
            await self._see_who_is_left()

    async def _see_who_is_left(self) -> None:
        """Let go of replicas that nobody listens for, as long as Ray tells of no end: the others answer without it."""
        for lane in self._all():
            known = lane.lines.addresses()
            reached = await asyncio.gather(*(_reached(*address) for address in known.values()))
            lane.lines.change([], {name for name, there in zip(known, reached, strict=True) if not there})
            if not lane.lines.names():
                lane.said = {}

    # -- what the driver is told ------------------------------------------------------------------------------

    def _tell(self, message: WantedLane | Wanted | Dismissed) -> None:
        self._loop.call_soon_threadsafe(self._write, message)

    def _write(self, message: Any) -> None:
        if self._driver is not None and self._driver.stdin is not None:
            self._driver.stdin.write(json.dumps(message, default=plain).encode() + b"\n")

    def _all(self) -> list[Deployed]:
        with self._lock:
            return list(self._lanes.values())


async def _reached(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _ANSWERS)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True
