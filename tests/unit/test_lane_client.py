"""The calling side of a lane against workers that the test plays, over a real socket."""

from __future__ import annotations

import array
import dataclasses
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service import until

from mayfly.errors import DeadlinePassed, EngineFailed, LaneUnavailable, ModelCrashed, QueueFull
from mayfly.lanes.client import SocketLane
from mayfly.lanes.lane import LaneCall, NoLane
from mayfly.wire import board, framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.board import Board
from mayfly.wire.calls import (
    Answer,
    Began,
    Completion,
    CompletionCall,
    EmbedCall,
    Embeddings,
    Failed,
    Finished,
    Item,
    Message,
    Piece,
    Request,
    TokenizeCall,
    Tokens,
    ToolCall,
    ToolDelta,
)


class PlayedLane:
    """A lane's listening socket, whose workers the test plays, and its board."""

    def __init__(self, folder: Path) -> None:
        self.listener, self.address = LaneAddress.bind(folder / "completion.sock")
        self.listener.settimeout(20)
        self._board = folder / "state.json"
        self.say(state="ready", model="played")

    def say(self, **state: Any) -> None:
        board.publish(self._board, {"completion": state})

    def lane(self, **options: Any) -> SocketLane:
        board_ = Board(self._board)
        return SocketLane("completion", lambda: board_.lane("completion"),
                          **{"queue_limit": 8, "address": self.address, **options})

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(20)
        return connection

    def take(self, generation: int = 1) -> tuple[socket.socket, Any]:
        """Accept a call as a worker does; return its connection and its request."""
        connection = self.accept()
        send(connection, Began(generation))
        return connection, request(connection)


def send(connection: socket.socket, answer: Answer) -> None:
    connection.sendall(framing.encode(answer))


def request(connection: socket.socket) -> Any:
    """Return the next call that a caller sends."""
    received = bytearray()
    while (found := framing.pop(received, Request)) is None:
        received += connection.recv(1 << 16)
    return found.call


@pytest.fixture
def played(tmp_path: Path) -> Iterator[PlayedLane]:
    lane = PlayedLane(tmp_path)
    yield lane
    lane.listener.close()


def completion() -> CompletionCall:
    return CompletionCall(id="req_1", messages=(Message("user", "Hello"),))


def embedding(number: int = 1) -> EmbedCall:
    return EmbedCall(f"req_{number}", (f"text {number}",))


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


DONE = Finished("stop", "played", 1, 1, 1)
VECTOR = array.array("f", [1.0, 0.0]).tobytes()
MADE = Embeddings(VECTOR, 2, 3, "m", 1)


def items(call: LaneCall, enough: Callable[[list[Item]], Any] = bool) -> list[Item]:
    """Drive a call as the server's loop does, until enough has come."""
    come: list[Item] = []
    ends = soon()
    while not enough(come):
        now = time.monotonic()
        assert now < ends, "it never came"
        pause = max(0.0, min(call.due - now, 0.5))
        if call.watched is None:
            time.sleep(min(pause, 0.01))
        else:
            select.select([] if call.sending else [call.watched], [call.watched] if call.sending else [], [], pause)
        come += call.advance(time.monotonic())
    return come


def answer(call: LaneCall) -> Item:
    """Drive a call to its one item, and close it."""
    try:
        [item] = items(call)
        return item
    finally:
        call.close()


def counts(lane: SocketLane) -> tuple[int, int]:
    status = lane.status()
    return status["queue"], status["active"]


def test_a_request_that_no_socket_holds_is_sent_as_its_worker_reads(played: PlayedLane) -> None:
    text = "word " * 2_000_000
    lane = played.lane()
    call = lane.begin(EmbedCall("req_1", (text,)), soon())
    call.advance(time.monotonic())
    assert call.sending
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, call)
        connection, sent = played.take()
        assert sent.texts == (text,)
        send(connection, MADE)
        assert made.result() == Embeddings(VECTOR, 2, 3, "m", 1)


def test_a_call_waits_with_its_request_until_a_worker_takes_it(played: PlayedLane) -> None:
    lane = played.lane()
    call = lane.begin(completion(), soon())
    assert call.advance(time.monotonic()) == []
    assert not call.sending
    assert counts(lane) == (1, 0)
    connection, sent = played.take()
    assert sent.id == "req_1"
    send(connection, Piece("Hi."))
    send(connection, DONE)
    assert answer(call) == Completion("Hi.", Finished("stop", "played", 1, 1, 1))
    assert counts(lane) == (0, 0)


