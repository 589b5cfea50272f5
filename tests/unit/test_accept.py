"""How calls are taken from a lane's socket, by callers that the test plays."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from service import until

from mayfly.compat.sockets import bind_public, hung_up, readable
from mayfly.wire import framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import EmbedCall, Request
from mayfly.workers import accept
from mayfly.workers.accept import Door, Gone, Line

REQUEST = Request(EmbedCall("req_1", ("a few words",)), 5)
FRAME = framing.encode(REQUEST)


class Played:
    """A lane's socket, and callers of it."""

    def __init__(self, listener: socket.socket, address: LaneAddress, callers: ExitStack) -> None:
        self.listener, self.address = listener, address
        self._callers = callers
        self.listener.setblocking(False)

    def door(self, come: Callable[[Line], Any] = Line.take) -> Door[Any]:
        return Door(self.listener, self.address, come)

    def call(self, sent: bytes = b"") -> socket.socket:
        caller = self._callers.enter_context(self.address.connect(timeout=120))
        caller.sendall(sent)
        return caller


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Played]:
    listener, address = LaneAddress.bind(tmp_path / "lane.sock")
    with listener, ExitStack() as callers:
        yield Played(listener, address, callers)


@pytest.fixture
def port() -> Iterator[Played]:
    """What a lane is where there are no Unix sockets."""
    listener = bind_public("127.0.0.1", 0)
    with listener, ExitStack() as callers:
        yield Played(listener, LaneAddress(port=listener.getsockname()[1], token="0123456789abcdef"), callers)


@pytest.fixture(params=["path", "port"])
def played(request: pytest.FixtureRequest) -> Played:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Played)
    return found


def heard(door: Door[Any], number: int = 1, room: int = 32) -> list[tuple[Line, Any]]:
    """Hear until so many calls have come."""
    came: list[tuple[Line, Any]] = []
    until(lambda: came.extend(door.receive(0.05, room)) or len(came) >= number, what=f"{number} calls")
    return came


def test_a_request_is_taken_past_callers_that_say_nothing_or_half_of_one(played: Played) -> None:
    door = played.door()
    aside = [played.call(), played.call(FRAME[:5]), played.call(FRAME[:-1])]
    played.call(FRAME)
    ((_, request),) = heard(door)
    assert request == REQUEST
    assert not any(map(hung_up, aside))
    for caller, missing in zip(aside, (FRAME, FRAME[5:], FRAME[-1:]), strict=True):
        for start in range(0, len(missing), 4):  # a socket holds some 200 parts, however small
            caller.sendall(missing[start:start + 4])
    assert [request for _, request in heard(door, 3)] == [REQUEST] * 3


def test_only_as_many_calls_are_taken_as_there_is_room_for(played: Played) -> None:
    door = played.door()
    for _ in range(5):
        played.call(FRAME)
    assert door.receive(0, 0) == []
    assert len(heard(door, 2, room=2)) == 2
    assert len(heard(door, 3, room=3)) == 3


def test_a_caller_without_the_token_is_hung_up_on(port: Played) -> None:
    door = port.door()
    callers = [socket.create_connection(("127.0.0.1", port.address.port), timeout=120) for _ in range(3)]
    for caller, token in zip(callers, ("0123456789abcdeX", "0123456789", "short"), strict=True):
        caller.sendall(token.encode())
    callers[2].shutdown(socket.SHUT_WR)
    until(lambda: door.receive(0.05, 1) or (readable(callers[0]) and readable(callers[2])), what="their ends")
    assert not readable(callers[1])  # the rest may come
    for caller in callers:
        caller.close()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", FRAME + b"x", framing.encode({})[:-2] + b"[]"])
def test_what_is_no_request_ends_its_connection(played: Played, sent: bytes) -> None:
    door = played.door()
    caller = played.call(sent)
    until(lambda: door.receive(0.05, 1) or readable(caller), what="its end")
    played.call(FRAME)
    assert len(heard(door)) == 1


def test_a_kept_connection_may_rest_and_others_may_not(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    door = played.door()
    kept = played.call(FRAME)
    ((line, _),) = heard(door)
    monkeypatch.setattr(accept, "_PATIENCE", 0.2)
    door.keep(line)
    silent = [played.call(), played.call(FRAME[:20])]
    until(lambda: door.receive(0.05, 1) or all(map(readable, silent)), what="their ends")
    assert not readable(kept)
    kept.sendall(FRAME)
    ((again, _),) = heard(door)
    assert again is line
    door.keep(line)
    kept.sendall(FRAME[:20])  # half of one is not resting
    until(lambda: door.receive(0.05, 1) or readable(kept), what="its end")


def test_the_one_aside_for_longest_leaves_when_there_are_too_many(
        played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "_MOST_ASIDE", 3)
    door = played.door()
    kept = played.call(FRAME)
    ((line, _),) = heard(door)
    door.keep(line)
    silent = []
    for _ in range(4):
        silent.append(played.call())
        door.receive(0.05, 1)
    until(lambda: door.receive(0.05, 1) or all(map(readable, silent[:2])), what="the first two gone")
    assert not any(map(readable, [kept, *silent[2:]]))


def test_a_look_at_a_request_reads_nothing_of_it(path: Played) -> None:
    door = path.door(Line.look)
    path.call()
    half, whole = path.call(FRAME[:20]), path.call(FRAME)
    came = heard(door, 2)
    assert [found for _, found in came] == [False, True]
    half.sendall(FRAME[20:])
    assert [until(line.take) for line, _ in came] == [REQUEST] * 2
    whole.close()
    with pytest.raises(Gone):
        came[1][0].look()


def test_a_caller_that_has_left_is_no_call(path: Played) -> None:
    door = path.door()
    path.call(FRAME).close()
    path.call(FRAME)
    assert len(heard(door)) == 1
    assert door.receive(0, 1) == []
