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

FORWARDING = [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server",
    "X-Forwarded-Prefix", "X-Forwarded-By", "X-Forwarded-Ssl", "X-Forwarded-Scheme", "X-Forwarded-Protocol",
    "X-Forwarded-Path", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded", "X-Forwarded-User",
    "X-Forwarded-Email", "X-Forwarded-Client-Cert", "X-Forwarded-Tls-Client-Cert", "Forwarded", "Forwarded-For",
    "Forwarded-For-Ip", "X-Forward-For", "X-Forward-Proto", "Z-Forwarded-For", "X-IMForwards",
    "X-Original-Forwarded-For", "X-Original-For", "X-Original-Host", "X-Original-Proto", "X-Original-URL",
    "X-Original-URI", "X-Original-Remote-Addr", "X-Rewrite-URL", "Via", "X-Via", "X-BlueCoat-Via", "X-Real-IP",
    "X-Real-Port", "X-Client-IP", "Client-IP", "Client-Ip", "X-Cluster-Client-IP", "Cluster-Client-IP",
    "True-Client-IP", "X-True-Client-IP", "X-Remote-IP", "X-Remote-Addr", "Remote-Addr", "X-Originating-IP",
    "X-Source-IP", "Source-IP", "X-Proxy-Client-IP", "Proxy-Client-IP", "WL-Proxy-Client-IP", "X-ProxyUser-Ip",
    "X-ProxyMesh-IP", "X-User-IP", "X-Peer-Addr", "X-Host-IP", "CF-Connecting-IP", "CF-Connecting-IPv6",
    "CF-IPCountry", "CF-Ray", "CF-Visitor", "CF-Worker", "CF-EW-Via", "CF-Pseudo-IPv4", "Cf-Warp-Tag-Id",
    "Cf-Access-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "CDN-Loop", "Cdn-Real-Ip", "CDN-Src-IP",
    "Fastly-Client-IP", "Fastly-FF", "Fastly-SSL", "Akamai-Origin-Hop", "X-Akamai-Edgescape", "X-Amz-Cf-Id",
    "X-Amzn-Trace-Id", "CloudFront-Viewer-Address", "CloudFront-Forwarded-Proto", "X-Appengine-User-Ip",
    "X-Azure-ClientIP", "X-Azure-SocketIP", "X-Azure-Ref", "X-ARR-LOG-ID", "X-ARR-SSL", "Disguised-Host",
    "Fly-Client-IP", "Fly-Forwarded-Port", "Fly-Region", "X-Vercel-Forwarded-For", "X-Vercel-Id",
    "X-Nf-Client-Connection-Ip", "DO-Connecting-IP", "X-Envoy-External-Address", "X-Envoy-Internal",
    "X-Kong-Request-Id", "X-NginX-Proxy", "X-Varnish", "Surrogate-Capability", "Tailscale-User-Login",
    "X-From-Where", "Incap-Client-IP", "X-Sucuri-ClientIP", "Ali-CDN-Real-IP", "EagleId", "X-Scheme",
    "X-Url-Scheme", "Front-End-Https", "X-Remote-User", "Remote-User", "X-Railway-Edge",
]
# What programs, browsers and instrumentation send by themselves.
DIRECT = [
    "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Referer", "HTTP-Referer", "X-Title",
    "X-Request-Id", "X-Stainless-Lang", "X-Stainless-OS", "X-Stainless-Arch", "X-Stainless-Runtime",
    "X-Stainless-Runtime-Version", "X-Stainless-Package-Version", "X-Stainless-Async", "X-Stainless-Retry-Count",
    "X-Stainless-Read-Timeout", "X-Stainless-Helper-Method", "OpenAI-Organization", "OpenAI-Project", "OpenAI-Beta",
    "Idempotency-Key", "X-Api-Key", "Api-Key", "anthropic-version", "Cookie", "Pragma", "Cache-Control", "DNT",
    "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-CH-UA", "Sec-CH-UA-Platform", "Sec-GPC", "Priority",
    "Upgrade-Insecure-Requests", "traceparent", "tracestate", "baggage", "b3", "X-B3-TraceId", "sentry-trace",
    "newrelic", "X-Datadog-Trace-Id", "X-Amz-Date", "X-Amz-Content-Sha256", "CF-Access-Client-Id",
    "CF-Access-Client-Secret", "ngrok-skip-browser-warning", "Fly-Prefer-Region", "fly-force-instance-id",
    "X-OpenWebUI-User-Id", "X-OpenWebUI-User-Email", "X-OpenWebUI-User-Name", "X-Client-Name", "X-Client-Version",
    "X-Goog-Api-Client", "X-Goog-User-Project", "X-User-Id", "X-User-Agent", "X-Requested-With", "X-CSRF-Token",
    "Range", "If-None-Match", "Proxy-Connection", "Date", "From", "Save-Data", "X-Tooltip", "X-Zip", "X-Ship",
    "X-Relationship", "X-MS-Client-Request-Id", "X-Session-Id", "X-Trace-Id", "X-Correlation-Id",
    "Langchain-Project", "X-Langfuse-Trace-Id", "User-Id", "X-Device-Id", "X-Client-Id", "Max-Forwards",
]
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
def test_forwarded_call_needs_a_key_whatever_the_header_says(service: Service, name: str) -> None:
    for value in ("203.0.113.9", "127.0.0.1", "", "for=127.0.0.1;host=localhost"):
        header = {name.replace("-", "_"): value}
        assert status_of(service, **header) == (401, "invalid_api_key")
        assert status_of(service, **header, Authorization=BEARER) == (200, None)


