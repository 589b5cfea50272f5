"""The calling side of a lane against workers that the test plays, over a real socket."""

from __future__ import annotations

import array
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service import until

from mayfly.compat import LaneAddress
from mayfly.errors import DeadlinePassed, LaneUnavailable, ModelCrashed, QueueFull
from mayfly.lanes import board, framing
from mayfly.lanes.board import Board
from mayfly.lanes.calls import (
    ClientGone,
    CompletionCall,
    EmbedCall,
    Embeddings,
    Interrupted,
    Message,
    Pending,
    Piece,
    Watch,
)
from mayfly.lanes.client import SocketLane


class PlayedLane:
    """A lane's listening socket, whose workers the test plays, and its board."""

    def __init__(self, folder: Path) -> None:
        self.listener, self.address = LaneAddress.bind(folder / "chat.sock")
        self.listener.settimeout(20)
        self._board = folder / "state.json"
        self.say(state="ready", model="played")

    def say(self, **state: Any) -> None:
        board.publish(self._board, {"chat": state})

    def lane(self, **options: Any) -> SocketLane:
        return SocketLane("chat", self.address, Board(self._board), **{"queue_limit": 8, **options})

    def take(self, generation: int = 1) -> tuple[socket.socket, dict[str, Any]]:
        """Accept a completion call as a worker does; return its connection and its request."""
        connection, _ = self.listener.accept()
        frame = framing.receive(connection)
        assert frame is not None
        framing.send(connection, {"event": "began", "generation": generation})
        return connection, frame[0]


@pytest.fixture
def played(tmp_path: Path) -> Iterator[PlayedLane]:
    lane = PlayedLane(tmp_path)
    yield lane
    lane.listener.close()


def completion(text: str = "Hello") -> CompletionCall:
    return CompletionCall(id="req_1", messages=(Message("user", text),))


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


DONE = {"event": "done", "reason": "stop", "model": "played", "generation": 1, "prompt_tokens": 1,
        "completion_tokens": 1}


LARGE = "word " * 400_000  # more than a socket holds
VECTOR = array.array("f", [1.0, 0.0]).tobytes()
MADE = {"event": "done", "dimensions": 2, "model": "m", "generation": 1, "prompt_tokens": 3}


@pytest.mark.parametrize("text", ["a few words", LARGE], ids=["small", "large"])
def test_a_request_is_sent_with_the_connection_and_again_to_the_next_worker(played: PlayedLane, text: str) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lane.embed, EmbedCall("req_1", (text,)), Watch(soon()))
        for generation in (1, 2):
            connection, _ = played.listener.accept()
            frame = framing.receive(connection)  # before the worker has said a word
            assert frame is not None
            assert frame[0]["embed"]["texts"] == [text]
            framing.send(connection, {"event": "began", "generation": generation})
            if generation == 1:
                connection.close()
        framing.send(connection, MADE, VECTOR)
        assert answer.result().vectors == VECTOR
    assert lane.status()["retried"] == 1


def test_a_worker_that_dies_while_it_reads_a_call_costs_no_try(played: PlayedLane) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lane.embed, EmbedCall("req_1", (LARGE,)), Watch(soon()))
        for size in (1, 100, 300_000):
            connection, _ = played.listener.accept()
            connection.recv(size, socket.MSG_WAITALL)
            connection.close()
        connection, _ = played.listener.accept()
        assert framing.receive(connection) is not None
        framing.send(connection, MADE, VECTOR)
        assert answer.result().vectors == VECTOR
    assert lane.status()["retried"] == 0


def embedding(number: int) -> EmbedCall:
    return EmbedCall(f"req_{number}", (f"text {number}",))


def taken(pending: Pending | None) -> Embeddings:
    """Wait for the answer of a call that was begun."""
    assert pending is not None
    return until(lambda: select.select([pending.fileno()], [], [], 0)[0] and pending.take(), what="the answer")


