"""A front's connections to replicas, and a replica's door; without Ray."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mayfly.lanes.client import SocketLane
from mayfly.on_ray.door import Door, hello
from mayfly.on_ray.lines import Known, Line, Lines
from mayfly.on_ray.scaling import Scaling
from mayfly.wire import framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import Answer, EmbedCall, Failed, Request


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def known(listener: socket.socket) -> list[Known]:
    """Three replicas; they listen at one place, which makes no difference here."""
    return [Known(name, "127.0.0.1", listener.getsockname()[1], "0" * 64, number)
            for number, name in enumerate(("one", "two", "three"))]


def lines_to(known: list[Known], at_once: int = 1) -> Lines:
    lines = Lines(at_once)
    lines.change(known, set())
    return lines


def connect(lines: Lines, key: str = "") -> Line:
    line = lines.connect(key, in_pieces=False)
    assert line is not None
    return line


def test_calls_go_where_the_fewest_are(known: list[Known]) -> None:
    lines = lines_to(known)
    made = [connect(lines) for _ in range(6)]
    assert [each.calls for each in known] == [2, 2, 2]
    for line in made:
        line.close()
        line.close()
    assert [each.calls for each in known] == [0, 0, 0]


def test_calls_of_one_persona_stay_together_as_long_as_there_is_room(known: list[Known]) -> None:
    lines = lines_to(known, at_once=2)
    made = [connect(lines, "a persona") for _ in range(5)]
    homes = [line.known for line in made]
    assert homes[0] is homes[1] and homes[2] is homes[3] and len({id(home) for home in homes}) == 3
    for line in made:
        line.close()


def test_who_waits_leaves_for_a_replica_with_room_and_from_one_that_has_gone(known: list[Known]) -> None:
    lines = lines_to(known[:1])
    serving, waiting = connect(lines), connect(lines)
    assert not lines.leaves(waiting)
    lines.change([known[1]], set())
    assert lines.leaves(waiting)
    waiting.close()
    assert not lines.leaves(serving)
    lines.change([], {"one"})
    assert lines.leaves(serving)
    serving.close()


def test_a_connection_that_rests_takes_the_next_call_until_its_replica_goes(known: list[Known]) -> None:
    lines = lines_to(known[:1])
    line = connect(lines)
    lines.keep(line)
    assert known[0].calls == 0
    assert lines.take() == (line, known[0].number)
    lines.keep(line)
    lines.change([], {"one"})
    assert line.fileno() == -1 and lines.take() is None and lines.connect("", in_pieces=False) is None


def test_whoever_breaks_off_is_asked_after_the_others(known: list[Known], listener: socket.socket) -> None:
    lines = lines_to(known)
    line = connect(lines)
    listener.accept()[0].close()
    line.settimeout(10)
    assert line.recv(1) == b""
    broken = line.known
    line.close()
    made = [connect(lines) for _ in range(4)]
    assert broken.calls == 0
    for each in made:
        each.close()


def test_a_deadline_is_one_on_the_callers_clock(tmp_path: Path) -> None:
    """That of another machine began at another time."""
    lane = SocketLane("embedding", lambda: {"state": "ready"}, queue_limit=1,
                      address=LaneAddress(str(tmp_path / "nobody")))
    door = Door(lane, "127.0.0.1")
    try:
        told = door.told()
        token, clock, in_pieces = struct.unpack("<64sd?", hello(told["token"], in_pieces=False))
        with socket.create_connection((told["host"], told["port"]), timeout=30) as connection:
            connection.sendall(struct.pack("<64sd?", token, clock + 1e6, in_pieces) + framing.encode(
                Request(EmbedCall("a", ("b",)), time.monotonic() + 1e6 + 0.1)))
            received = bytearray()
            while (answer := framing.pop(received, Answer)) is None:
                part = connection.recv(1 << 16)
                assert part
                received += part
        assert isinstance(answer, Failed) and "DeadlinePassed" in answer.kinds
    finally:
        door.stop(5.0)
    assert not door.is_alive()


def test_as_many_replicas_are_wanted_as_hold_the_calls_and_one_for_who_waits() -> None:
    def wanted(held: dict[str, float] | None, waiting: float = 0.0) -> float:
        return Scaling(4, 0)(SimpleNamespace(aggregated_metrics=held and {"calls": held, "wanted": {"one": 1.0}},
                                             total_num_requests=waiting))[0]

    assert [wanted(None), wanted(None, 1.0), wanted({"one": 4.0, "two": 6.0}), wanted({"one": 0.0})] == [0, 1, 2.5, 0]


def test_a_configured_model_keeps_its_replicas_as_long_as_there_is_a_service() -> None:
    def wanted(services: float, calls: float = 0.0, waiting: float = 0.0) -> float:
        said = {"calls": {"one": calls, "two": 0.0}, "wanted": {"one": services, "two": 0.0}}
        return Scaling(4, 2)(SimpleNamespace(aggregated_metrics=said, total_num_requests=waiting))[0]

    assert [wanted(1), wanted(1, 20), wanted(0, waiting=1), wanted(0), wanted(0, 4)] == [2, 5, 2, 0, 1]
