"""embed_client.py when the service is busy, gone, something else, or breaks off."""

from __future__ import annotations

import email.utils
import os
import socket
import time
from collections.abc import Callable

import pytest
from played_service import Answer, Handler, PlayedService, error, vector_of

from embed_client import Client, MayflyError

PAGE = Answer(502, b"<html><head><title>502 Bad Gateway</title></head>" + b"<p>sorry</p>" * 100)


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAYFLY_URL", "MAYFLY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAYFLY_ENV", os.devnull)


def played(service: PlayedService, **options: float) -> tuple[Client, list[float]]:
    """Return a client and the list of the pauses that it makes (without making them)."""
    pauses: list[float] = []
    return Client(service.url, sleep=pauses.append, **options), pauses  # type: ignore[arg-type]


def failure(client: Client) -> MayflyError:
    with pytest.raises(MayflyError) as caught:
        client.embed(["a"])
    return caught.value


def test_busy_and_starting_services_are_asked_again_after_the_time_they_name() -> None:
    answers = error(429, "queue is full", Retry_After="2"), error(503, "loading", Retry_After="7")
    with PlayedService(*answers) as service:
        client, pauses = played(service)
        assert client.embed(["a"]) == [vector_of("a")]
        assert len(service.requests) == 3
        assert [2 < pauses[0] < 3.5, 7 < pauses[1] < 8.5] == [True, True]


def test_a_date_in_retry_after_is_understood() -> None:
    later = email.utils.formatdate(time.time() + 20, usegmt=True)
    past = "Wed, 21 Oct 2015 07:28:00 -0000"
    with PlayedService(error(503, "x", Retry_After=later), error(503, "x", Retry_After=past)) as service:
        client, pauses = played(service)
        client.embed(["a"])
        # A slow machine only shortens the first.
        assert 0 < pauses[0] < 22
        assert 0 < pauses[1] < 1


def test_pauses_are_not_the_same_for_every_client() -> None:
    with PlayedService(*[error(429, "x", Retry_After="1")] * 6) as service:
        client, pauses = played(service)
        client.embed(["a"])
        assert len(set(pauses)) == 6


def test_waiting_has_an_end_and_then_the_service_s_own_words_are_the_error() -> None:
    with PlayedService(*[error(429, "64 calls wait already", "queue_full", Retry_After="4")] * 50) as service:
        client, pauses = played(service, retry_seconds=20)
        caught = failure(client)
        assert sum(pauses) <= 20
        assert len(service.requests) == len(pauses) + 1 > 2
    assert (caught.status, caught.code, caught.request_id) == (429, "queue_full", "req-1")
    assert str(caught) == "64 calls wait already (HTTP 429, request req-1)"


def test_a_longer_wait_than_allowed_is_not_begun() -> None:
    with PlayedService(error(503, "restarting", Retry_After="3600")) as service:
        client, pauses = played(service)
        assert failure(client).status == 503
        assert pauses == []


def test_a_503_that_names_no_time_is_asked_again_after_growing_pauses() -> None:
    with PlayedService(Answer(503, b"<h1>upstream</h1>"), error(503, "x", Retry_After="soon")) as service:
        client, pauses = played(service)
        assert client.embed(["a"]) == [vector_of("a")]
        assert 0 < pauses[0] < pauses[1] < 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 500, 504])
def test_other_statuses_are_not_tried_again(status: int) -> None:
    with PlayedService(error(status, "no", "some_code", Retry_After="1")) as service:
        client, pauses = played(service)
        caught = failure(client)
        assert (caught.status, caught.code, pauses, len(service.requests)) == (status, "some_code", [], 1)


def test_a_page_of_html_is_quoted_with_its_status_and_no_more_than_80_characters() -> None:
    for page in (PAGE, Answer(200, PAGE.body)):
        with PlayedService(page) as service:
            caught = failure(played(service)[0])
            assert caught.status == page.status
            assert f"HTTP {page.status}" in str(caught)
            assert "<html><head><title>502 Bad Gateway" in str(caught)
            assert PAGE.body[:81].decode() not in str(caught)


