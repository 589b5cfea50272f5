"""What a fresh clone answers with: the completion model that comes with the project, wherever MODEL_PATH is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from service import PROJECT, Service

from mayfly.models import nano


@pytest.mark.parametrize("folder", ["the project's own", "another"])
def test_a_service_without_settings_completes_with_the_demonstration_model_and_calls_it_that(
        start: Callable[..., Service], model_path: Path, folder: str) -> None:
    there = sorted(os.listdir(model_path))
    service = start(MODEL_NAME=None, MODEL_PATH=None if folder == "the project's own" else model_path)
    service.printed(r"completion: completions by mayfly-nano-demo, a demonstration model; set MODEL_NAME in \.env")
    assert service.complete("Hello")["model"] == "mayfly-nano-demo"
    assert service.lane("completion")["model"] == "mayfly-nano-demo"
    for name in ("mayfly-nano-demo", "mayfly-nano-demo.gguf", "gpt-3.5-turbo", "gpt-4o-mini"):
        answer = service.post("/v1/chat/completions", {
            "model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        assert (answer.status_code, answer.json().get("model")) == (200, "mayfly-nano-demo"), answer.text
    counted = service.post("/v1/tokenize", {"input": "Hello"})
    assert (counted.status_code, counted.json().get("model")) == (200, "mayfly-nano-demo"), counted.text
    listed = service.session.get(service.url + "/v1/models").json()["data"]
    (entry,) = [entry for entry in listed if "nano" in entry["id"]]
    assert (entry["id"], entry["kind"], entry["usable"]) == ("mayfly-nano-demo", "completion", True)
    assert service.reports() == []
    # Nothing is copied: a copy would stay as it is when the project brings another one.
    assert sorted(os.listdir(model_path)) == there


def test_beside_another_model_it_is_used_only_as_a_file_of_model_path(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start()
    assert "demonstration" not in service.output()
    asked = {"model": "mayfly-nano-demo", "prompt": "Hello", "max_tokens": 4}
    unknown = service.post("/v1/completions", asked)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    message = unknown.json()["error"]["message"]
    assert "it comes with mayfly" in message and "MODEL_NAME=mayfly-nano-demo.gguf" in message
    assert "start.sh pull" not in message
    shutil.copy(nano.PATH, model_path)
    assert service.post("/v1/completions", asked).json()["model"] == "mayfly-nano-demo"
    assert service.complete("Hello")["model"] == "tiny-llama"


def test_without_its_file_the_service_embeds_and_says_how_to_bring_it_back(
        start: Callable[..., Service], tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(PROJECT / "mayfly", clone / "mayfly", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("app.py", "watchdog.py"):
        shutil.copy(PROJECT / name, clone)
    service = start(MODEL_NAME=None, project=clone)
    assert len(service.embed("The cat sat on the mat.")[0]) == 384
    answer = service.post("/gpt4all_api", {"prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    for text in (answer.json()["error"]["message"], service.lane("completion")["reason"]):
        assert "is missing in mayfly's own models/" in text
        assert "git checkout models/mayfly-nano-demo.gguf" in text and "MODEL_NAME" in text
    assert [entry["id"] for entry in service.session.get(service.url + "/v1/models").json()["data"]] == [
        "all-MiniLM-L6-v2", "tiny-llama"]