@pytest.mark.parametrize("name", DIRECT)
def test_what_programs_send_by_themselves_is_no_mark_of_a_proxy(service: Service, name: str) -> None:
    assert status_of(service, **{name.replace("-", "_"): "a"}) == (200, None)


def test_a_header_name_of_any_length_is_looked_at_and_not_remembered() -> None:
    from mayfly.web import forwarding

    before = forwarding._remembered.cache_info().currsize
    for part in ("A_", "IP", "CLIENT_", "FORWAR"):
        assert not forwarding.is_forwarded([f"HTTP_{part * 4000}-"])
    assert forwarding.is_forwarded(["HTTP_" + "A_" * 4000 + "CLIENT_IP"])
    assert forwarding._remembered.cache_info().currsize == before


def test_key_lets_in_under_any_host_and_origin(service: Service) -> None:
    headers = {"Host": "evil.example", "Origin": "https://evil.example", "Via": "1.1 proxy"}
    assert status_of(service, **headers, Authorization=BEARER) == (200, None)
    assert status_of(service, Authorization=f"bearer   {KEY}  ") == (200, None)


WRONG = ["Bearer wrong", "Bearer", "Bearer not needed for a local LLM", f"Basic {KEY}", KEY, f"Bearer {KEY}x",
         f"Bearer {KEY[:-1]}", f"Bearer {KEY} {KEY}", f"Bearer {KEY}, Bearer {KEY}", "Bearer \xff\xfe\x80",
         f"Bearer {KEY.upper()}"]


@pytest.mark.parametrize("authorization", [*WRONG, "", " "])
def test_a_key_that_is_not_needed_is_not_looked_at(service: Service, authorization: str) -> None:
    assert status_of(service, Authorization=authorization) == (200, None)
    assert "lanes" in json.loads(service.request("GET", "/health", Authorization=authorization)[2])


@pytest.mark.parametrize("authorization", WRONG)
def test_wrong_key_is_401_where_one_is_needed(service: Service, authorization: str) -> None:
    status, headers, answer = service.post("/embed", {"input": "x"}, Authorization=authorization, Via="1.1 proxy")
    assert status == 401
    assert headers["WWW-Authenticate"] == "Bearer"
    assert answer["error"]["type"] == "authentication_error"
    assert answer["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_wrong_key_of_a_foreign_direct_call_is_403_and_both_remedies_are_told(
        service: Service, headers: dict[str, str]) -> None:
    for authorization in WRONG:
        status, _, answer = service.post("/embed", {"input": "x"}, Authorization=authorization, **headers)
        assert (status, answer["error"]["code"]) == (403, "host_not_allowed")
        assert "wrong" in answer["error"]["message"]
        assert "AUTHORIZED_URLS" in answer["error"]["message"] or "ALLOWED_ORIGINS" in answer["error"]["message"]


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
    for headers in ({"Via": "1.1 proxy"}, {"Host": "evil.example"},
                    {"Via": "1.1 proxy", "Authorization": "Bearer wrong"}):
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
    raw = (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
           b"Authorization: Bearer \xc3\xa4\xff\r\n%s\r\n")
    assert service.raw(raw % b"Via: x\r\n").startswith(b"HTTP/1.1 401 ")
    assert service.raw(raw % b"").startswith(b"HTTP/1.1 404 ")