def test_a_call_that_was_begun_hands_its_connection_to_the_next(played: PlayedLane) -> None:
    lane = played.lane()
    first = lane.begin(embedding(1), soon())
    connection, _ = played.listener.accept()
    assert framing.receive(connection)[0]["embed"]["texts"] == ["text 1"]  # type: ignore[index]
    assert (lane.status()["queue"], lane.status()["active"]) == (1, 0)
    framing.send(connection, {"event": "began", "generation": 1})
    framing.send(connection, MADE, VECTOR)
    assert taken(first).vectors == VECTOR
    assert first is not None
    first.close()
    first.begun.place.leave()
    second = lane.begin(embedding(2), soon())
    assert framing.receive(connection)[0]["embed"]["texts"] == ["text 2"]  # type: ignore[index]
    # Nobody tells it that it has begun: it was sent to a process that is known.
    assert (lane.status()["queue"], lane.status()["active"]) == (0, 1)
    framing.send(connection, MADE, VECTOR)
    assert taken(second).vectors == VECTOR
    assert second is not None
    second.begun.place.leave()
    second.begun.place.leave()
    assert (lane.status()["queue"], lane.status()["active"]) == (0, 0)


def test_a_kept_connection_whose_process_has_gone_costs_the_next_call_nothing(played: PlayedLane) -> None:
    lane = played.lane()
    pending = [lane.begin(embedding(number), soon()) for number in range(3)]
    connections = [played.listener.accept()[0] for _ in pending]
    for call, connection in zip(pending, connections, strict=True):
        framing.send(connection, {"event": "began", "generation": 1})
        framing.send(connection, MADE, VECTOR)
        assert taken(call).vectors == VECTOR
        assert call is not None
        call.close()
        connection.close()
    next_call = lane.begin(embedding(4), soon())
    connection, _ = played.listener.accept()
    framing.send(connection, {"event": "began", "generation": 2})
    framing.send(connection, MADE, VECTOR)
    assert taken(next_call).vectors == VECTOR
    assert lane.status()["retried"] == 0


def test_a_call_that_was_begun_goes_on_with_its_place_and_its_crash(played: PlayedLane) -> None:
    lane = played.lane(queue_limit=0)
    pending = lane.begin(embedding(1), soon())
    assert pending is not None
    assert lane.begin(embedding(2), soon()) is None  # there is no other place
    connection, _ = played.listener.accept()
    framing.send(connection, {"event": "began", "generation": 1})
    connection.close()
    with pytest.raises(Interrupted):
        taken(pending)
    pending.close()
    assert pending.begun.crashes == 1
    played.say(state="ready", last_failure={"generation": 2, "report": "second.log"})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lane.embed, embedding(1), Watch(soon(), begun=pending.begun))
        connection, _ = played.listener.accept()
        assert framing.receive(connection) is not None
        framing.send(connection, {"event": "began", "generation": 2})
        connection.close()
        with pytest.raises(ModelCrashed, match="twice"):
            answer.result()
    assert (lane.status()["queue"], lane.status()["active"], lane.status()["retried"]) == (0, 0, 1)


def test_a_call_is_begun_only_where_nothing_has_to_be_waited_for(played: PlayedLane) -> None:
    assert played.lane().begin(EmbedCall("req_1", (LARGE,)), soon()) is None
    played.say(state="loading")
    assert played.lane().begin(embedding(1), soon()) is None
    played.say(state="ready")
    assert played.lane(summon=lambda: None).begin(embedding(1), soon()) is not None
    assert SocketLane("chat", None, Board(Path("nowhere")), queue_limit=1).begin(embedding(1), soon()) is None


def test_a_call_whose_worker_dies_goes_to_the_next_one_and_starts_over(played: PlayedLane) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lane.complete, completion(), Watch(soon()))
        first, request = played.take(generation=1)
        framing.send(first, {"event": "piece", "text": "Half an ans"})
        first.close()
        second, again = played.take(generation=2)
        assert again["complete"] == request["complete"]
        framing.send(second, {"event": "piece", "text": "Whole answer."})
        framing.send(second, DONE)
        assert answer.result().text == "Whole answer."
    assert lane.status()["retried"] == 1