def test_an_answer_cannot_steer_the_terminal() -> None:
    with PlayedService(Answer(200, b"\x1b]0;owned\x07\r\n\xff")) as service:
        assert str(failure(played(service)[0])).isprintable()


@pytest.mark.parametrize("body", [
    {}, [], None, 5, {"data": []}, {"data": [1]}, {"data": [{"index": 0}]},
    {"data": [{"index": 0, "embedding": "AAA="}]},
    {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}]}])
def test_json_that_is_not_mayfly_s_is_an_error_and_no_vector(body: object) -> None:
    with PlayedService(Answer(200, body)) as service:
        assert "isn't mayfly's" in str(failure(played(service)[0]))


@pytest.mark.parametrize("body", [{}, {"error": "text"}, {"error": {}}, ["error"], None])
def test_an_error_in_another_shape_is_quoted(body: object) -> None:
    with PlayedService(Answer(500, body)) as service:
        caught = failure(played(service)[0])
        assert "isn't mayfly's" in str(caught)
        assert caught.status == 500


def test_a_body_that_breaks_off_is_an_error() -> None:
    for answer in (Answer(200, {"data": []}, cut=True), Answer(500, {"error": {}}, cut=True)):
        with PlayedService(answer) as service:
            assert "broke off" in str(failure(played(service)[0]))
            assert len(service.requests) == 1


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere() -> None:
    with PlayedService() as elsewhere, PlayedService(Answer(307, b"", {"Location": elsewhere.url})) as service:
        caught = failure(played(service)[0])
        assert caught.status == 307
        assert elsewhere.url in str(caught)
        assert elsewhere.requests == []


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def test_a_connection_closed_before_the_answer_is_tried_once_more() -> None:
    with PlayedService(hang_up) as service:
        assert played(service)[0].embed(["a"]) == [vector_of("a")]
    with PlayedService(hang_up, hang_up) as service:
        assert "closed the connection without an answer" in str(failure(played(service)[0]))
        assert len(service.requests) == 2


def stalled(*sent: bytes) -> Callable[[Handler], None]:
    def play(handler: Handler) -> None:
        for data in sent:
            handler.wfile.write(data)
        handler.rfile.read(1)  # returns when the client has gone

    return play


def test_silence_is_an_error_before_an_answer_and_within_one() -> None:
    for answer in (stalled(), stalled(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")):
        with PlayedService(answer) as service:
            client, _ = played(service, timeout=0.3)
            assert "was silent for 0.3 s" in str(failure(client))
            assert len(service.requests) == 1


def test_no_service_is_said_at_once_with_the_command_that_starts_it() -> None:
    with socket.socket() as held:  # bound but not listening: nobody else gets this port, and nobody answers
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        pauses: list[float] = []
        caught = failure(Client(url, sleep=pauses.append))
    assert str(caught) == f"no mayfly service at {url}: start it with `python3 start.sh` or `mayfly serve`"
    assert (caught.status, pauses) == (None, [])


def test_a_host_that_does_not_exist_is_not_advised_to_be_started_here() -> None:
    caught = failure(Client("http://nowhere.invalid:6008"))
    assert str(caught) == "no mayfly service at http://nowhere.invalid:6008: is the address right?"


def test_a_missing_key_says_where_keys_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with PlayedService(error(401, "this call needs a key", "invalid_api_key")) as service:
        caught = failure(played(service)[0])
        assert "this call needs a key; the key comes from --key" in str(caught)
        assert caught.code == "invalid_api_key"


def test_a_key_that_was_held_back_is_mentioned_when_it_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_API_KEY", "found-key")
    with PlayedService(error(401, "this call needs a key")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)  # so that the call to another machine ends here
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        caught = failure(Client("http://far.example"))
        assert "the key that was found was not sent" in str(caught)
        assert "Authorization" not in proxy.requests[0].headers
