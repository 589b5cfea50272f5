"""What a fresh start answers with, where nobody has set a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from service import Service

from mayfly.models.defaults import SMOLLM2

ID = SMOLLM2.file_name.removesuffix(".gguf")


def test_a_service_without_settings_completes_with_the_default_model_and_calls_it_that(
        start: Callable[..., Service], model_path: Path, smollm2: Path) -> None:
    os.link(smollm2, model_path / smollm2.name)
    service = start(MODEL_NAME=None)
    assert service.complete("Hello")["model"] == service.lane("completion")["model"] == ID
    for name in (ID, SMOLLM2.file_name, "gpt-3.5-turbo", "gpt-4o-mini"):
        answer = service.post("/v1/chat/completions", {
            "model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        assert (answer.status_code, answer.json().get("model")) == (200, ID), answer.text
    counted = service.post("/v1/tokenize", {"input": "Hello"})
    assert (counted.status_code, counted.json().get("model")) == (200, ID), counted.text
    listed = {entry["id"]: entry for entry in service.session.get(service.url + "/v1/models").json()["data"]}
    assert (listed[ID]["kind"], listed[ID]["usable"]) == ("completion", True)
    assert service.reports() == []


def test_without_its_file_the_service_embeds_and_says_how_to_fetch_it(start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME=None, wait=False)
    service.wait_listening()
    assert len(service.embed("The cat sat on the mat.")[0]) == 384
    answer = service.post("/gpt4all_api", {"prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    for text in (answer.json()["error"]["message"], service.lane("completion")["reason"]):
        assert f"start.sh pull {SMOLLM2.file_name}" in text and "MODEL_NAME" in text
    asked = service.post("/v1/completions", {"model": ID, "prompt": "Hello"})
    assert (asked.status_code, asked.json()) == (503, answer.json())
