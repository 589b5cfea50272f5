"""The access log: one line per request in the common form, which no client can forge."""

from __future__ import annotations

import re

import pytest
from web_rig import KEY, eventually, http_post, serving

from mayfly.http import access_log

# host ident authuser [date] "request" status bytes
COMMON = re.compile(r'(\S+) - - \[(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\] '
                    r'"([^"\\]|\\x[0-9a-f]{2})*" (\d{3}) (\d+|-)')


def logged(*requests: bytes) -> list[str]:
    with serving() as service:
        for count, request in enumerate(requests, 1):
            service.raw(request)
            eventually(lambda count=count: len(service.lines) == count)
        return list(service.lines)


def get(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *lines, b"", b""])


def test_each_request_has_one_line_in_the_common_form() -> None:
    lines = logged(get(b"/v1/models"), get(b"/nothing"), b"nonsense\r\n\r\n",
                   http_post("/embed", b'{"input": "x"}', "Connection: close"),
                   http_post("/embed", b"{", "Connection: close"),
                   http_post("/gpt4all_api", b'{"prompt": "x", "stream": true}'))
    assert all(COMMON.fullmatch(line) for line in lines)
    assert [re.sub(r"^.*?\] | \S+$", "", line) for line in lines] == [
        '"GET /v1/models HTTP/1.1" 200', '"GET /nothing HTTP/1.1" 404', '"-" 400', '"POST /embed HTTP/1.1" 200',
        '"POST /embed HTTP/1.1" 400', '"POST /gpt4all_api HTTP/1.1" 200']
    assert all(int(line.rsplit(" ", 1)[1]) > 0 for line in lines)


def test_both_pipelined_requests_have_a_line() -> None:
    with serving() as service:
        service.raw(http_post("/embed", b'{"input": "x"}') + get(b"/v1/models"))
        eventually(lambda: len(service.lines) == 2)
        assert '"POST /embed HTTP/1.1" 200' in service.lines[0]
        assert '"GET /v1/models HTTP/1.1" 200' in service.lines[1]


def test_probes_that_succeed_have_no_line_and_those_that_fail_have_one() -> None:
    with serving() as service:
        for target in (b"/health", b"/ready/", b"/metrics?x=1", b"/ready"):
            for method in (b"GET", b"HEAD"):
                service.raw(get(target).replace(b"GET", method, 1))
        service.chat.is_ready = False
        service.raw(get(b"/ready"))
        service.raw(get(b"/health").replace(b"GET", b"POST", 1))
        eventually(lambda: len(service.lines) == 2)
        assert '"GET /ready HTTP/1.1" 503' in service.lines[0]
        assert '"POST /health HTTP/1.1" 405' in service.lines[1]
        # They are counted all the same.
        assert b'{method="HEAD",route="/ready",status="200"} 2.0' in service.request("GET", "/metrics")[2]


@pytest.mark.parametrize("target", [
    b'/x"%20200%205\n127.0.0.1', b'/x" 200 5', b"/\x1b[2J\x1b[31m", b"/\x07\x08\x00", b"/a\rb", b"/\\x0a",
    b"/\xe2\x80\xae", b"/%0d%0a127.0.0.1%20-%20-", b"/\x85\xff", b'/"', b"/\x7f",
])
def test_line_cannot_be_forged(target: bytes) -> None:
    for method in (b"GET", b"G'ET", b"X" * 500):
        (line,) = logged(get(target).replace(b"GET", method, 1))
        assert COMMON.fullmatch(line), line
        assert line.isascii()
        assert line.isprintable()


def test_query_and_credentials_are_left_out() -> None:
    for target in (b"/ping?key=S3CRET", b"/ping#S3CRET", b"http://user:S3CRET@localhost/ping",
                   b"http://localhost?S3CRET"):
        (line,) = logged(get(target, b"Authorization: Bearer " + KEY.encode(), b"Cookie: S3CRET", b"Referer: S3CRET",
                             b"User-Agent: S3CRET"))
        assert "S3CRET" not in line
        assert KEY not in line


def test_long_parts_are_cut() -> None:
    (line,) = logged(get(b"/" + b"\xff" * 50_000))
    assert len(line) < 2000
    assert COMMON.fullmatch(line)


def test_keys_and_texts_reach_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    lines = logged(
        http_post("/embed", b'{"input": "S3CRET"}', f"Authorization: Bearer {KEY}", "Connection: close"),
        http_post("/embed", b'{"input": "S3CRET"}', f"Authorization: Bearer {KEY}x", "Connection: close"),
        http_post("/gpt4all_api", b'{"prompt": "S3CRET", "S3CRETFIELD": 1}', "Connection: close"),
        http_post("/gpt4all_api", b'{"prompt": "S3CRET", "persona": "S3CRET"}', "Connection: close"))
    printed = capfd.readouterr()
    everything = "\n".join(lines) + printed.out + printed.err
    assert KEY not in everything
    assert "S3CRET" not in everything


def test_line_of_an_unfinished_request_line() -> None:
    line = access_log.line("127.0.0.1", None, None, None, 408, 0, 0.0)
    assert COMMON.fullmatch(line)
    assert line.endswith('"-" 408 -')
