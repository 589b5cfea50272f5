"""The OpenAPI document and its page: complete, true, and usable without the network."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests
from clients import KEY, ended
from service import Service
from web_rig import web

from mayfly.errors import SettingError
from mayfly.settings import Settings, parse
from mayfly.web import openapi
from mayfly.web.application import build, route_table
from mayfly.web.routes import Route


def document(settings: Settings) -> dict[str, Any]:
    return openapi.document(settings, route_table(web(settings)))


SETTINGS = parse({})
# The document itself and its page aren't for programs; what Ollama's clients ask there has no answer of use.
UNDOCUMENTED = ("/docs", "/docs/{name}", "/openapi.json", "/metrics", "/", "/api/create", "/api/push",
                "/api/blobs/{digest}")
ROUTES = [route for route in route_table(web(SETTINGS)) if route.summary]
EXAMPLES = [pytest.param(route, value, id=f"{route.path} {title}") for route in ROUTES
            for title, value in route.examples.items()]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, embedding_model: Any, tiny_model: Any) -> Any:
    """A service with real models and a key."""
    folder = tmp_path_factory.mktemp("real")
    for model in (embedding_model, tiny_model):
        (folder / model.name).write_bytes(model.read_bytes())
    service = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": tiny_model.name, "API_KEYS": KEY})
    service.wait_ready()
    yield service
    service.stop()


def test_every_route_is_in_the_document_and_nothing_else_is(real: Service) -> None:
    app = build(web(SETTINGS))
    routed = {(re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method.lower())
              for rule in app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    routed = {(path, method) for path, method in routed if path not in UNDOCUMENTED}
    documented = {(path, method) for path, methods in document(SETTINGS)["paths"].items() for method in methods}
    assert documented == routed
    answer = requests.get(real.url + "/openapi.json", headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
    assert answer.json() == document(SETTINGS)
    # Each way to send a key that it names is one.
    for scheme in answer.json()["components"]["securitySchemes"].values():
        name, value = (scheme["name"], KEY) if scheme["type"] == "apiKey" else ("Authorization", f"Bearer {KEY}")
        for headers, status in (({name: value}, 200), ({name: f"{value}x"}, 401)):
            assert requests.get(real.url + "/v1/models", headers={**headers, "X-Forwarded-For": "203.0.113.9"},
                                timeout=120).status_code == status
    assert document(SETTINGS)["security"] == [{}, {"key": []}, {"keyAlone": []}]


@pytest.mark.parametrize(("route", "body"), EXAMPLES)
def test_an_example_of_the_document_runs_as_it_stands(real: Service, route: Route, body: Any) -> None:
    answer = real.post(route.path, body)
    assert answer.status_code == 200, answer.text
    if answer.headers["Content-Type"].startswith("text/event-stream"):
        assert ended(answer.text)
    elif answer.headers["Content-Type"] == "application/x-ndjson":
        openapi.FORMS[route.answer].model_validate(json.loads(answer.text.splitlines()[-1]), strict=True)
    else:
        openapi.FORMS[route.answer].model_validate(answer.json(), strict=True)


def test_the_answers_without_a_body_have_the_documented_form(real: Service) -> None:
    for route in ROUTES:
        if route.method == "GET":
            answer = requests.get(real.url + route.path.replace("{name}", "gpt-3.5-turbo"), timeout=120)
            assert answer.status_code == 200
            openapi.FORMS[route.answer].model_validate(answer.json(), strict=True)


def test_the_page_loads_nothing_from_elsewhere(real: Service) -> None:
    page = requests.get(real.url + "/docs/", timeout=120)
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "://" not in page.text
    loaded = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        file = requests.get(real.url + path, timeout=120)
        assert file.status_code == 200 and file.content
    script = requests.get(real.url + "/docs/page.js", timeout=120).text
    assert re.findall(r'url: "([^"]+)"', script) == ["/openapi.json"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert requests.get(real.url + "/docs/secret", timeout=120).status_code == 404
    assert requests.get(real.url + "/docs/..%2f..%2fapp.py", timeout=120).status_code == 404


def test_strangers_see_neither_the_page_nor_the_document(real: Service) -> None:
    for path in ("/docs", "/openapi.json", "/docs/page.js"):
        assert requests.get(real.url + path, headers={"X-Forwarded-For": "203.0.113.9"},
                            timeout=120).status_code == 401


def test_no_route_of_the_service_can_be_taken_by_the_setting() -> None:
    own = {re.sub(r"{(\w+)}", "x", route.path) for route in route_table(web(SETTINGS))} - {SETTINGS.route}
    for path in own:
        with pytest.raises(SettingError):
            parse({"ROUTE": path})


def test_the_document_names_what_the_settings_change() -> None:
    made = document(parse({"ROUTE": "/ask", "N_CTX": "99", "MAX_TEXTS": "7"}))
    assert "/ask" in made["paths"] and "/gpt4all_api" not in made["paths"]
    schemas = made["components"]["schemas"]
    assert schemas["CompletionBody"]["properties"]["repeat_last_n"]["anyOf"][0]["maximum"] == 99
    assert schemas["EmbedBody"]["properties"]["input"]["anyOf"][1]["maxItems"] == 7
    assert "{n_ctx}" not in str(made)
