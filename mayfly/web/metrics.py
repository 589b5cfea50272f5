"""`GET /metrics`, for Prometheus. Numbers alone: no model, caller or prompt is named."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mayfly.flow import Answer, Compute, Flow
from mayfly.lanes.lane import Lane
from mayfly.tallies import Times
from mayfly.web.health import status_of
from mayfly.web.routes import Asked, Route
from mayfly.web.service import Service

if TYPE_CHECKING:
    from prometheus_client import Metric

_PATH = "/metrics"
_OTHER = "other"
_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")
_SERVED = {"texts": "Texts that were embedded", "prompt_tokens": "Tokens of prompts and texts that were answered",
           "completion_tokens": "Tokens of completions",
           "retried": "Calls whose process died, and that went to the next one"}
# Of a prefix store: what counts up, and what goes up and down.
_COUNTED = {"hits": "Prompts whose beginning was evaluated already", "misses": "Prompts of which nothing was",
            "tokens_saved": "Prompt tokens that weren't evaluated again"}
_HELD = {"states": "Beginnings of prompts that are kept", "bytes": "Their size"}


class Requests:
    """How many requests were answered, and how long that took, by route. May be used by several threads."""

    def __init__(self, table: Sequence[Route]) -> None:
        paths = dict.fromkeys([*(route.path for route in table), _PATH])
        self._routes = [(path, re.compile(re.sub(r"{\w+}", ".+", path))) for path in paths]
        self._lock = threading.Lock()
        self.statuses: dict[tuple[str, str, int], int] = {}
        self.times: dict[str, Times] = {}

    def note(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one; see mayfly.http.site.Site."""
        asked = path.rstrip("/") or "/"
        # Whoever asks for what isn't there makes no new series.
        route = next((route for route, pattern in self._routes if pattern.fullmatch(asked)), _OTHER)
        key = (route, method if method in _METHODS else _OTHER, status)
        with self._lock:
            self.statuses[key] = self.statuses.get(key, 0) + 1
            self.times.setdefault(route, Times()).add(seconds)


def routes(service: Service, requests: Requests) -> list[Route]:
    """Return the route of a service."""
    def metrics(asked: Asked) -> Flow:
        # A thread writes it: the first time, the library is loaded for it.
        content_type, body = yield Compute(lambda: _written(service, requests))
        yield Answer("200 OK", [("Content-Type", content_type), ("Cache-Control", "no-store")], body)

    return [Route("GET", _PATH, metrics, key="never")]


def _written(service: Service, requests: Requests) -> tuple[str, bytes]:
    from prometheus_client import exposition

    class Registry:
        def collect(self) -> Iterator[Metric]:
            yield from _of_requests(requests)
            yield from _of_lanes(service)

    return exposition.CONTENT_TYPE_LATEST, exposition.generate_latest(Registry())


def _of_requests(requests: Requests) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    counted = CounterMetricFamily("mayfly_requests", "Requests that were answered",
                                  labels=["route", "method", "status"])
    for (route, method, status), count in sorted(requests.statuses.items()):
        counted.add_metric([route, method, str(status)], count)
    yield counted
    taken = HistogramMetricFamily("mayfly_request_seconds", "From a request's first byte to its answer's last",
                                  labels=["route"])
    for route, times in sorted(requests.times.items()):
        taken.add_metric([route], times.buckets(), times.total)
    yield taken


def _of_lanes(service: Service) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    groups = _groups(service)

    def family(kind: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, what: str,
               number: Callable[[_Group], float | None]) -> Metric:
        made = kind(f"mayfly_{name}", what, labels=["lane"])
        for group in groups:
            if (value := number(group)) is not None:
                made.add_metric([group.name], value)
        return made

    def said(name: str) -> Callable[[_Group], float | None]:
        return lambda group: group.said(name)

    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield family(gauge, "ready_models", "Models that would answer now",
                 lambda group: sum(status.get("state") == "ready" for status in group.statuses))
    yield family(gauge, "calls_waiting", "Calls that wait for a process", said("queue"))
    yield family(gauge, "calls_active", "Calls that a process has begun", said("active"))
    for name, what in _SERVED.items():
        yield family(counter, name, what, lambda group, name=name: group.served(name))  # type: ignore[misc]
    restarts = counter("mayfly_restarts", "Processes that were replaced, by why they ended", labels=["lane", "cause"])
    first = HistogramMetricFamily("mayfly_first_token_seconds", "From a completion's call to its first piece",
                                  labels=["lane"])
    for group in groups:
        for cause, count in group.restarts().items():
            restarts.add_metric([group.name, cause], count)
        times = Times.of([lane.served.first_token for lane in group.lanes])
        first.add_metric([group.name], times.buckets(), times.total)
    yield from (restarts, first)
    for names, kind in ((_COUNTED, counter), (_HELD, gauge)):
        for name, what in names.items():
            yield family(kind, f"prefix_{name}", what,
                         lambda group, name=name: group.prefixes(name))  # type: ignore[misc]
    memory = gauge("mayfly_memory_bytes", "Memory of processes, what they share counted in each", labels=["process"])
    for process, pids in [("web", [os.getpid()]), *((group.name, group.pids()) for group in groups)]:
        memory.add_metric([process], sum(map(_resident, pids)))
    yield memory


@dataclass(frozen=True)
class _Group:
    """The lanes that are told as one: of a configured model, that which counts tokens, or those that open on demand."""

    name: str
    lanes: list[Lane]
    statuses: list[dict[str, Any]]

    def said(self, name: str) -> float:
        return float(sum(status.get(name, 0) for status in self.statuses))

    def served(self, name: str) -> float:
        return float(sum(getattr(lane.served, name) for lane in self.lanes))

    def restarts(self) -> dict[str, int]:
        told = [status.get("restarts", {}) for status in self.statuses]
        return {cause: sum(each.get(cause, 0) for each in told) for cause in dict.fromkeys(chain(*told))}

    def prefixes(self, name: str) -> float | None:
        stores = [status["prefixes"] for status in self.statuses if "prefixes" in status]
        return sum(store[name] for store in stores) if stores else None

    def pids(self) -> list[int]:
        return [status["pid"] for status in self.statuses if status.get("pid")]


def _groups(service: Service) -> list[_Group]:
    found: dict[str, list[Lane]] = {}
    for name, lane in service.switchboard.all_lanes().items():
        found.setdefault(name.partition(":")[0].replace("model", "on_demand"), []).append(lane)
    return [_Group(name, lanes, [status_of(lane) for lane in lanes]) for name, lanes in found.items()]


def _resident(pid: int) -> int:
    """Return the memory in bytes that a process has in RAM; 0 where the system doesn't say it in /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