def test_a_call_whose_worker_dies_twice_is_told_the_reports_name(played: PlayedLane) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(played.lane().complete, completion(), Watch(soon()))
        played.take(generation=1)[0].close()
        played.take(generation=2)[0].close()
        played.say(state="ready", last_failure={"generation": 2, "report": "the_report.log"})
        with pytest.raises(ModelCrashed, match=r"twice.*the_report\.log"):
            answer.result()


def test_a_stream_is_not_started_over_once_a_piece_was_sent(played: PlayedLane) -> None:
    played.say(state="ready", last_failure={"generation": 1, "report": "r.log"})
    with ThreadPoolExecutor() as pool:
        stream = played.lane().stream(completion(), Watch(soon()))
        first = pool.submit(next, stream)
        connection, _ = played.take()
        framing.send(connection, {"event": "piece", "text": "Once"})
        assert first.result() == Piece("Once")
        connection.close()
        with pytest.raises(ModelCrashed):
            next(stream)


def test_a_worker_that_dies_before_it_has_the_call_costs_no_try(played: PlayedLane) -> None:
    lane = played.lane()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lane.complete, completion(), Watch(soon()))
        for _ in range(3):
            played.listener.accept()[0].close()
        connection, _ = played.take()
        framing.send(connection, DONE)
        assert answer.result().text == ""
    assert lane.status()["retried"] == 0


def test_a_stop_closes_the_connection_of_a_stream_that_is_left(played: PlayedLane) -> None:
    with ThreadPoolExecutor() as pool:
        lane = played.lane()
        stream = lane.stream(completion(), Watch(soon()))
        first = pool.submit(next, stream)
        connection, _ = played.take()
        framing.send(connection, {"event": "piece", "text": "Once"})
        first.result()
        stream.close()
        connection.settimeout(20)
        assert connection.recv(1) == b""
        assert lane.status()["active"] == 0


@pytest.mark.parametrize(
    ("watch", "error"),
    [(lambda: Watch(time.monotonic() + 0.3), DeadlinePassed),
     (lambda: Watch(soon(), client_gone=lambda: True), ClientGone),
     (lambda: Watch(soon(), stopping=lambda: True), LaneUnavailable)])
@pytest.mark.parametrize("text", ["Hello", LARGE], ids=["small", "large"])
def test_a_waiting_call_ends_when_its_time_its_client_or_the_service_does(
    played: PlayedLane, watch: Any, error: type[Exception], text: str
) -> None:
    """A large one has filled its socket, and nobody reads."""
    lane = played.lane()
    with pytest.raises(error):
        lane.complete(completion(text), watch())
    assert lane.status()["queue"] == 0


def test_a_call_to_a_lane_that_fails_to_start_is_told_why_at_once(played: PlayedLane) -> None:
    played.say(state="failing", reason="the file is no model", last_failure={"report": "r.log"})
    with pytest.raises(LaneUnavailable, match=r"the file is no model.*r\.log"):
        played.lane().complete(completion(), Watch(soon()))


def test_a_lane_that_still_loads_is_unavailable_when_the_deadline_passes(played: PlayedLane) -> None:
    played.say(state="loading")
    with pytest.raises(LaneUnavailable, match="loading"):
        played.lane().complete(completion(), Watch(time.monotonic() + 0.3))


def test_calls_beyond_the_queue_limit_are_refused_and_places_are_given_back(played: PlayedLane) -> None:
    lane = played.lane(queue_limit=2)
    gone = threading.Event()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(lane.complete, completion(), Watch(soon(), client_gone=gone.is_set)) for _ in range(3)]
        until(lambda: lane.status()["queue"] == 3)
        with pytest.raises(QueueFull):
            lane.complete(completion(), Watch(soon()))
        gone.set()
        for answer in waiting:
            with pytest.raises(ClientGone):
                answer.result()
    assert lane.status()["queue"] == 0
