"""Calls from web pages: none by default; with ALLOWED_ORIGINS those of the pages that are named, errors included."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from web_rig import KEY, serving

from mayfly.errors import SettingError
from mayfly.settings import parse

PAGE = "https://my.site"
TUNNEL = {"X-Forwarded-For": "203.0.113.9"}


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a server with such settings; return its URL."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: f"http://127.0.0.1:{stack.enter_context(serving(**settings)).port}"


def preflight(url: str, origin: str = PAGE, path: str = "/v1/embeddings", **headers: str) -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os", **headers}
    return requests.options(url + path, headers=asked, timeout=120)


def embed(url: str, origin: str = PAGE, body: Any = None, **headers: str) -> requests.Response:
    return requests.post(url + "/embed", json=body or {"input": "x"}, headers={"Origin": origin, **headers},
                         timeout=120)


def cors(answer: requests.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def test_by_default_no_page_gets_anything(serve: Callable[..., str]) -> None:
    url = serve()
    assert preflight(url).status_code == 403
    answer = embed(url)
    assert answer.status_code == 403 and not cors(answer)
    assert not cors(embed(url, Authorization=f"Bearer {KEY}"))


def test_the_page_that_is_named_may_ask_and_call_and_no_other(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS=f"{PAGE},http://localhost:5173")
    for headers in ({}, TUNNEL):  # a preflight has no key, through a tunnel neither
        asked = preflight(url, **headers)
        assert asked.status_code == 204 and not asked.content
        assert asked.headers["Access-Control-Allow-Origin"] == PAGE and asked.headers["Vary"] == "Origin"
        assert asked.headers["Access-Control-Allow-Methods"] == "POST"
        assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in asked.headers
    anthropics = "x-api-key, anthropic-version, anthropic-dangerous-direct-browser-access"
    asked = preflight(url, path="/v1/messages", **{"Access-Control-Request-Headers": anthropics})
    assert asked.headers["Access-Control-Allow-Headers"] == anthropics
    private = preflight(url, **{"Access-Control-Request-Private-Network": "true"})
    assert private.headers["Access-Control-Allow-Private-Network"] == "true"
    # A page that is named isn't foreign, so on this machine it needs no key.
    answer = embed(url)
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == PAGE
    assert "X-Request-Id" in cors(answer)["Access-Control-Expose-Headers"]
    for other in ("https://evil.site", "https://my.site.evil.site", "http://my.site", "https://my.site:8443", "null"):
        assert preflight(url, other).status_code == 403 and not cors(preflight(url, other))
        assert embed(url, other).status_code == 403 and not cors(embed(url, other))
    # OPTIONS that is no preflight is what it always was.
    assert requests.options(url + "/embed", headers={"Origin": PAGE}, timeout=120).status_code == 405


def test_errors_can_be_read_by_the_page_too(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS=PAGE, MAX_BODY="2000")
    failures = {
        400: embed(url, body={"input": 5}),
        401: embed(url, **TUNNEL),
        404: requests.get(url + "/nothing", headers={"Origin": PAGE}, timeout=120),
        405: requests.get(url + "/embed", headers={"Origin": PAGE}, timeout=120),
        413: embed(url, body={"input": "x" * 3000}),
        415: requests.post(url + "/embed", data="x", headers={"Origin": PAGE}, timeout=120),
    }
    for status, answer in failures.items():
        assert answer.status_code == status and answer.json()["error"]["message"]
        assert cors(answer)["Access-Control-Allow-Origin"] == PAGE, status


def test_the_star_lets_every_page_call_with_a_key_and_none_without(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS="*")
    assert preflight(url, "https://any.site").headers["Access-Control-Allow-Origin"] == "*"
    assert embed(url, "https://any.site").status_code == 403
    answer = embed(url, "https://any.site", Authorization=f"Bearer {KEY}")
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == "*"


APPS = ["app://obsidian.md", "capacitor://localhost", "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0b7c8ee1-98b0-4c5b-9d43-5d5b4a2f0a11", "tauri://localhost", "http://tauri.localhost",
        "vscode-webview://0f5g3tq1", "vscode-file://vscode-app", "file://", "app://."]


def test_apps_that_are_named_may_ask_and_call_and_no_other(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS=",".join(APPS))
    for app in APPS:
        assert preflight(url, app).headers["Access-Control-Allow-Origin"] == app
        answer = embed(url, app)
        assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == app
    for other in ("app://obsidian.md.evil", "app://evil", "chrome-extension://another", "https://obsidian.md", "app:",
                  "app://obsidian.md/", "null", "tauri://localhost:80"):
        assert preflight(url, other).status_code == 403 and embed(url, other).status_code == 403, other


def test_a_scheme_with_a_star_is_every_origin_of_it_and_of_no_other(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS="vscode-webview://*,tauri:")
    for app in ("vscode-webview://0f5g3tq1", "vscode-webview://another", "tauri://localhost"):
        assert preflight(url, app).headers["Access-Control-Allow-Origin"] == app
        assert embed(url, app).status_code == 200
    for other in ("https://vscode-webview", "app://tauri", "vscode-webviews://a", "vscode-webview:a", "*"):
        assert preflight(url, other).status_code == 403 and embed(url, other).status_code == 403, other


def test_null_can_be_named_and_needs_a_key_because_any_site_can_send_it(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS="null")
    assert preflight(url, "null").headers["Access-Control-Allow-Origin"] == "null"
    refused = embed(url, "null")
    assert refused.status_code == 403 and "with a key alone" in refused.json()["error"]["message"]
    answer = embed(url, "null", Authorization=f"Bearer {KEY}")
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == "null"


def test_methods_headers_and_credentials_are_what_the_settings_say(serve: Callable[..., str]) -> None:
    url = serve(ALLOWED_ORIGINS=PAGE, ALLOWED_METHODS="GET,POST", ALLOWED_HEADERS="Content-Type",
                    ALLOW_CREDENTIALS="true")
    asked = preflight(url)
    assert asked.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert asked.headers["Access-Control-Allow-Headers"] == "Content-Type"
    assert asked.headers["Access-Control-Allow-Credentials"] == "true"
    assert cors(embed(url))["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize("settings", [
    {"ALLOWED_ORIGINS": "my.site"}, {"ALLOWED_ORIGINS": "https://my.site/path"}, {"ALLOWED_ORIGINS": "https://*"},
    {"ALLOWED_METHODS": "GET POST"}, {"ALLOWED_HEADERS": "A:b"},
    {"ALLOWED_ORIGINS": "*", "ALLOW_CREDENTIALS": "true"}])
def test_rules_that_no_browser_would_follow_are_refused_at_the_start(settings: dict[str, str]) -> None:
    with pytest.raises(SettingError):
        parse(settings)
