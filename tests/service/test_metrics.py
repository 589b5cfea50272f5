"""GET /metrics: what Prometheus' own parser reads there, and what nobody may read there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import scripts
from links import link
from prometheus_client.parser import text_string_to_metric_families
from service import PROJECT, Service, until

KEY = "a-key-of-the-metrics"
CANARY = "canary-in-a-prompt"
MODEL = "secret-model"
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}

Metrics = Callable[..., float]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("metrics")
    link(embedding_model, folder / embedding_model.name)
    scripts.write(folder, {"when": "", "pieces": ["a ", "b ", "c"]}, name="on-demand")
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "EMBED_MODEL": embedding_model.name, "API_KEYS": KEY, "CHAT_PROCESSES": 2,
        "MODEL_NAME": scripts.write(folder, {"when": "crash", "do": "crash"}, {"when": "", "pieces": ["a ", "b"]},
                                    name=MODEL)})
    yield service.wait_ready()
    service.stop()


def read(service: Service) -> tuple[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    answer = requests.get(service.url + "/metrics", headers=FORWARDED, timeout=60)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families) and all(
        family.documentation for family in families)
    samples = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
               for family in families for sample in family.samples}
    return answer.text, samples


def metrics(service: Service) -> Metrics:
    _, samples = read(service)
    return lambda name, **labels: samples.get((f"mayfly_{name}", tuple(sorted(labels.items()))), 0.0)


def test_what_is_asked_and_answered_is_counted(service: Service) -> None:
    before = metrics(service)
    service.embed(["one", "two"])
    service.complete(CANARY)
    assert service.post("/v1/chat/completions", {"model": MODEL, "stream": True, "messages": [
        {"role": "user", "content": CANARY}]}).status_code == 200
    assert service.post("/v1/completions", {"model": "on-demand", "prompt": CANARY}).status_code == 200
    assert service.post("/v1/completions", {"prompt": 5}).status_code == 400
    for absent in (f"/{CANARY}", "/v1/models/nobody", "/k/another-canary-key/health"):
        requests.get(service.url + absent, timeout=60)
    after = metrics(service)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("requests_total", route="/embed", method="POST", status="200") == 1
    assert grown("requests_total", route="/v1/completions", method="POST", status="200") == 1
    assert grown("requests_total", route="/v1/completions", method="POST", status="400") == 1
    assert grown("requests_total", route="/v1/models/{name}", method="GET", status="404") == 1
    assert grown("requests_total", route="other", method="GET", status="404") >= 1
    assert grown("requests_total", route="/metrics", method="GET", status="200") == 1
    assert grown("request_seconds_count", route="/gpt4all_api") == 1
    assert grown("request_seconds_bucket", route="/gpt4all_api", le="+Inf") == 1
    assert grown("texts_total", lane="embedding") == 2 and grown("prompt_tokens_total", lane="embedding") == 2
    assert grown("completion_tokens_total", lane="completion") == 4
    assert grown("completion_tokens_total", lane="on_demand") == 3
    assert grown("first_token_seconds_count", lane="completion") == 2
    assert grown("first_token_seconds_count", lane="embedding") == 0
    for lane in ("embedding", "completion"):
        assert (after("ready_models", lane=lane), after("calls_waiting", lane=lane)) == (1, 0)
        assert after("memory_bytes", process=lane) > 1 << 20
    assert after("memory_bytes", process="web") > 1 << 20


def test_processes_that_die_are_counted_with_the_cause(service: Service) -> None:
    before = metrics(service)
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    until(lambda: metrics(service)("restarts_total", lane="completion", cause="crashed")
          == before("restarts_total", lane="completion", cause="crashed") + 2)
    assert metrics(service)("retried_total", lane="completion") == before("retried_total", lane="completion") + 1
    os.kill(service.pid("app"), signal.SIGKILL)
    # Its own counts begin anew, which Prometheus expects; those of the watchdog go on.
    service.wait_ready()
    assert metrics(service)("restarts_total", lane="completion", cause="crashed") >= 2


def test_no_model_caller_or_prompt_is_named(service: Service) -> None:
    service.complete(CANARY)
    text, _ = read(service)
    assert not any(name in text for name in (CANARY, MODEL, KEY, "canary", "203.0.113", "MiniLM"))


def test_the_dashboard_asks_for_what_there_is(service: Service) -> None:
    dashboard = json.loads((PROJECT / "deploy" / "grafana.json").read_text())
    text, samples = read(service)
    known = {name for name, _ in samples} | {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) >= 8
    for expression in asked:
        [*names] = {word for word in expression.replace("(", " ").replace("[", " ").replace("{", " ").split()
                    if word.startswith("mayfly_")}
        assert names and all(name in known for name in names), expression
