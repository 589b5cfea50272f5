"""Who may call: point by point what a key, a Host, an Origin and a forwarding header do, over real HTTP."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator

import pytest
from web_rig import KEY, Service, serving

from mayfly.errors import AccessDenied, HostNotAllowed
from mayfly.settings import parse
from mayfly.web.access import Access

FORWARDING = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP",
              "CF-Connecting-IP", "True-Client-IP"]
BEARER = f"Bearer {KEY}"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(AUTHORIZED_URLS="https://Mine.ngrok.app, backend") as running:
        yield running


def status_of(service: Service, **headers: str) -> tuple[int, str | None]:
    status, _, answer = service.post("/embed", {"input": "x"}, **headers)
    return status, answer["error"]["code"] if status != 200 else None


@pytest.mark.parametrize("host", ["localhost", "localhost:6008", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:6008",
                                  "127.8.9.10", "[::1]", "[::1]:6008", "mine.ngrok.app", "MINE.ngrok.app:443",
                                  "backend:80"])
def test_direct_call_under_a_name_of_this_machine_needs_no_key(service: Service, host: str) -> None:
    assert status_of(service, Host=host) == (200, None)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "128.0.0.1",
                                  "0.0.0.0", "[::2]", "ngrok.app", "not-mine.ngrok.app", "", "localhost, evil.example",
                                  "evil.example:localhost", "localhost:port", "user@localhost", "localhost/", "[::1",
                                  "xn--lcalhost-ub3e"])
def test_direct_call_under_a_foreign_host_is_403(service: Service, host: str) -> None:
    assert status_of(service, Host=host) == (403, "host_not_allowed")


def test_foreign_host_is_told_what_to_do(service: Service) -> None:
    _, _, answer = service.post("/embed", {"input": "x"}, Host="evil.example")
    assert answer["error"]["type"] == "permission_error"
    assert "AUTHORIZED_URLS" in answer["error"]["message"]
    assert "evil" not in json.dumps(answer)


def test_missing_host_is_400_in_http_1_1_alone(service: Service) -> None:
    request = (b"POST /embed HTTP/%s\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
               b"Connection: close\r\n\r\n")
    assert b" 400 " in service.raw(request % b"1.1" + b'{"input":"x"}').split(b"\r\n")[0]
    assert b" 200 " in service.raw(request % b"1.0" + b'{"input":"x"}').split(b"\r\n")[0]


@pytest.mark.parametrize("origin", ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443",
                                    "http://[::1]:5173", "https://mine.ngrok.app", "http://backend:3000"])
def test_origin_of_this_machine_is_fine(service: Service, origin: str) -> None:
    assert status_of(service, Host="localhost", Origin=origin) == (200, None)


@pytest.mark.parametrize("origin", ["null", "", "https://evil.example", "http://localhost.evil.example", "file://",
                                    "localhost", "http://evil.example@localhost", "http://localhost/evil",
                                    "http://localhost, https://evil.example", "http://[::1", "ftp://localhost"])
def test_foreign_origin_is_403(service: Service, origin: str) -> None:
    assert status_of(service, Host="localhost", Origin=origin) == (403, "host_not_allowed")


@pytest.mark.parametrize("name", FORWARDING)
@pytest.mark.parametrize("value", ["203.0.113.9", "127.0.0.1", "", "for=127.0.0.1;host=localhost"])
def test_forwarded_call_needs_a_key_whatever_the_header_says(service: Service, name: str, value: str) -> None:
    header = {name.replace("-", "_"): value}
    assert status_of(service, **header) == (401, "invalid_api_key")
    assert status_of(service, **header, Authorization=BEARER) == (200, None)


def test_key_lets_in_under_any_host_and_origin(service: Service) -> None:
    headers = {"Host": "evil.example", "Origin": "https://evil.example", "Via": "1.1 proxy"}
    assert status_of(service, **headers, Authorization=BEARER) == (200, None)
    assert status_of(service, Authorization=f"bearer   {KEY}  ") == (200, None)


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x",
                                           f"Bearer {KEY[:-1]}", f"Bearer {KEY} {KEY}", f"Bearer {KEY}, Bearer {KEY}",
                                           "Bearer \xff\xfe\x80", f"Bearer {KEY.upper()}"])
def test_wrong_key_is_401_even_for_a_direct_call(service: Service, authorization: str) -> None:
    status, headers, answer = service.post("/embed", {"input": "x"}, Authorization=authorization)
    assert status == 401
    assert headers["WWW-Authenticate"] == "Bearer"
    assert answer["error"]["type"] == "authentication_error"
    assert answer["error"]["code"] == "invalid_api_key"


def test_missing_wrong_and_unconfigured_keys_are_told_apart(service: Service) -> None:
    def message(running: Service, **headers: str) -> str:
        return str(running.post("/embed", {"input": "x"}, **headers)[2]["error"]["message"])

    missing = message(service, Via="1.1 proxy")
    wrong = message(service, Via="1.1 proxy", Authorization="Bearer nonsense")
    with serving(API_KEYS="") as keyless:
        unconfigured = message(keyless, Via="1.1 proxy")
        pointless = message(keyless, Via="1.1 proxy", Authorization="Bearer nonsense")
    assert "none was sent" in missing
    assert "wrong" in wrong
    assert "API_KEYS is empty" in unconfigured
    assert "API_KEYS is empty" in pointless
    assert not any(KEY in text or "nonsense" in text for text in (missing, wrong, unconfigured, pointless))


def test_require_key_always_asks_direct_callers_too() -> None:
    with serving(REQUIRE_KEY="always") as running:
        assert status_of(running) == (401, "invalid_api_key")
        assert status_of(running, Authorization=BEARER) == (200, None)
        assert json.loads(running.request("GET", "/health")[2]) == {"status": "ok"}


def test_another_machine_needs_a_key() -> None:
    access = Access.of(parse({"API_KEYS": KEY}))
    for peer in ("203.0.113.9", "10.0.0.1", "fe80::1", "::ffff:10.0.0.1", "", "garbage"):
        with pytest.raises(AccessDenied) as refused:
            access.check({"REMOTE_ADDR": peer, "HTTP_HOST": "localhost"})
        assert refused.value.status == 401
        access.check({"REMOTE_ADDR": peer, "HTTP_HOST": "x", "HTTP_AUTHORIZATION": BEARER})
    for peer in ("127.0.0.1", "127.3.4.5", "::1", "::ffff:127.0.0.1"):
        access.check({"REMOTE_ADDR": peer, "HTTP_HOST": "localhost"})
        with pytest.raises(HostNotAllowed):
            access.check({"REMOTE_ADDR": peer, "HTTP_HOST": "evil.example"})


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    access = Access.of(parse({"API_KEYS": f"{KEY}, another-key-1, third-key-22"}))
    monkeypatch.setattr(hmac, "compare_digest", spy)
    access.check({"REMOTE_ADDR": "10.0.0.1", "HTTP_AUTHORIZATION": BEARER})
    assert len(compared) == 3
    assert all(one == other for one, other in compared)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_tells_strangers_one_word(service: Service, path: str) -> None:
    for headers in ({"Via": "1.1 proxy"}, {"Host": "evil.example"}, {"Authorization": "Bearer wrong"}):
        status, _, body = service.request("GET", path, **headers)
        assert status == 200
        assert set(json.loads(body)) == {"status"}
    full = json.loads(service.request("GET", "/health", Via="1.1 proxy", Authorization=BEARER)[2])
    assert {"status", "version", "lanes"} <= set(full)


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("GET", "/embed"), ("DELETE", "/v1/models"),
                                              ("OPTIONS", "/embed"), ("POST", "/health")])
def test_strangers_learn_nothing_about_paths(service: Service, method: str, path: str) -> None:
    status = service.request(method, path, Via="1.1 proxy")[0]
    assert status == (405 if path == "/health" else 401)


def test_access_comes_before_the_body(service: Service) -> None:
    status, _, _ = service.request("POST", "/embed", b"not json", Via="1.1 proxy")
    assert status == 401


def test_body_of_a_stranger_is_refused_before_it_is_received(service: Service) -> None:
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nVia: x\r\nContent-Length: 1000000\r\n\r\n"
    answer = service.raw(head)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_key_outside_ascii_neither_crashes_nor_matches(service: Service) -> None:
    raw = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \xc3\xa4\xff\r\n\r\n"
    assert service.raw(raw).startswith(b"HTTP/1.1 401 ")
