"""HTTP as bytes: whatever arrives, the answer is JSON, and the limits are exact."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from waitress.adjustments import Adjustments
from web_rig import KEY, Service, answers, eventually, http_post, one_answer, read_all, serving

from mayfly.http.request import Request
from mayfly.http.server import MAX_HEADERS

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


POSTED = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
CHUNKED = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n" \
          b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "binary": (bytes(range(256)) + b"\r\n\r\n", 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two blanks": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "escape codes": (b"GET /\x1b[31m\x07 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    "non-ASCII target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: local\rhost\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: localhost\n\n\r\n\r\n", 400),
    # Such heads never end for whoever looks for CR LF; what isn't answered before is a 408.
    "nothing but LF": (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    "nothing but LF, and a body": (b"POST /embed HTTP/1.1\nHost: localhost\nContent-Length: 2\n\n{}", 400),
    "nothing but CR": (b"GET / HTTP/1.1\rHost: localhost\r\r", 400),
    "LF in a later line": (b"GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n", 400),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 405),
    "a tunnel to a path": (b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
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
    "LF after a chunk's size": (CHUNKED + b"2\n{}\n0\n\n", 400),
    "LF after a chunk": (CHUNKED + b"2\r\n{}\n", 400),
    "LF after a whole chunk": (CHUNKED + b"2\r\n{}\r\n0\n\n", 400),
    "CR after a chunk's size": (CHUNKED + b"2\r{}\r", 400),
    "LF after the last chunk": (CHUNKED + b"2\r\n{}\r\n0\r\n\n", 400),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
    "one long header": (b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEADERS, 431),
    "long target": (b"GET /" + b"a" * MAX_HEADERS, 431),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "unknown version": (b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
    "version before 1.0": (b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n", 505),
    "no version": (b"GET /health\r\n\r\n", 400),
    "CR before the line's end": (b"GET /health HTTP/1.1\r\r\nHost: localhost\r\n\r\n", 400),
    "blank after the version": (b"GET /health HTTP/1.1 \r\nHost: localhost\r\n\r\n", 400),
    "target without a slash": (b"GET health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no Host": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "no Host, but in the target": (b"GET http://localhost/health HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    "the same Host twice": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHOST: localhost\r\n\r\n", 400),
    "the same Host twice in 1.0": (b"GET /health HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "the same length twice": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n"
                              b"\r\nabcde", 400),
    "folded header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
    "header folded by a tab": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n", 400),
    "begun and left": (b"GET / HTTP/1.1\r\nHost: loc", 408),
    "half a body": (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 408),
    "nothing at all": (b"", 408),
    "blank lines": (b"\r\n\r\n\r\n", 408),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_answered_in_json(service: Service, name: str) -> None:
    data, status = MALFORMED[name]
    lines = len(service.lines)
    first = one_answer(service.raw(data))
    assert first.status == status
    error = first.error()
    assert error["type"] == "invalid_request_error"
    assert error["message"].isascii()
    assert first.headers["connection"] == "close"
    eventually(lambda: any(f'" {first.status} ' in line for line in service.lines[lines:]))


@pytest.mark.parametrize(("begun", "told"), [
    (b"GET / HTTP/1.1\r\nX: ", b"HTTP/1.1 431 "), (b"GET / HTTP/1.0\r\nX: ", b"HTTP/1.0 431 "),
    (b"GET /", b"HTTP/1.1 431 ")],
    ids=["1.1", "1.0", "before the version"])
def test_too_large_a_head_is_answered_in_its_own_version(service: Service, begun: bytes, told: bytes) -> None:
    assert service.raw(begun + b"y" * MAX_HEADERS).startswith(told)


def test_malformed_request_is_not_echoed(service: Service) -> None:
    for data in (b"get /S3CRET HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX S3CRET\r\n\r\n",
                 b"GET / HTTP/1.1\r\nX: a\rS3CRET\r\n\r\n", b"GET / HTTP/1.1\r\n S3CRET\r\n\r\n"):
        assert b"S3CRET" not in service.raw(data)


@pytest.mark.parametrize(("head", "right"), [
    (b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n", True),
    (b"POST /embed HTTP/1.1\r\nHost: localhost\nContent-Length: 4\r\n\r\n", False),
    (b"POST /embed HTTP/1.1\r\nHost: localhost\rContent-Length: 4\r\n\r\n", False),
    (CHUNKED + b"3\r\nabc\r\n4\r\n\n{\r}\r\n0\r\nX: y\r\n\r\n", True),
    (CHUNKED + b"3\nabc\r\n0\r\n\r\n", False), (CHUNKED + b"3\r\nabc\n0\r\n\r\n", False),
    (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\r\n\r\n", False), (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\nZ: a\r\n\r\n", False)],
    ids=["CR LF", "LF", "CR", "chunks", "LF in a chunk's line", "LF after a chunk", "CR in a trailer",
         "LF in a trailer"])
def test_a_half_line_end_is_found_wherever_it_is_cut_and_is_no_fault_of_a_body(head: bytes, right: bool) -> None:
    data = head + b"\n{\r}" * (b"Content-Length" in head)
    for cut in range(1, len(data)):
        request = Request(Adjustments(max_request_body_size=100))
        parts = [data[:cut], data[cut:]]
        while parts and not request.completed:
            parts[0] = parts[0][request.received(parts[0]):]
            parts = [part for part in parts if part]
        assert request.completed and (request.error is None) is right, cut


def test_whoever_takes_the_service_for_a_proxy_is_told_that_it_is_none(service: Service) -> None:
    answer = one_answer(service.raw(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"))
    assert answer.error()["code"] == "method_not_allowed" and answer.headers["allow"] == ""
    assert "CONNECT" in answer.error()["message"] and "no proxy" in answer.error()["message"]


def chunked(body: bytes, size: int) -> bytes:
    chunks = [body[start:start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def body_of(size: int) -> bytes:
    return b'{"input": "%s"}' % (b"a" * (size - 13))


@pytest.mark.parametrize("lines", [
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: identity, chunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: deflate", b"Transfer-Encoding:", b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,", b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked;q=1", b'Transfer-Encoding: "chunked"', b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked\r\n , chunked",
    b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 14", b"Content-Length: 14\r\nTransfer-Encoding: chunked"])
def test_anything_but_one_chunked_is_refused_and_what_follows_is_not_read(service: Service, lines: bytes) -> None:
    embeds = len(service.embed.calls)
    data = POSTED + b"Content-Type: application/json\r\n" + lines + b"\r\n\r\n" + chunked(b'{"input": "x"}', 14)
    answer = one_answer(service.raw(data + http_post("/embed", b'{"input": "x"}')))
    assert answer.status in (400, 501)
    assert answer.error()["code"] in ("malformed_request", "transfer_encoding_not_implemented")
    assert answer.headers["connection"] == "close"
    assert len(service.embed.calls) == embeds


@pytest.mark.parametrize(("lines", "status"), [
    (["Content-Type: application/json", "Content-Type: application/json"], 200),
    (["Content-Type: application/json", "content-type: Application/JSON; charset=utf-8"], 200),
    (["Content-Type: application/json, application/json"], 200),
    (["Content-Type: application/json; profile=\"a,b\""], 200),
    (["Content-Type: application/json", "Content-Type: text/plain"], 415),
    (["Content-Type: application/json; charset=utf-8", "Content-Type: text/plain"], 415),
    (["Content-Type: application/json", "Content-Type:"], 415),
    (["Content-Type: application/json", "Content-Encoding:"], 200),
    (["Content-Type: application/json", "Content-Encoding: "], 200),
    (["Content-Type: application/json", "Content-Encoding: identity", "Content-Encoding: identity"], 200),
    (["Content-Type: application/json", "Content-Encoding: gzip"], 415),
    (["Content-Type: application/json", "Content-Encoding: identity, gzip"], 415),
])
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_headers_of_the_body_may_be_said_twice_or_say_nothing(service: Service, path: str, lines: list[str],
                                                              status: int) -> None:
    body = b'{"input": "x"}'
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *lines]
    assert one_answer(service.raw("\r\n".join(head).encode() + b"\r\n\r\n" + body)).status == status


UPGRADES = {
    "HTTP/2": ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"],
    "HTTP/2, and it closes": ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings, close", "HTTP2-Settings: AAMAAABk"],
    "WebSocket": ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
    "TLS": ["Upgrade: TLS/1.2, HTTP/1.1", "Connection: keep-alive, Upgrade"],
}


@pytest.mark.parametrize("name", UPGRADES)
@pytest.mark.parametrize(("path", "body"), [("/embed", b'{"input": "x"}'), ("/v1/completions", b'{"prompt": "x"}'),
                                            ("/health", None)])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(service: Service, path: str, body: bytes | None,
                                                                       name: str) -> None:
    lines = UPGRADES[name]
    request = http_post(path, body, *lines) if body is not None else "\r\n".join(
        [f"GET {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
    # The connection goes on as it is, unless the client closes it.
    data = request if "close" in lines[1] else request + http_post("/embed", b'{"input": "x"}', "Connection: close")
    found = answers(service.raw(data))
    assert [answer.status for answer in found] == [200] * (1 if "close" in lines[1] else 2)
    assert all("upgrade" not in answer.headers for answer in found)


@pytest.mark.parametrize("line", ["Connection: TE, close", "Connection: close, TE", "Connection: Keep-Alive, Close"])
def test_a_client_that_closes_may_say_so_among_other_things(service: Service, line: str) -> None:
    assert one_answer(service.raw(http_post("/embed", b'{"input": "x"}', line, "TE: trailers"))).status == 200


def test_later_versions_of_http_1_are_served_as_1_1(service: Service) -> None:
    data = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.3") + chunked(b'{"input": "x"}', 5)
    assert one_answer(service.raw(data)).status == 200


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


def test_client_that_connects_and_leaves_is_nothing(service: Service) -> None:
    lines = len(service.lines)
    with service.connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    service.raw(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    eventually(lambda: len(service.lines) > lines)
    assert '"GET /ping HTTP/1.1" 404' in service.lines[lines]


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
        answer = one_answer(other.raw(http_post("/gpt4all_api", b'{"prompt": "x"}', "Connection: close")))
        assert (answer.status, answer.error()["code"]) == (500, "internal_error")
        assert other.healthy()
    printed = capfd.readouterr().err
    assert f"request {answer.headers['x-request-id']} failed: SystemExit" in printed
    assert "web_rig.py" in printed