def test_what_is_thought_and_called_in_pieces_is_put_together(played: PlayedLane) -> None:
    call = played.lane().begin(completion(), soon())
    call.advance(time.monotonic())
    connection, _ = played.take()
    for piece in (Piece("", reasoning="Hm"), Piece("Here:", reasoning="."),
                  Piece("", tool_calls=(ToolDelta(0, "call_a", "weather", ""), ToolDelta(0, "", "", '{"a"'))),
                  Piece("", tool_calls=(ToolDelta(0, "", "", ": 1}"), ToolDelta(1, "call_b", "clock", "{}")))):
        send(connection, piece)
    send(connection, dataclasses.replace(DONE, reason="tool_calls"))
    assert answer(call) == Completion(
        "Here:", Finished("tool_calls", "played", 1, 1, 1), reasoning="Hm.",
        tool_calls=(ToolCall("call_a", "weather", '{"a": 1}'), ToolCall("call_b", "clock", "{}")))


def test_a_call_in_pieces_gives_them_as_they_come(played: PlayedLane) -> None:
    call = played.lane().begin(completion(), soon(), in_pieces=True)
    call.advance(time.monotonic())
    connection, _ = played.take()
    for text in ("One", " two"):
        send(connection, Piece(text))
        assert items(call) == [Piece(text)]
    send(connection, DONE)
    assert items(call) == [Finished("stop", "played", 1, 1, 1)]
    call.close()


def test_pieces_that_come_with_an_error_are_told_before_it(played: PlayedLane) -> None:
    call = played.lane().begin(completion(), soon(), in_pieces=True)
    call.advance(time.monotonic())
    connection, _ = played.take()
    connection.sendall(framing.encode(Piece("One")) + framing.encode(Failed.of(EngineFailed("it broke"))))
    assert items(call) == [Piece("One")]
    with pytest.raises(EngineFailed, match="it broke"):
        items(call)
    call.close()


def test_tokens_come_text_by_text(played: PlayedLane) -> None:
    call = played.lane().begin(TokenizeCall("req_1", "m", ("a b", "", "c")), soon())
    call.advance(time.monotonic())
    connection, sent = played.take()
    assert sent.texts == ("a b", "", "c")
    send(connection, Tokens((2, 0, 1), array.array("i", [7, 8, 9]).tobytes()))
    assert answer(call) == Tokens((2, 0, 1), array.array("i", [7, 8, 9]).tobytes())


def test_an_answered_embedding_hands_its_connection_to_the_next(played: PlayedLane) -> None:
    lane = played.lane()
    first = lane.begin(embedding(1), soon())
    first.advance(time.monotonic())
    assert counts(lane) == (1, 0)
    connection, sent = played.take()
    assert sent.texts == ("text 1",)
    send(connection, MADE)
    answer(first)
    second = lane.begin(embedding(2), soon())
    second.advance(time.monotonic())
    assert request(connection).texts == ("text 2",)
    # Nobody tells it that it has begun: it was sent to a process that is known.
    assert counts(lane) == (0, 1)
    send(connection, MADE)
    answer(second)
    second.close()
    assert counts(lane) == (0, 0)


def test_a_kept_connection_whose_process_has_gone_costs_the_next_call_nothing(played: PlayedLane) -> None:
    lane = played.lane()
    calls = [lane.begin(embedding(number), soon()) for number in range(3)]
    connections = []
    for call in calls:
        call.advance(time.monotonic())
        connections.append(played.take()[0])
    for call, connection in zip(calls, connections, strict=True):
        send(connection, MADE)
        answer(call)
    for connection in connections:
        connection.close()
    call = lane.begin(embedding(4), soon())
    call.advance(time.monotonic())
    connection, _ = played.take(generation=2)
    send(connection, MADE)
    answer(call)
    assert lane.status()["retried"] == 0


def test_one_death_is_one_however_many_connections_to_the_process_were_kept(played: PlayedLane) -> None:
    """A process's sockets are closed one after another: those that are still open aren't its life."""
    lane = played.lane()
    calls = [lane.begin(embedding(number), soon()) for number in range(4)]
    connections = []
    for call in calls:
        call.advance(time.monotonic())
        connections.append(played.take(generation=1)[0])
    for call, connection in zip(calls, connections, strict=True):
        send(connection, MADE)
        answer(call)
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, lane.begin(embedding(5), soon()))
        [asked] = until(lambda: select.select(connections, [], [], 0.1)[0])
        asked.close()
        connection, _ = played.take(generation=2)
        send(connection, MADE)
        assert made.result() == Embeddings(VECTOR, 2, 3, "m", 1)
    assert lane.status()["retried"] == 1
    assert all(other.recv(1) == b"" for other in connections if other is not asked)


def test_a_connection_of_a_call_that_failed_or_was_left_is_not_kept(played: PlayedLane) -> None:
    lane = played.lane()
    for last_word in (None, Failed.of(EngineFailed("it broke"))):
        call = lane.begin(embedding(), soon())
        call.advance(time.monotonic())
        connection, _ = played.take()
        until(lambda call=call: call.advance(time.monotonic()) or counts(lane) == (0, 1))  # type: ignore[misc]
        if last_word is not None:
            send(connection, last_word)
            with pytest.raises(EngineFailed):
                items(call)
        call.close()
        assert connection.recv(1) == b""
        assert counts(lane) == (0, 0)


