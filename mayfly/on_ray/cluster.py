"""The web process's side of a Ray cluster: a thread whose loop deploys lanes, looks how they are, and asks each replica
for its door. Calls go there by themselves (`lines.py`)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from mayfly import __version__
from mayfly.compat.process import keep_sigterm
from mayfly.on_ray.node import ENVIRONMENT
from mayfly.places import ABOVE
from mayfly.settings import Settings, parse
from mayfly.wire.codec import plain

# What a front and a replica say to Serve needs one thread in each; the controller hears each second how many calls are
# held, and whether a front waits for a replica.
_OF_SERVE = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
             "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
             "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
os.environ.update({**_OF_SERVE, **ENVIRONMENT})

import ray  # noqa: E402 - it reads the environment as it is imported
from ray import serve  # noqa: E402

from mayfly.on_ray.lines import SERVING, Known, Lines  # noqa: E402
from mayfly.on_ray.replica import REASON, Replica  # noqa: E402
from mayfly.on_ray.roster import Roster  # noqa: E402
from mayfly.on_ray.scaling import Scaling  # noqa: E402

_LOOK = 0.5
_TRY_AGAIN = 2.0
# Ray may take so long (s) to tell how all is; without its head it would take for ever.
_TELLS = 15.0
# A replica that doesn't say in so long (s) where its door is, is asked again.
_ANSWERS = 5.0
# How often (s) the replicas of a configured model are asked again, which tells them that somebody may need them.
_ASKS_AGAIN = 20.0
_REASON = re.compile(re.escape(REASON) + "(.*)")
_DEPLOYMENT = "lane"
# Texts are computed side by side: so many calls at once, of those that a replica holds, are what it is scaled for.
_EMBED_CALLS = 4
# That ask a replica for its door at the same time.
_MOST_FRONTS = 100


@dataclasses.dataclass(eq=False)
class Deployed:
    """A lane on the cluster.

    Attributes:
        name: of the lane.
        model, kind: what it serves, "embedding" or "completion".
        at_once: calls that a replica serves at the same time.
        stays: it is one of the configured models', and keeps its replicas as long as there is a service.
        lines: to its replicas.
        handle: to ask it by, once it is deployed.
        waiting: for any replica: as long as Serve sees that, it starts one if there is none.
        asking: those that are known, again.
        said: how it is.
        wanted: somebody asks for it.
    """

    name: str
    model: str
    kind: str
    at_once: int
    stays: bool
    lines: Lines
    handle: Any = None
    waiting: asyncio.Task[Any] | None = None
    asking: asyncio.Task[Any] | None = None
    asked: float = 0.0
    said: dict[str, Any] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    wanted: bool = True

    @property
    def app(self) -> str:
        """The name of its application: one that any file system and any log can show."""
        plain_name = re.sub(r"[^\w.-]", "-", self.name)
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"mayfly-{plain_name}" + ("" if plain_name == self.name else f"-{digest}")

    def status(self) -> dict[str, Any]:
        """Return what a lane's `said` is."""
        return {"state": "loading", "model": self.model, **self.facts, **self.said}


