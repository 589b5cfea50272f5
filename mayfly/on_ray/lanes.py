"""The lanes of a service on Ray: those of models ask replicas; tokens are counted here, which needs no loaded model."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable

from mayfly.lanes.client import SocketLane
from mayfly.lanes.lane import Lane, NoLane
from mayfly.lanes.switchboard import Switchboard
from mayfly.on_ray.cluster import Cluster, Deployed
from mayfly.on_ray.lines import Line
from mayfly.wire.board import VOCABULARY, Board
from mayfly.wire.calls import MOST_CALLS_HELD, Call, CompletionCall
from mayfly.wire.events import Dismiss, Keep, Want
from mayfly.wire.spec import LaneSpec, WebSpec


class RayLane(SocketLane):
    """A lane whose calls go to replicas. See Lane."""

    server, tries = "replica", 3
    report_patience = 0.0

    def __init__(self, cluster: Cluster, deployed: Deployed, *, queue_limit: int, served_at_once: int) -> None:
        super().__init__(deployed.told.name, lambda: cluster.status(deployed), queue_limit=queue_limit,
                         served_at_once=served_at_once, summon=lambda: cluster.want(deployed))
        self._lines = deployed.lines

    def connect(self, call: Call, *, in_pieces: bool) -> socket.socket | None:
        """See SocketLane."""
        return self._lines.connect(affinity(call), in_pieces=in_pieces)

    def kept_connection(self) -> tuple[socket.socket, int] | None:
        """See SocketLane."""
        return self._lines.take()

    def keep(self, connection: socket.socket, generation: int) -> None:
        """See SocketLane."""
        assert isinstance(connection, Line)
        self._lines.keep(connection)

    def forget(self, generation: int) -> None:
        """See SocketLane."""
        self._lines.forget(generation)

    def leaves(self, connection: socket.socket) -> bool:
        """See SocketLane: a replica may have gone, or another have room."""
        assert isinstance(connection, Line)
        return self._lines.leaves(connection)


def affinity(call: Call) -> str:
    """Return what calls have in common that go to one replica: a completion's persona, and who may use what is kept of
    it. A call without one goes anywhere."""
    if not isinstance(call, CompletionCall):
        return ""
    persona = [message.content for message in call.messages if message.role == "system"]
    return hashlib.sha256(repr((call.namespace, persona)).encode()).hexdigest() if persona else ""


def on_ray(spec: WebSpec, tell: Callable[[Want | Dismiss | Keep], None]) -> Switchboard:
    """Return the lanes of a web process whose models are on a Ray cluster; see `lanes.switchboard.supervised`."""
    board = Board(spec.board)
    cluster = Cluster(spec.settings)
    most = spec.settings.replicas[1]

    def lane_for(name: str, model: str, kind: str, *, stays: bool) -> Lane:
        at_once = spec.completions_at_once if kind == "completion" else MOST_CALLS_HELD
        return RayLane(cluster, cluster.add(name, model, kind, at_once, stays=stays),
                       queue_limit=spec.settings.queue_limit, served_at_once=at_once * most)

    def configured(name: str, told: LaneSpec) -> Lane:
        return lane_for(name, told.model, name, stays=True) if told.model else NoLane(told.missing)

    def new(name: str, model: str, kind: str) -> Lane:
        if name == VOCABULARY:
            return SocketLane(name, lambda: board.lane(name), summon=lambda: tell(Want("")),
                              queue_limit=spec.settings.queue_limit)
        return lane_for(name, model, kind, stays=False)

    return Switchboard({name: configured(name, told) for name, told in spec.lanes.items()},
                       {told.model: name for name, told in spec.lanes.items() if told.model},
                       new=new, known=lambda: {**dict.fromkeys(cluster.open(), ""), **board.kinds()},
                       dismiss=lambda model: cluster.dismiss(f"model:{model}"))
