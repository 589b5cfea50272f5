"""embed_client.py reading a completion piece by piece."""

from __future__ import annotations

import os
import threading

import pytest
from played_service import DONE, Answer, Handler, PlayedService, error, event, stream, vector_of

from embed_client import Client, MayflyError, complete


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_ENV", os.devnull)
    monkeypatch.delenv("MAYFLY_API_KEY", raising=False)


END = event(response="", finish_reason="stop", usage={})


def test_pieces_arrive_in_order_without_pings_and_empty_ones() -> None:
    ping = ": ping\n\n"
    pieces = [event(response=piece) for piece in ("Hé", "", "llo 猫")]
    with PlayedService(stream(ping, pieces[0], ping, *pieces[1:], END, DONE)) as service:
        assert list(complete("Hi", url=service.url, stream=True)) == ["Hé", "llo 猫"]
        assert service.requests[0].body == {"prompt": "Hi", "stream": True}


@pytest.mark.parametrize("chunked", [True, False])
def test_a_piece_is_handed_over_before_the_next_one_is_made(chunked: bool) -> None:
    go_on = threading.Event()
    with PlayedService(stream(event(response="first"), go_on, event(response="second"), END, DONE,
                              chunked=chunked)) as service:
        pieces = Client(service.url, timeout=20).complete("Hi", stream=True)
        assert next(pieces) == "first"
        go_on.set()
        assert list(pieces) == ["second"]


def test_characters_and_events_may_be_cut_anywhere_on_their_way() -> None:
    whole = event(response="a") + 'data: {"response": "é猫🙂"}\r\n\r\n' + DONE

    def play(handler: Handler) -> None:
        stream(*(whole[place] for place in range(len(whole))))(handler)

    with PlayedService(play) as service:
        assert list(complete("Hi", url=service.url, stream=True)) == ["a", "é猫🙂"]


def test_a_refusal_is_raised_by_the_call_and_not_by_the_first_piece() -> None:
    with PlayedService(error(400, "prompt must be a string"), Answer(200, {"response": "whole"})) as service:
        with pytest.raises(MayflyError, match="prompt must be a string"):
            complete("Hi", url=service.url, stream=True)
        with pytest.raises(MayflyError, match="isn't mayfly's"):
            complete("Hi", url=service.url, stream=True)


def test_a_busy_service_is_asked_again() -> None:
    pauses: list[float] = []
    with PlayedService(error(429, "busy", Retry_After="1")) as service:
        client = Client(service.url, sleep=pauses.append)
        assert "".join(client.complete("Hi", stream=True)) == "Because it is."
        assert len(pauses) == 1


def test_an_error_event_follows_the_pieces_that_came_before_it() -> None:
    broken = {"message": "the model process died", "type": "server_error", "code": "model_crashed"}
    with PlayedService(stream(event(response="He"), event(error=broken))) as service:
        pieces = complete("Hi", url=service.url, stream=True)
        assert next(pieces) == "He"
        with pytest.raises(MayflyError, match="the model process died") as caught:
            next(pieces)
        assert (caught.value.code, caught.value.request_id) == ("model_crashed", "req-2")


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_without_its_end_is_an_error(chunked: bool) -> None:
    with PlayedService(stream(event(response="He"), chunked=chunked)) as service:
        pieces = complete("Hi", url=service.url, stream=True)
        assert next(pieces) == "He"
        with pytest.raises(MayflyError, match="broke off"):
            next(pieces)


def test_a_connection_cut_within_a_chunk_is_an_error() -> None:
    def play(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                            b"Transfer-Encoding: chunked\r\n\r\nff\r\ndata: {\"resp")
        handler.close_connection = True

    with PlayedService(play) as service, pytest.raises(MayflyError, match="broke off"):
        list(complete("Hi", url=service.url, stream=True))


@pytest.mark.parametrize("data", ["<html>", "5", '{"text": "x"}', '{"error": 1}'])
def test_an_event_that_is_not_mayfly_s_is_quoted(data: str) -> None:
    with PlayedService(stream(f"data: {data}\n\n")) as service, pytest.raises(MayflyError, match="isn't mayfly's"):
        list(complete("Hi", url=service.url, stream=True))


def test_silence_within_a_stream_is_an_error() -> None:
    never = threading.Event()
    with PlayedService(stream(event(response="He"), never)) as service:
        pieces = Client(service.url, timeout=0.3).complete("Hi", stream=True)
        assert next(pieces) == "He"
        with pytest.raises(MayflyError, match=r"was silent for 0\.3 s"):
            next(pieces)
        never.set()


def test_closing_the_iterator_closes_the_connection_and_the_client_stays_usable() -> None:
    gone = threading.Event()

    def play(handler: Handler) -> None:
        try:
            stream(*[event(response="word ")] * 1_000_000)(handler)
        except OSError:
            gone.set()
            raise

    with PlayedService(play) as service:
        client = Client(service.url)
        pieces = client.complete("Hi", stream=True)
        assert next(pieces) == "word "
        pieces.close()  # type: ignore[attr-defined]
        assert gone.wait(120)
        assert client.embed(["a"]) == [vector_of("a")]