def test_a_call_whose_worker_dies_goes_to_the_next_one_and_starts_over(played: PlayedLane) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, lane.begin(completion(), soon()))
        first, sent = played.take(generation=1)
        send(first, Piece("Half an ans"))
        first.close()
        second, again = played.take(generation=2)
        assert again == sent
        send(second, Piece("Whole answer."))
        send(second, DONE)
        assert made.result() == Completion("Whole answer.", Finished("stop", "played", 1, 1, 1))
    assert lane.status()["retried"] == 1


def test_a_call_whose_worker_dies_twice_is_told_the_reports_name(played: PlayedLane) -> None:
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, played.lane().begin(completion(), soon()))
        played.take(generation=1)[0].close()
        played.take(generation=2)[0].close()
        played.say(state="ready", last_failure={"generation": 2, "report": "the_report.log"})
        with pytest.raises(ModelCrashed, match=r"twice.*the_report\.log"):
            made.result()


def test_a_stream_is_not_started_over_once_a_piece_was_told(played: PlayedLane) -> None:
    played.say(state="ready", last_failure={"generation": 1, "report": "r.log"})
    call = played.lane().begin(completion(), soon(), in_pieces=True)
    call.advance(time.monotonic())
    connection, _ = played.take()
    send(connection, Piece("Once"))
    assert items(call) == [Piece("Once")]
    connection.close()
    with pytest.raises(ModelCrashed, match="while it answered"):
        items(call)
    call.close()


def test_a_worker_that_dies_before_it_has_the_call_costs_no_try(played: PlayedLane) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, lane.begin(completion(), soon()))
        for _ in range(3):
            played.accept().close()
        connection, _ = played.take()
        send(connection, DONE)
        made.result()
    assert lane.status()["retried"] == 0


def test_the_end_of_a_call_closes_its_connection(played: PlayedLane) -> None:
    lane = played.lane()
    call = lane.begin(completion(), soon(), in_pieces=True)
    call.advance(time.monotonic())
    connection, _ = played.take()
    send(connection, Piece("Once"))
    items(call)
    call.close()
    assert connection.recv(1) == b""
    assert counts(lane) == (0, 0)


def test_a_call_ends_when_its_time_is_over_begun_or_not(played: PlayedLane) -> None:
    lane = played.lane()
    with pytest.raises(DeadlinePassed, match="waited for its turn"):
        answer(lane.begin(completion(), soon(0.2)))
    played.accept()
    call = lane.begin(completion(), soon(0.5))
    call.advance(time.monotonic())
    held = played.take()
    with pytest.raises(DeadlinePassed, match="not finished"):
        answer(call)
    assert counts(lane) == (0, 0)
    held[0].close()


def test_a_call_to_a_lane_that_fails_to_start_is_told_why_at_once(played: PlayedLane) -> None:
    played.say(state="failing", reason="the file is no model", last_failure={"report": "r.log"})
    with pytest.raises(LaneUnavailable, match=r"the file is no model.*r\.log"):
        answer(played.lane().begin(completion(), soon()))


def test_a_call_that_waits_for_a_lane_hears_that_it_fails(played: PlayedLane) -> None:
    played.say(state="loading")
    call = played.lane().begin(completion(), soon())
    call.advance(time.monotonic())
    played.say(state="failing", reason="the file is no model")
    with pytest.raises(LaneUnavailable, match="the file is no model"):
        answer(call)


def test_a_lane_that_still_loads_is_unavailable_when_the_deadline_passes(played: PlayedLane) -> None:
    played.say(state="loading")
    with pytest.raises(LaneUnavailable, match="loading"):
        answer(played.lane().begin(completion(), soon(0.3)))


def test_a_lane_that_opens_on_demand_is_asked_for_and_waited_for(played: PlayedLane) -> None:
    asked: list[float] = []
    lane = played.lane(address=None, summon=lambda: asked.append(time.monotonic()))
    call = lane.begin(completion(), soon())
    with ThreadPoolExecutor() as pool:
        made = pool.submit(answer, call)
        until(lambda: asked)
        played.say(state="ready", address=played.address)
        connection, _ = played.take()
        send(connection, DONE)
        made.result()


def test_a_lane_without_a_model_says_so() -> None:
    lane = NoLane("set MODEL_NAME")
    assert lane.status() == {"state": "off", "reason": "set MODEL_NAME"}
    assert not lane.ready() and not lane.configured()
    with pytest.raises(LaneUnavailable, match="set MODEL_NAME"):
        lane.begin(completion(), soon())


def test_calls_beyond_the_queue_limit_are_refused_and_places_are_given_back(played: PlayedLane) -> None:
    lane = played.lane(queue_limit=2)
    waiting = [lane.begin(completion(), soon()) for _ in range(3)]
    assert counts(lane) == (3, 0)
    with pytest.raises(QueueFull):
        lane.begin(completion(), soon())
    for call in waiting:
        call.close()
    assert counts(lane) == (0, 0)
