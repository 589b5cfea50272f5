"""The driver: the one process of a service that is connected to a Ray cluster.

Its front (`cluster.py`) starts `python -m mayfly.on_ray`. It reads there which lanes are wanted, deploys them, and says
each half second how they are and where their replicas take calls; those go past it. It ends when the front does, and
when Ray tells nothing any more or ends it: the front then starts another one, which finds whatever is at the cluster's
address by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from mayfly import __version__
from mayfly.compat.process import take_stdout
from mayfly.on_ray.host import reason_in, settings_for
from mayfly.on_ray.messages import Dismissed, DoorAt, LaneAt, Turn, Wanted, WantedLane
from mayfly.on_ray.node import ENVIRONMENT, close_token_file
from mayfly.places import ABOVE
from mayfly.settings import Settings
from mayfly.wire.codec import from_wire, plain

# What a front and a replica say to Serve needs one thread in each; the controller hears each second how many calls are
# held, and whether a front waits for a replica.
_OF_SERVE = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
             "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
             "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
os.environ.update({**_OF_SERVE, **ENVIRONMENT})

import ray  # noqa: E402 - it reads the environment as it is imported
from ray import serve  # noqa: E402

from mayfly.on_ray.replica import Replica  # noqa: E402
from mayfly.on_ray.roster import SERVING, Roster  # noqa: E402
from mayfly.on_ray.scaling import Scaling  # noqa: E402

_LOOK = 0.5
# Ray may take so long (s) to tell how all is; without its head it would take for ever.
_TELLS = 15.0
_MOST_UNANSWERED = 2
# A replica that doesn't say in so long (s) where its door is, is asked again.
_ANSWERS = 5.0
# How often (s) the replicas of a configured model are asked again, which tells them that somebody may need them.
_ASKS_AGAIN = 20.0
_DEPLOYMENT = "lane"
# Texts are computed side by side: so many calls at once, of those that a replica holds, are what it is scaled for.
_EMBED_CALLS = 4
# That ask a replica for its door at the same time.
_MOST_FRONTS = 100


@dataclasses.dataclass(eq=False)
class _Lane:
    """A lane on the cluster.

    Attributes:
        told: what the front said of it.
        wanted: somebody asks for it.
        handle: to ask it by, once it is deployed.
        waiting: for any replica: as long as Serve sees that, it starts one if there is none.
        asking: those that are known, again.
        doors: of the replicas that are known, by their names.
        facts: what the replicas say of the model.
        said: how it is.
    """

    told: WantedLane
    wanted: bool
    handle: Any = None
    waiting: asyncio.Task[Any] | None = None
    asking: asyncio.Task[Any] | None = None
    asked: float = 0.0
    doors: dict[str, DoorAt] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    said: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def app(self) -> str:
        """The name of its application: one that any file system and any log can show."""
        plain_name = re.sub(r"[^\w.-]", "-", self.told.name)
        digest = hashlib.sha256(self.told.name.encode()).hexdigest()[:8]
        return f"mayfly-{plain_name}" + ("" if plain_name == self.told.name else f"-{digest}")

    @property
    def serving(self) -> frozenset[str] | None:
        """Which replicas serve; None if it isn't known."""
        if self.handle is None:
            return None if self.wanted else frozenset()
        return SERVING.get(self.app)

    def at(self) -> LaneAt:
        """Return what the front hears of it."""
        doors = None if self.serving is None else tuple(self.doors.values())
        return LaneAt(self.told.name, {**self.facts, **self.said}, doors)


