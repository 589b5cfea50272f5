"""HTTP as bytes: whatever arrives, the answer is JSON, and the limits are exact."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from web_rig import KEY, Service, answers, eventually, http_post, one_answer, read_all, serving

from mayfly.web.server import MAX_HEADERS

MAX_BODY = 4096


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(MAX_BODY=str(MAX_BODY), RECEIVE_TIMEOUT="1") as running:
        yield running


@pytest.fixture(autouse=True)
def _unharmed(service: Service, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert service.healthy()
    assert "Traceback" not in capfd.readouterr().err


MALFORMED = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "binary": (bytes(range(256)) + b"\r\n\r\n", 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
    "two blanks": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "escape codes": (b"GET /\x1b[31m\x07 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", None),
    "non-ASCII target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", None),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: local\rhost\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: localhost\n\n\r\n\r\n", 400),
    "header without colon": (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
    "blank before colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "empty header name": (b"GET / HTTP/1.1\r\n: localhost\r\n\r\n", 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n", 400),
    "folded first header": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "unclosed IPv6 target": (b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "negative length": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    "length that is no number": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: ten\r\n\r\n", 400),
    "plus length": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nabcde", 400),
    "two lengths": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
                    400),
    "length of 5,000 digits": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 +
                               b"\r\n\r\n", 400),
    "length and chunked": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in 1.0": (b"POST /embed HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "other coding": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "coding after chunked": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
                             501),
    "chunk size that is no number": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                                     b"xyz\r\n", 400),
    "negative chunk": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    "unterminated chunk": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                           b"2\r\nabcd\r\n0\r\n\r\n", 400),
    "chunk of 2^64": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                      b"ffffffffffffffff\r\nx", 413),
    "endless chunk line": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" +
                           b"1" * 5000, 400),
    "endless trailer": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" +
                        b"x" * 9000, 400),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
    "one long header": (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEADERS, 431),
    "long target": (b"GET /" + b"a" * MAX_HEADERS, 431),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
    "unknown version": (b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", None),
    "no version": (b"GET /health\r\n\r\n", None),
    "begun and left": (b"GET / HTTP/1.1\r\nHost: loc", 408),
    "half a body": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 408),
    "nothing at all": (b"", 408),
    "blank lines": (b"\r\n\r\n\r\n", 408),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_answered_in_json(service: Service, name: str) -> None:
    data, status = MALFORMED[name]
    lines = len(service.lines)
    first, *others = answers(service.raw(data))
    assert not others
    assert status in (None, first.status)
    if first.status != 200:
        error = first.error()
        assert first.status >= 400
        assert error["type"] in ("invalid_request_error", "not_found_error", "permission_error", "server_error")
        assert error["message"].isascii()
    assert first.headers["connection"] == "close"
    eventually(lambda: any(f'" {first.status} ' in line for line in service.lines[lines:]))


def test_malformed_request_is_not_echoed(service: Service) -> None:
    for data in (b"get /S3CRET HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX S3CRET\r\n\r\n",
                 b"GET / HTTP/1.1\r\nX: a\rS3CRET\r\n\r\n", b"GET / HTTP/1.1\r\n S3CRET\r\n\r\n"):
        assert b"S3CRET" not in service.raw(data)


def chunked(body: bytes, size: int) -> bytes:
    chunks = [body[start:start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def body_of(size: int) -> bytes:
    return b'{"input": "%s"}' % (b"a" * (size - 13))


CHUNKED = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n" \
          b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("chunk", [None, 1, 7, 4000, 100_000])
def test_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(service: Service, chunk: int | None) -> None:
    for size, status in ((MAX_BODY - 1, 200), (MAX_BODY, 200), (MAX_BODY + 1, 413), (MAX_BODY + 2, 413)):
        body = body_of(size)
        assert len(body) == size
        data = http_post("/embed", body, "Connection: close") if chunk is None else CHUNKED + chunked(body, chunk)
        answer = one_answer(service.raw(data))
        assert answer.status == status
        if status == 413:
            assert answer.error()["code"] == "body_too_large"


def test_answer_to_a_huge_body_survives_a_client_that_sends_it_all_first(service: Service) -> None:
    # Sent whole before the answer is read: an early close would be a reset, and the answer lost.
    body = b"a" * (3 * MAX_BODY)
    for data in (http_post("/embed", body), CHUNKED + chunked(body, 1000)):
        with service.connect() as sock:
            for start in range(0, len(data), 1000):
                sock.sendall(data[start:start + 1000])
            sock.shutdown(socket.SHUT_WR)
            assert one_answer(read_all(sock)).status == 413


def test_endless_body_is_cut_off(service: Service) -> None:
    with service.connect() as sock:
        sock.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        sent = 0
        with pytest.raises(OSError):  # noqa: PT012
            while True:
                sock.sendall(b"a" * 65536)
                sent += 65536
                assert sent < 1 << 28


def test_framing_of_chunks_is_bounded_too(service: Service) -> None:
    extended = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    answer = one_answer(service.raw(CHUNKED + extended * 120))
    assert answer.status == 413


def test_expect_continue(service: Service) -> None:
    body = b'{"input": "x"}'
    with service.connect() as sock:
        sock.sendall(http_post("/embed", b"", "Connection: close", "Expect: 100-continue")
                     .replace(b"Content-Length: 0", b"Content-Length: %d" % len(body)))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert one_answer(read_all(sock)).status == 200


def test_expect_continue_with_the_body_at_once(service: Service) -> None:
    data = service.raw(http_post("/embed", b'{"input": "x"}', "Connection: close", "Expect: 100-continue"))
    assert [answer.status for answer in answers(data)] in ([200], [100, 200])


def test_expect_continue_without_a_body(service: Service) -> None:
    data = service.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n")
    assert one_answer(data).status == 200


@pytest.mark.parametrize(("line", "status"), [("Content-Length: 5000", 413), ("Via: x\r\nContent-Length: 50", 401)])
def test_refused_body_is_never_asked_for(service: Service, line: str, status: int) -> None:
    head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{line}\r\n\r\n"
    assert one_answer(service.raw(head.encode())).status == status


@pytest.mark.parametrize(("data", "status"), [
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (http_post("/embed", b'{"input": "x"}'), None),
    (http_post("/embed", b"{}"), 400),
    (b"nonsense\r\n\r\n", 400),
    (b"GET /health HTT", 400),
    (http_post("/embed", b'{"input": "x"}')[:-3], 400),
    (http_post("/embed", b"a" * 3 * MAX_BODY), 413),
])
def test_client_that_shuts_its_side_after_the_request_is_answered(service: Service, data: bytes, status: int | None
                                                                 ) -> None:
    with service.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = one_answer(read_all(sock))
    # A model's work for such a client may be cancelled: it looks as if it had gone.
    assert answer.status == status if status is not None else answer.status in (200, 499)


def test_client_that_connects_and_leaves_is_nothing(service: Service) -> None:
    lines = len(service.lines)
    with service.connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert service.healthy()
    eventually(lambda: len(service.lines) > lines)
    assert '"GET /health HTTP/1.1" 200' in service.lines[lines]


def test_two_pipelined_requests_are_answered_in_order(service: Service) -> None:
    data = http_post("/embed", b'{"input": "x"}', "X-Request-Id: first")
    data += http_post("/gpt4all_api", b'{"prompt": "x"}', "X-Request-Id: second", "Connection: close")
    both = answers(service.raw(data))
    assert [(answer.status, answer.headers["x-request-id"]) for answer in both] == [(200, "first"), (200, "second")]


def test_many_pipelined_requests_are_answered_in_order(service: Service) -> None:
    data = b"".join(http_post("/embed", b'{"input": "x"}', f"X-Request-Id: {n}") for n in range(50))
    data += b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    found = answers(service.raw(data))
    assert [answer.headers["x-request-id"] for answer in found[:-1]] == [str(n) for n in range(50)]
    assert len(found) == 51


def test_nothing_is_read_after_a_malformed_request(service: Service) -> None:
    embeds = len(service.embed.calls)
    data = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n" + http_post("/embed",
                                                                                            b'{"input": "x"}')
    assert one_answer(service.raw(data)).status == 400
    assert len(service.embed.calls) == embeds


def test_error_after_a_good_pipelined_request_comes_second(service: Service) -> None:
    data = http_post("/embed", b'{"input": "x"}') + b"nonsense\r\n\r\n"
    assert [answer.status for answer in answers(service.raw(data))] == [200, 400]


def test_keep_alive_carries_many_requests_and_errors_of_the_application(service: Service) -> None:
    with service.connect() as sock:
        reader = sock.makefile("rb")
        for body, status in ((b'{"input": "x"}', 200), (b"{}", 400), (b'{"input": "y"}', 200)):
            sock.sendall(http_post("/embed", body))
            assert reader.readline() == {200: b"HTTP/1.1 200 OK\r\n", 400: b"HTTP/1.1 400 Bad Request\r\n"}[status]
            length = 0
            while (line := reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            json.loads(reader.read(length))


@pytest.mark.parametrize(("line", "kept"), [("Connection: keep-alive", True), ("X: y", False)])
def test_http_1_0(service: Service, line: str, kept: bool) -> None:
    request = f"GET /health HTTP/1.0\r\nHost: localhost\r\n{line}\r\n\r\n".encode()
    with service.connect() as sock:
        sock.sendall(request)
        if kept:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(65536)
            assert b"Connection: Keep-Alive" in head
            sock.sendall(request.replace(line.encode(), b"Connection: close"))
        assert b"HTTP/1.0 200 OK" in read_all(sock)


def test_stream_over_http_1_0_ends_with_the_connection(service: Service) -> None:
    body = b'{"prompt": "x", "stream": true}'
    data = service.raw(http_post("/gpt4all_api", body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, content = data.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert content.startswith(b"data: {")
    assert content.endswith(b"data: [DONE]\n\n")


def test_absolute_target_is_served(service: Service) -> None:
    data = service.raw(b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert one_answer(data).status == 200


def test_underscores_stand_for_no_header(service: Service) -> None:
    # Some proxies pass X_Forwarded_For on as X-Forwarded-For; it must count as neither.
    raw = f"GET /nothing HTTP/1.1\r\nHost: localhost\r\nVia: x\r\nConnection: close\r\nX_y: z\r\n" \
          f"Authorization_: Bearer {KEY}\r\n\r\n"
    assert one_answer(service.raw(raw.encode())).status == 401


def test_large_answer_arrives_whole() -> None:
    with serving(MAX_BODY="8MB") as big:
        status, _, body = big.request("POST", "/embed", json.dumps({"input": ["x"] * 2048}).encode(),
                                      Content_Type="application/json")
        assert status == 200
        assert len(json.loads(body)["data"]) == 2048
        body = b'{"input": ["%s"]}' % (b"a" * ((8 << 20) - 15))
        assert len(body) == 8 << 20
        assert big.request("POST", "/embed", body, Content_Type="application/json")[0] == 200


def test_body_that_finds_no_room_on_disk_is_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(MAX_BODY="8MB") as big, monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", "/nowhere/at/all")
        for data in (http_post("/embed", body_of(2 << 20)), CHUNKED + chunked(body_of(2 << 20), 1 << 16)):
            answer = one_answer(big.raw(data))
            assert answer.status == 503
            assert answer.headers["retry-after"]
        assert big.post("/embed", {"input": "x"})[0] == 200


def test_application_that_ends_the_process_ends_one_request_alone(service: Service,
                                                                 capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as other:
        other.chat.fails = SystemExit(1)  # type: ignore[assignment]
        answer = one_answer(other.raw(http_post("/gpt4all_api", b'{"prompt": "x"}')))
        assert (answer.status, answer.error()["code"]) == (500, "internal_error")
        assert other.healthy()
    capfd.readouterr()
