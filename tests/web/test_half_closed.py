"""A client that shuts its sending side after its request gets its answer, and one that has left is noticed."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from web_rig import FINISHED, HOLD, ScriptedLane, Service, answers, eventually, http_post, one_answer, read_all, serving

from mayfly.http.pulse import Pulse
from mayfly.wire.calls import Piece

MESSAGES = b'{"messages": [{"role": "user", "content": "x"}]%s}'
ROUTES = {
    "embedding": ("/embed", b'{"input": "x"}'),
    "embeddings": ("/v1/embeddings", b'{"input": ["x", "y"]}'),
    "native": ("/gpt4all_api", b'{"prompt": "x"}'),
    "native stream": ("/gpt4all_api", b'{"prompt": "x", "stream": true}'),
    "completions": ("/v1/completions", b'{"prompt": "x"}'),
    "several completions": ("/v1/completions", b'{"prompt": ["x", "y"], "n": 2}'),
    "completions stream": ("/v1/completions", b'{"prompt": "x", "stream": true}'),
    "completion": ("/v1/chat/completions", MESSAGES % b""),
    "chat stream": ("/v1/chat/completions", MESSAGES % b', "stream": true'),
    "wrong": ("/embed", b"{}"),
    "unknown path": ("/nothing", b"{}"),
}


@contextlib.contextmanager
def held() -> Iterator[Service]:
    """Run a server whose lanes hold every call until they are told to go on."""
    lanes = ScriptedLane("completion"), ScriptedLane("embedding")
    for lane in lanes:
        lane.hold()
    with serving(*lanes) as service:
        yield service


def asked(service: Service) -> bool:
    """Tell whether a lane holds a call."""
    return service.chat.held + service.embed.held > 0


def without_ids(data: bytes) -> bytes:
    """Return an answer's status and body without what differs between two answers of the same kind."""
    answer = one_answer(data)
    body = answer.body.replace(b": ping\n\n", b"")
    events = [json.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n")
              if event.startswith(b"data: {")] or [json.loads(body)]
    for event in events:
        for name in ("id", "created"):
            event.pop(name, None)
    return json.dumps([answer.status, events]).encode()


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_client_that_shuts_its_side_gets_the_answer_it_would_have_got(name: str, version: bytes) -> None:
    request = http_post(*ROUTES[name], "Connection: close")
    with held() as service:
        with service.connect() as sock:
            sock.sendall(request.replace(b"HTTP/1.1", version))
            sock.shutdown(socket.SHUT_WR)
            if ROUTES[name][1] != b"{}":
                # The answer has begun before there is one.
                assert sock.recv(1, socket.MSG_PEEK) == b"H"
                eventually(lambda: asked(service))
                assert not service.lines
            service.chat.release()
            service.embed.release()
            data = read_all(sock)
        usual = service.raw(request)
        if version == b"HTTP/1.1" or b"stream" not in request:
            assert without_ids(data) == without_ids(usual)
            assert data.startswith(version)
        else:
            assert data.endswith(b"data: [DONE]\n\n")
        eventually(lambda: len(service.lines) == 2)
        statuses = {line.partition('" ')[2].split()[0] for line in service.lines}
        assert statuses == {str(one_answer(usual).status)}


@pytest.mark.parametrize(("data", "statuses"), [
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", [200]),
    (b"nonsense\r\n\r\n", [400]),
    (b"GET /health HTT", [400]),
    (http_post("/embed", b'{"input": "x"}')[:-3], [400]),
    (http_post("/embed", b"a" * 9000), [413]),
    (http_post("/embed", b'{"input": "x"}') * 3, [200, 200, 200]),
    (http_post("/gpt4all_api", b'{"prompt": "x"}') + http_post("/embed", b'{"input": "x"}')[:-3], [200, 400]),
    (http_post("/gpt4all_api", b'{"prompt": "x"}') + b"GET /health HTT", [200, 400]),
])
def test_whatever_was_sent_before_the_side_was_shut_is_answered(data: bytes, statuses: list[int]) -> None:
    with serving(MAX_BODY="4096") as service, service.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in answers(read_all(sock))] == statuses


@pytest.mark.parametrize("name", [name for name, (_, body) in ROUTES.items() if body != b"{}"])
def test_a_client_that_shut_its_side_and_leaves_later_ends_its_call(name: str) -> None:
    with held() as service:
        with service.connect() as sock:
            sock.sendall(http_post(*ROUTES[name]))
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"H"
            eventually(lambda: asked(service))
        eventually(lambda: not asked(service))
        eventually(lambda: len(service.lines) == 1)
        assert '" 499 ' in service.lines[0]


def test_a_client_that_leaves_while_its_pipelined_requests_wait_ends_its_call() -> None:
    with held() as service:
        with service.connect() as sock:
            # So many that the server doesn't read on before the first is answered.
            sock.sendall(http_post("/gpt4all_api", b'{"prompt": "x"}') * 40)
            eventually(lambda: asked(service))
        eventually(lambda: not asked(service))
        assert len(service.chat.calls) == 1


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_stream_whose_reader_shut_its_side_goes_on_and_one_whose_reader_left_ends(version: bytes) -> None:
    chat = ScriptedLane(items=[Piece("one"), HOLD, Piece("two"), FINISHED])
    request = http_post("/gpt4all_api", b'{"prompt": "x", "stream": true}').replace(b"HTTP/1.1", version)
    with serving(chat) as service:
        for leaves in (False, True):
            with service.connect() as sock:
                sock.sendall(request)
                eventually(lambda: chat.held == 1)
                sock.shutdown(socket.SHUT_WR)
                data = b""
                while not data.rstrip(b"\r\n").endswith(b": ping"):
                    data += sock.recv(65536)
                if not leaves:
                    chat.release()
                    data += read_all(sock)
                    body = one_answer(data).body if version == b"HTTP/1.1" else data.partition(b"\r\n\r\n")[2]
                    events = [event for event in body.split(b"\n\n") if event != b": ping"]
                    assert [event[:20] for event in events] == [
                        b'data: {"response": "', b'data: {"response": "', b'data: {"response": "', b"data: [DONE]", b""]
            eventually(lambda: not chat.held)
        eventually(lambda: len(service.lines) == 2)
        assert ['" 200 ' in service.lines[0], '" 499 ' in service.lines[1]] == [True, True]


def test_signs_and_what_follows_make_up_the_answer() -> None:
    pulse = Pulse()
    answer = b"HTTP/1.1 200 OK\r\n\r\n"
    for count in (0, 1, 3, 7, 20):
        pulse.open()
        signs = [pulse.sign(now) for now in range(0, 10_000 * count, 10_000)]
        assert b"".join(signs) + pulse.rest(answer) == answer
        assert all(len(sign) <= 1 for sign in signs)
        pulse.allow(b": ping\n\n")
        assert pulse.sign(1e9) == b": ping\n\n"
        assert pulse.sign(1e9) == b""
        assert bytes(pulse.rest(answer)) == answer
        pulse.close()
        assert pulse.sign(2e9) == b""