class Driver:
    """See the module.

    Args:
        settings: the service's.
        said: the descriptor of what the front reads.
    """

    def __init__(self, settings: Settings, said: int) -> None:
        self._settings = settings
        self._said = said
        self._lanes: dict[str, _Lane] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._deploying = asyncio.Lock()
        self._loop = asyncio.new_event_loop()

    def run(self) -> NoReturn:
        """Live until the front or the cluster has ended."""
        threading.Thread(target=self._listen, name="front", daemon=True).start()
        self._loop.run_until_complete(self._live())
        # Threads that wait for Ray would hold up an orderly end.
        os._exit(1)

    # -- the front --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            message = from_wire(json.loads(line), WantedLane | Wanted | Dismissed)
            self._loop.call_soon_threadsafe(self._hear, message)
        os._exit(0)

    def _hear(self, message: WantedLane | Wanted | Dismissed) -> None:
        if isinstance(message, WantedLane):
            self._lanes.setdefault(message.name, _Lane(message, message.wanted))
        elif isinstance(message, Wanted):
            self._lanes[message.name].wanted = True
        else:
            self._lanes[message.name].wanted = False
            leaving = self._loop.create_task(self._delete(self._lanes[message.name]))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _say(self, turn: Turn) -> None:
        line = memoryview(json.dumps(turn, default=plain).encode() + b"\n")
        while line:
            line = line[os.write(self._said, line):]

    # -- the cluster ------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            await asyncio.to_thread(self._connect)
        except Exception as exc:  # Ray raises anything here
            self._say(Turn(f"the Ray cluster can't be reached: {_line(exc)}"))
            return
        # Ray has its own way to take it; this process ends with its front.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        unanswered = 0
        while unanswered < _MOST_UNANSWERED:
            try:
                await self._turn()
                unanswered = 0
            except Exception as exc:
                unanswered += 1
                self._say(Turn(f"the Ray cluster doesn't answer: {_line(exc) or 'it takes too long'}"))
            await asyncio.sleep(_LOOK)

    def _connect(self) -> None:
        close_token_file()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray.init(address=self._settings.ray_address, namespace="mayfly", log_to_driver=False, logging_level="ERROR")
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False})

    async def _turn(self) -> None:
        applications = (await asyncio.wait_for(asyncio.to_thread(serve.status), _TELLS)).applications
        lanes = list(self._lanes.values())
        # What one lane meets is no matter of the others.
        await asyncio.gather(*(self._look_after(lane, applications.get(lane.app)) for lane in lanes))
        self._say(Turn(lanes=tuple(lane.at() for lane in lanes)))

    async def _look_after(self, lane: _Lane, application: Any) -> None:
        try:
            if lane.wanted and lane.handle is None:
                # Serve notes for all threads at once what a deployment's pickle is to hold.
                async with self._deploying:
                    lane.handle = await asyncio.to_thread(self._deploy, lane)
            elif application is None:
                lane.handle = None  # another front has deleted it
            await self._find_doors(lane)
            lane.said = _said(lane, application)
        except Exception as exc:  # Ray raises anything here
            lane.said = {"state": "loading", "reason": f"Ray failed: {_line(exc)}"}

    async def _find_doors(self, lane: _Lane) -> None:
        serving = lane.serving
        if serving is not None:
            found = await asyncio.gather(*(self._door(lane, replica) for replica in serving - lane.doors.keys()))
            stay = [door for name, door in lane.doors.items() if name in serving]
            lane.doors = {door.name: door for door in [*stay, *found] if door is not None}
            if not serving:
                lane.facts = {}
        waits = lane.waiting is not None and not lane.waiting.done()
        if lane.doors:
            # If another service has it leave, it comes back only when somebody asks for it.
            lane.wanted = lane.told.stays
        elif lane.wanted and lane.handle is not None and not waits:
            lane.waiting = asyncio.create_task(self._any(lane.handle))
        if lane.told.stays and time.monotonic() - lane.asked >= _ASKS_AGAIN:
            lane.asked = time.monotonic()
            lane.asking = asyncio.create_task(self._ask_again(lane, list(lane.doors)))

    async def _door(self, lane: _Lane, replica: str) -> DoorAt | None:
        try:
            told = json.loads(await asyncio.wait_for(lane.handle.door.remote(replica), _ANSWERS))
        except Exception:  # it may have gone already; if not, it is asked again
            return None
        lane.facts = {name: fact for name, fact in told.pop("facts").items()
                      if name not in ("pid", "queue", "active", "retried")}
        return DoorAt(replica, **told)

    async def _ask_again(self, lane: _Lane, replicas: list[str]) -> None:
        await asyncio.gather(*(self._door(lane, replica) for replica in replicas))

    @staticmethod
    async def _any(handle: Any) -> None:
        with contextlib.suppress(Exception):
            await handle.door.remote("")

    def _deploy(self, lane: _Lane) -> Any:
        """Deploy a lane, if it isn't as it should be; return its handle."""
        told = settings_for(self._settings, lane.told.model, lane.told.kind, stays=lane.told.stays)
        fewest, most = self._settings.replicas
        options = {
            "name": _DEPLOYMENT,
            "max_ongoing_requests": _MOST_FRONTS,
            "request_router_config": {"request_router_class": Roster},
            "autoscaling_config": {
                "min_replicas": 0, "initial_replicas": max(1, fewest), "max_replicas": most,
                "policy": {
                    "policy_function": Scaling,
                    "policy_kwargs": {"target": lane.told.at_once if lane.told.kind == "completion" else _EMBED_CALLS,
                                      "fewest": fewest if lane.told.stays else 0}},
                "upscale_delay_s": 3.0, "downscale_delay_s": 120.0, "look_back_period_s": 5.0,
                "metrics_interval_s": 1.0},
            "health_check_period_s": 2.0, "health_check_timeout_s": 10.0, "graceful_shutdown_wait_loop_s": 0.2,
            "graceful_shutdown_timeout_s": self._settings.grace_seconds,
            "ray_actor_options": {
                "num_cpus": self._settings.replica_threads,
                "runtime_env": {"env_vars": {"PYTHONPATH": str(ABOVE), **_OF_SERVE}}},
            # What is the same needs no new replicas, whichever front says it.
            "version": hashlib.sha256(f"{__version__} {told}".encode()).hexdigest()[:16], "_internal": True,
        }
        deployment = serve.deployment(Replica).options(**options)
        target = serve.RunTarget(deployment.bind(told, lane.told.kind), name=lane.app, route_prefix=None,
                                 logging_config={"enable_access_log": False})
        return serve.run_many([target], wait_for_applications_running=False)[0]

    async def _delete(self, lane: _Lane) -> None:
        if lane.handle is not None:
            lane.handle = None
            await asyncio.to_thread(serve.delete, lane.app, _blocking=False)


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]


def _said(lane: _Lane, application: Any) -> dict[str, Any]:
    """Return how a lane is, by its application's state."""
    deployment = application.deployments.get(_DEPLOYMENT) if application is not None else None
    if deployment is None:
        return {}
    states = {str(state): count for state, count in deployment.replica_states.items() if count}
    said: dict[str, Any] = {"state": "ready" if lane.doors else "loading", "replicas": states}
    if said["state"] == "loading":
        said["reason"] = "its replicas are starting, or wait for a node with room"
        reason = reason_in(deployment.message or "")
        if reason:
            said["reason"] = reason
            if deployment.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                said["state"] = "failing"
    return said


def main() -> NoReturn:
    """Be the driver of the front that has started this process."""
    said = take_stdout()
    settings: Settings = from_wire(json.loads(sys.stdin.buffer.readline()), Settings)
    Driver(settings, said).run()
