"""Calls from web pages: none by default; with ALLOWED_ORIGINS those of the pages that are named, errors included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from service import Service

from mayfly.errors import SettingError
from mayfly.settings import parse

PAGE = "https://my.site"
KEY = "a-key-for-pages"
TUNNEL = {"X-Forwarded-For": "203.0.113.9"}


@pytest.fixture
def serve(start: Callable[..., Service], tmp_path: Path) -> Callable[..., Service]:
    """Start a service that embeds by a script."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    model = scripts.write(folder, name="vectors", kind="embedding")
    return lambda **settings: start(MODEL_PATH=folder, MODEL_NAME="none", EMBED_MODEL=model, API_KEYS=KEY, **settings)


def preflight(service: Service, origin: str = PAGE, path: str = "/v1/embeddings", **headers: str) -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os", **headers}
    return requests.options(service.url + path, headers=asked, timeout=120)


def embed(service: Service, origin: str = PAGE, body: Any = None, **headers: str) -> requests.Response:
    return service.post("/embed", body or {"input": "x"}, headers={"Origin": origin, **headers})


def cors(answer: requests.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def test_by_default_no_page_gets_anything(serve: Callable[..., Service]) -> None:
    service = serve()
    assert preflight(service).status_code == 403
    answer = embed(service)
    assert answer.status_code == 403 and not cors(answer)
    assert not cors(embed(service, Authorization=f"Bearer {KEY}"))


def test_the_page_that_is_named_may_ask_and_call_and_no_other(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS=f"{PAGE},http://localhost:5173")
    for headers in ({}, TUNNEL):  # a preflight has no key, through a tunnel neither
        asked = preflight(service, **headers)
        assert asked.status_code == 204 and not asked.content
        assert asked.headers["Access-Control-Allow-Origin"] == PAGE and asked.headers["Vary"] == "Origin"
        assert asked.headers["Access-Control-Allow-Methods"] == "POST"
        assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in asked.headers
    private = preflight(service, **{"Access-Control-Request-Private-Network": "true"})
    assert private.headers["Access-Control-Allow-Private-Network"] == "true"
    # A page that is named isn't foreign, so on this machine it needs no key.
    answer = embed(service)
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == PAGE
    assert "X-Request-Id" in cors(answer)["Access-Control-Expose-Headers"]
    for other in ("https://evil.site", "https://my.site.evil.site", "http://my.site", "https://my.site:8443", "null"):
        assert preflight(service, other).status_code == 403 and not cors(preflight(service, other))
        assert embed(service, other).status_code == 403 and not cors(embed(service, other))
    # OPTIONS that is no preflight is what it always was.
    assert requests.options(service.url + "/embed", headers={"Origin": PAGE}, timeout=120).status_code == 405


def test_errors_can_be_read_by_the_page_too(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS=PAGE, MAX_BODY=2000)
    failures = {
        400: embed(service, body={"input": 5}),
        401: embed(service, **TUNNEL),
        404: requests.get(service.url + "/nothing", headers={"Origin": PAGE}, timeout=120),
        405: requests.get(service.url + "/embed", headers={"Origin": PAGE}, timeout=120),
        413: embed(service, body={"input": "x" * 3000}),
        415: requests.post(service.url + "/embed", data="x", headers={"Origin": PAGE}, timeout=120),
    }
    for status, answer in failures.items():
        assert answer.status_code == status and answer.json()["error"]["message"]
        assert cors(answer)["Access-Control-Allow-Origin"] == PAGE, status


def test_the_star_lets_every_page_call_with_a_key_and_none_without(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS="*")
    assert preflight(service, "https://any.site").headers["Access-Control-Allow-Origin"] == "*"
    assert embed(service, "https://any.site").status_code == 403
    answer = embed(service, "https://any.site", Authorization=f"Bearer {KEY}")
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == "*"


APPS = ["app://obsidian.md", "capacitor://localhost", "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0b7c8ee1-98b0-4c5b-9d43-5d5b4a2f0a11", "tauri://localhost", "http://tauri.localhost",
        "vscode-webview://0f5g3tq1", "vscode-file://vscode-app", "file://", "app://."]


def test_apps_that_are_named_may_ask_and_call_and_no_other(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS=",".join(APPS))
    for app in APPS:
        assert preflight(service, app).headers["Access-Control-Allow-Origin"] == app
        answer = embed(service, app)
        assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == app
    for other in ("app://obsidian.md.evil", "app://evil", "chrome-extension://another", "https://obsidian.md", "app:",
                  "app://obsidian.md/", "null", "tauri://localhost:80"):
        assert preflight(service, other).status_code == 403 and embed(service, other).status_code == 403, other


def test_a_scheme_with_a_star_is_every_origin_of_it_and_of_no_other(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS="vscode-webview://*,tauri:")
    for app in ("vscode-webview://0f5g3tq1", "vscode-webview://another", "tauri://localhost"):
        assert preflight(service, app).headers["Access-Control-Allow-Origin"] == app
        assert embed(service, app).status_code == 200
    for other in ("https://vscode-webview", "app://tauri", "vscode-webviews://a", "vscode-webview:a", "*"):
        assert preflight(service, other).status_code == 403 and embed(service, other).status_code == 403, other


def test_null_can_be_named_and_needs_a_key_because_any_site_can_send_it(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS="null")
    assert preflight(service, "null").headers["Access-Control-Allow-Origin"] == "null"
    refused = embed(service, "null")
    assert refused.status_code == 403 and "with a key alone" in refused.json()["error"]["message"]
    answer = embed(service, "null", Authorization=f"Bearer {KEY}")
    assert answer.status_code == 200 and cors(answer)["Access-Control-Allow-Origin"] == "null"


def test_methods_headers_and_credentials_are_what_the_settings_say(serve: Callable[..., Service]) -> None:
    service = serve(ALLOWED_ORIGINS=PAGE, ALLOWED_METHODS="GET,POST", ALLOWED_HEADERS="Content-Type",
                    ALLOW_CREDENTIALS="true")
    asked = preflight(service)
    assert asked.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert asked.headers["Access-Control-Allow-Headers"] == "Content-Type"
    assert asked.headers["Access-Control-Allow-Credentials"] == "true"
    assert cors(embed(service))["Access-Control-Allow-Credentials"] == "true"


@pytest.mark.parametrize("settings", [
    {"ALLOWED_ORIGINS": "my.site"}, {"ALLOWED_ORIGINS": "https://my.site/path"}, {"ALLOWED_ORIGINS": "https://*"},
    {"ALLOWED_METHODS": "GET POST"}, {"ALLOWED_HEADERS": "A:b"},
    {"ALLOWED_ORIGINS": "*", "ALLOW_CREDENTIALS": "true"}])
def test_rules_that_no_browser_would_follow_are_refused_at_the_start(settings: dict[str, str]) -> None:
    with pytest.raises(SettingError):
        parse(settings)
