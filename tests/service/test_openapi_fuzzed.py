"""Every route, fed by schemathesis with what the OpenAPI document allows and with what it doesn't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import scripts
from clients import COUNTED, ended, package
from service import Service
from web_rig import web

from mayfly.settings import parse
from mayfly.web import openapi
from mayfly.web.application import route_table

SETTINGS = {"N_CTX": "64", "MAX_TEXTS": "50", "CHAT_PROCESSES": "2"}
TABLE = route_table(web(parse(SETTINGS)))
OPERATIONS = [f"{route.method} {route.path}" for route in TABLE if route.summary]
# What fetches or deletes does nothing here, where nobody has a key.
KEPT = {f"{route.method} {route.path}" for route in TABLE if route.key == "always"}
EXAMPLES = 40
# What Ollama's routes are sent is checked as OpenAI's bodies are.
OLLAMAS_EXAMPLES = 12
# What asks for a model by its name, and finds none by those that are made up; and what has to be a number that isn't
# written as one with a fraction.
GIVEN = {"POST /api/chat": {"model": "played"}, "POST /api/generate": {"model": "played"},
         "POST /api/show": {"model": "played"}, "POST /api/embed": {"model": "vectors"},
         "POST /api/embeddings": {"model": "vectors"}, "POST /v1/messages": {"max_tokens": 5}}


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """What schemathesis makes of the document. Imported here: that takes a second, which others needn't spend."""
    schema = package("schemathesis").openapi.from_dict(openapi.document(parse(SETTINGS), TABLE))
    found = {result.ok().label: result.ok() for result in schema.get_all_operations()}
    assert set(found) == set(OPERATIONS)
    return found


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with scripted models, which answer at once."""
    folder = tmp_path_factory.mktemp("fuzzed")
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "MODEL_NAME": scripts.write(folder, {"when": "", "pieces": COUNTED.split()}),
        "EMBED_MODEL": scripts.write(folder, name="vectors", kind="embedding"), **SETTINGS})
    try:
        yield service.wait_ready()
        assert not service.reports()
    finally:
        service.stop()


# A path's name can be anything, so without a body there is nothing to get wrong.
@pytest.mark.parametrize(("label", "mode"), [(label, mode) for label in OPERATIONS for mode in ("positive", "negative")
                                             if mode == "positive" or label.startswith("POST")])
def test_no_request_is_answered_other_than_the_document_says(
        operations: dict[str, Any], fuzzed: Service, label: str, mode: str) -> None:
    schemathesis, hypothesis = package("schemathesis"), package("hypothesis")
    from schemathesis.specs.openapi import checks

    operation = operations[label]
    wanted = [checks.status_code_conformance, checks.content_type_conformance, checks.response_headers_conformance,
              checks.response_schema_conformance, checks.negative_data_rejection, checks.allow_header_conformance]
    seen: dict[int, int] = {}

    most = OLLAMAS_EXAMPLES if label.partition(" ")[2].startswith("/api/") else EXAMPLES

    @hypothesis.settings(max_examples=most, deadline=None, database=None, derandomize=True,
                         phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def ask(case: Any) -> None:
        if mode == "positive" and label in GIVEN:
            case.body = {**case.body, **GIVEN[label]}
        answer = case.call(base_url=fuzzed.url, session=fuzzed.session, timeout=60)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        # The models of this service fail at nothing, so no 5xx at all has a reason.
        assert answer.status_code < 500, answer.text
        form = answer.headers.get("content-type", [""])[0]
        if "text/event-stream" in form:
            assert ended(answer.text)
        elif form == "application/x-ndjson":
            assert json.loads(answer.text.splitlines()[-1])["done"]
        else:
            case.validate_response(answer, checks=wanted)

    ask()
    print(f"{mode} {label}: " + ", ".join(f"{count} times {status}" for status, count in sorted(seen.items())))
    if label in KEPT:
        # A name with a line break in it is no path.
        assert set(seen) <= {401, 404} and 401 in seen
    elif mode == "positive" and "{" not in label:
        assert 200 in seen