class Cluster:
    """See the module. Its methods may be called by any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes: dict[str, Deployed] = {}
        self._lock = threading.Lock()
        self._connected = False
        self._trouble = ""
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),), name="ray",
                                        daemon=True)
        self._thread.start()

    def add(self, name: str, model: str, kind: str, at_once: int, *, stays: bool) -> Deployed:
        """Return a lane that is deployed soon, or, unless it stays, when it is wanted."""
        deployed = Deployed(name, model, kind, at_once, stays, Lines(at_once), wanted=stays)
        with self._lock:
            self._lanes[name] = deployed
        return deployed

    def status(self, deployed: Deployed) -> dict[str, Any]:
        """Return how a lane is."""
        return {**deployed.status(), **({"reason": self._trouble} if self._trouble else {})}

    def open(self) -> list[str]:
        """Return the names of the lanes that have a replica."""
        with self._lock:
            return [name for name, lane in self._lanes.items() if lane.lines.names()]

    def dismiss(self, name: str, patience: float = 0.0) -> None:
        """Have a lane leave that doesn't stay; wait so long (s) for Ray to be told."""
        lane = self._lanes.get(name)
        if lane is not None and not lane.stays:
            lane.wanted = False
            told = asyncio.run_coroutine_threadsafe(asyncio.to_thread(self._delete, lane), self._loop)
            concurrent.futures.wait([told], patience)

    def close(self) -> None:
        """Leave the cluster, which may end then."""
        self._closing = True
        self._thread.join(_ANSWERS)
        ray.shutdown()

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while not self._connected and not self._closing:
            try:
                await asyncio.to_thread(self._connect)
            except Exception as exc:  # Ray raises anything here; the next try may be better
                self._trouble = f"the Ray cluster can't be reached: {' '.join(str(exc).split())[:300]}"
                await asyncio.sleep(_TRY_AGAIN)
        while not self._closing:
            try:
                await self._turn()
                self._trouble = ""
            except Exception as exc:
                why = " ".join(str(exc).split())[:300] or "it takes too long"
                self._trouble = f"the Ray cluster doesn't answer: {why}"
                await asyncio.gather(*(self._see_who_is_left(lane) for lane in self._all()))
            await asyncio.sleep(_LOOK)

    def _all(self) -> list[Deployed]:
        with self._lock:
            return list(self._lanes.values())

    def _connect(self) -> None:
        _close_token_file()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if not ray.is_initialized():
            with keep_sigterm():  # Ray would end the process at once
                ray.init(address=self._settings.ray_address, namespace="mayfly", log_to_driver=False,
                         logging_level="ERROR")
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False})
        self._connected = True

    async def _turn(self) -> None:
        applications = (await asyncio.wait_for(asyncio.to_thread(serve.status), _TELLS)).applications
        # What one lane meets is no matter of the others.
        await asyncio.gather(*(self._look_after(lane, applications.get(lane.app)) for lane in self._all()))

    async def _see_who_is_left(self, lane: Deployed) -> None:
        """Let go of replicas that nobody listens for, as long as Ray tells of no end: the others answer without it."""
        known = lane.lines.addresses()
        reached = await asyncio.gather(*(_reached(*address) for address in known.values()))
        lane.lines.change([], {name for name, there in zip(known, reached, strict=True) if not there})
        if not lane.lines.names():
            lane.said = {"state": "loading"}

    async def _look_after(self, lane: Deployed, application: Any) -> None:
        try:
            if lane.wanted and lane.handle is None:
                lane.handle = await asyncio.to_thread(self._deploy, lane)
            elif application is None:
                lane.handle = None  # another front has deleted it
            await self._find_doors(lane)
            lane.said = _said(lane, application)
        except Exception as exc:  # Ray raises anything here
            lane.said = {"state": "loading", "reason": f"Ray failed: {' '.join(str(exc).split())[:300]}"}

    async def _find_doors(self, lane: Deployed) -> None:
        serving = SERVING.get(lane.app, frozenset()) if lane.handle is not None else frozenset()
        known = lane.lines.names()
        found = await asyncio.gather(*(self._door(lane, replica) for replica in serving - known))
        lane.lines.change([door for door in found if door is not None], known - serving)
        if not serving:
            lane.facts = {}
        waits = lane.waiting is not None and not lane.waiting.done()
        if lane.lines.names():
            # If another service has it leave, it comes back only when somebody asks for it.
            lane.wanted = lane.stays
        elif lane.wanted and lane.handle is not None and not waits:
            lane.waiting = asyncio.create_task(self._any(lane.handle))
        if lane.stays and time.monotonic() - lane.asked >= _ASKS_AGAIN:
            lane.asked = time.monotonic()
            lane.asking = asyncio.create_task(self._ask_again(lane, known & serving))

    async def _door(self, lane: Deployed, replica: str) -> Known | None:
        try:
            told = json.loads(await asyncio.wait_for(lane.handle.door.remote(replica), _ANSWERS))
        except Exception:  # it may have gone already; if not, it is asked again
            return None
        lane.facts = {name: fact for name, fact in told.pop("facts").items()
                      if name not in ("pid", "queue", "active", "retried")}
        return Known(replica, **told)

    async def _ask_again(self, lane: Deployed, replicas: set[str]) -> None:
        await asyncio.gather(*(self._door(lane, replica) for replica in replicas))

    @staticmethod
    async def _any(handle: Any) -> None:
        with contextlib.suppress(Exception):
            await handle.door.remote("")

    def _deploy(self, lane: Deployed) -> Any:
        """Deploy a lane, if it isn't as it should be; return its handle."""
        told = json.dumps(_settings_for(self._settings, lane), default=plain)
        fewest, most = self._settings.replicas
        options = {
            "name": _DEPLOYMENT,
            "max_ongoing_requests": _MOST_FRONTS,
            "request_router_config": {"request_router_class": Roster},
            "autoscaling_config": {
                "min_replicas": 0, "initial_replicas": max(1, fewest), "max_replicas": most,
                "policy": {
                    "policy_function": Scaling,
                    "policy_kwargs": {"target": lane.at_once if lane.kind == "completion" else _EMBED_CALLS,
                                      "fewest": fewest if lane.stays else 0}},
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
        target = serve.RunTarget(deployment.bind(told, lane.kind), name=lane.app, route_prefix=None,
                                 logging_config={"enable_access_log": False})
        return serve.run_many([target], wait_for_applications_running=False)[0]

    def _delete(self, lane: Deployed) -> None:
        if lane.handle is not None:
            lane.handle = None
            serve.delete(lane.app, _blocking=False)


def _said(lane: Deployed, application: Any) -> dict[str, Any]:
    """Return how a lane is, by its application's state."""
    deployment = application.deployments.get(_DEPLOYMENT) if application is not None else None
    if deployment is None:
        return {}
    states = {str(state): count for state, count in deployment.replica_states.items() if count}
    said: dict[str, Any] = {"state": "ready" if lane.lines.names() else "loading", "replicas": states}
    if said["state"] == "loading":
        said["reason"] = "its replicas are starting, or wait for a node with room"
        reason = _REASON.search(deployment.message or "")
        if reason is not None:
            said["reason"] = reason.group(1).strip()
            if deployment.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                said["state"] = "failing"
    return said


# What is no matter of a replica: services that differ in this alone share them.
_OF_FRONTS = ("listen_ip", "listen_port", "ollama_compat_port", "route", "authorized_urls", "require_key",
              "allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials", "model_list", "hf_endpoint",
              "venv_name", "model_aliases", "replicas", "request_timeout", "receive_timeout", "connection_limit",
              "lame_duck_seconds", "max_body", "max_texts")


def _settings_for(settings: Settings, lane: Deployed) -> Settings:
    """Return what a lane's replicas are told: no key, and no other model."""
    configured = lane.stays and lane.kind == "completion"
    usual = parse({})
    return dataclasses.replace(
        settings, **{name: getattr(usual, name) for name in _OF_FRONTS},
        # Each node has these for itself.
        run_folder_name=Path(), log_folder_name=Path(),
        api_keys=(), hf_token="", threads=settings.replica_threads, serve_on="this", ray_address="",
        embed_model=lane.model if lane.kind == "embedding" else "",
        model_name=lane.model if lane.kind == "completion" else "",
        prompt_template=settings.prompt_template if configured else "",
        system_template=settings.system_template if configured else "")


async def _reached(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _ANSWERS)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _close_token_file() -> None:
    """Let only this user read the token: Ray makes its file readable for all."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
