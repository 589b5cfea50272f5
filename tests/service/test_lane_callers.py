"""Connections to the lanes' sockets that bring no request, or half of one: they hold nobody up and break nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import Service, until

from mayfly.compat.sockets import hung_up
from mayfly.wire import framing
from mayfly.wire.address import LaneAddress
from mayfly.wire.calls import CompletionCall, EmbedCall, Piece, Request, TokenizeCall

SMALL = framing.encode(Request(CompletionCall("req_1", text="Hello"), 1e12))
LARGE = framing.encode(Request(CompletionCall("req_1", text="Hello " * 300_000), 1e12))
# What is sent, and by how many at a time: more of the silent than an embedding process takes calls.
KINDS = {"nothing": (b"", 40), "half a head": (SMALL[:6], 5), "a head": (SMALL[:12], 5),
         "half a frame": (SMALL[:60], 5), "half a large frame": (LARGE[:100_000], 5)}

KINDS_OF_CALLS = ("CompletionCall", "EmbedCall", "TokenizeCall")
NONSENSE = (b"GET / HTTP/1.1\r\n\r\n", framing.encode({}), framing.encode({"is": "Request", "deadline": 1}),
            framing.encode(Piece("no request")), framing.encode({"is": "Request", "deadline": "soon"}),
            *(framing.encode({"is": "Request", "deadline": 1e12, "call": call})
              for call in (None, 5, [], *({"is": kind} for kind in KINDS_OF_CALLS),
                           {"is": "EmbedCall", "id": "req_1", "texts": 5, "long_text": "mean"},
                           {"is": "EmbedCall", "id": "req_1", "texts": [5], "long_text": "mean"},
                           {"is": "TokenizeCall", "id": "req_1", "model": None, "texts": []},
                           {"is": "CompletionCall", "id": "req_1", "text": "Hello", "sampling": {"top_k": 1}})),
            # Each of them is a request, but for one lane alone.
            *(framing.encode(Request(call, 1e12)) for call in (EmbedCall("req_1", ()), TokenizeCall("req_1", "", ()))),
            SMALL + SMALL, SMALL + b"more")


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedding_model: Path,
            tiny_model: Path) -> Iterator[Service]:
    """A service with real models, whose isolation is the parameter; all tests leave it as they found it."""
    folder = tmp_path_factory.mktemp("callers")
    for model in (embedding_model, tiny_model):
        (folder / model.name).write_bytes(model.read_bytes())
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "MODEL_NAME": tiny_model.name, "ISOLATION": request.param, "MAX_BODY": "8MB"})
    yield service.wait_ready()
    assert service.reports() == []
    assert service.lane("completion")["restarts"]["crashed"] == service.lane("embedding")["restarts"]["crashed"] == 0
    service.stop()


@contextlib.contextmanager
def _callers(service: Service, sent: bytes, number: int) -> Iterator[list[socket.socket]]:
    """Connect so many callers to each lane's socket, all of which send the same and no more."""
    with contextlib.ExitStack() as stack:
        callers = []
        for path in sorted(service.run_folder.glob("*.sock")):
            for _ in range(number):
                callers.append(stack.enter_context(LaneAddress(str(path)).connect(timeout=120)))
                callers[-1].sendall(sent)
        yield callers


def _tokenize(service: Service) -> int:
    answer = service.post("/v1/tokenize", {"input": "Hello"})
    answer.raise_for_status()
    return int(answer.json()["data"][0]["count"])


@pytest.mark.parametrize("service", ["fork", "respawn", "none"], indirect=True)
def test_a_caller_that_does_not_bring_its_request_holds_nobody_up(service: Service) -> None:
    """Others are answered while it is still connected: nobody waited for it, or for its end."""
    count = _tokenize(service)
    assert len(list(service.run_folder.glob("*.sock"))) == 3  # embeddings, completions, tokens
    for kind, (sent, number) in KINDS.items():
        with _callers(service, sent, number) as callers:
            assert service.complete("Hello")["response"]
            assert len(service.embed(["Hello"])) == 1
            assert _tokenize(service) == count
            assert (kind, sum(map(hung_up, callers)) < len(callers) / 2) == (kind, True)
    assert service.complete("Hello")["response"]
    assert service.reports() == []


@pytest.mark.parametrize("service", ["fork", "none"], indirect=True)
def test_as_many_such_callers_as_there_can_be_break_nothing(service: Service) -> None:
    _tokenize(service)
    with contextlib.ExitStack() as stack:
        for sent, _ in KINDS.values():
            stack.enter_context(_callers(service, sent, 60))
        for _ in range(3):
            assert service.complete("Hello")["response"]
            assert len(service.embed(["Hello"])) == 1
            assert _tokenize(service)
    assert service.reports() == []


@pytest.mark.parametrize("service", ["fork", "none"], indirect=True)
def test_a_caller_that_sends_nonsense_is_hung_up_on_and_kills_nothing(service: Service) -> None:
    _tokenize(service)
    for sent in NONSENSE:
        with _callers(service, sent, 2) as callers:
            for caller in callers:
                until(lambda caller=caller: hung_up(caller), what=f"its end after {sent[:99]!r}")
        assert service.complete("Hello")["response"]
        assert len(service.embed(["Hello"])) == 1
        assert _tokenize(service)
    assert service.reports() == []


@pytest.mark.parametrize("service", ["fork"], indirect=True)
def test_a_large_request_is_served_beside_callers_that_stop_in_the_middle_of_one(service: Service) -> None:
    """It doesn't fit into the socket, so its process takes it before it is whole."""
    with _callers(service, *KINDS["half a large frame"]):
        answer = service.post("/gpt4all_api", {"prompt": "word " * 300_000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert service.complete("Hello")["response"]
    assert service.reports() == []
