"""An engine is added by a module in mayfly/engines and an entry of the list there, and by nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_llama
import toy_engine
from clone import clone
from service import Service

LIST = "BACKENDS: tuple[Backend, ...] = ("


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The product with one more engine."""
    folder = clone(tmp_path / "project", "app.py", "watchdog.py")
    engines = folder / "mayfly" / "engines"
    shutil.copy(toy_engine.__file__, engines / "toy.py")
    described = (engines / "backends.py").read_text()
    for place, more in (("\n#: Every engine;", f"{toy_engine.DESCRIPTION}\n"), (LIST, "")):
        assert described.count(place) == 1
        described = described.replace(place, more + place)
    (engines / "backends.py").write_text(described.replace(LIST, f"{LIST}Toy(), "))
    return folder


def test_another_engine_needs_a_module_and_an_entry_of_the_list(
        start: Callable[..., Service], model_path: Path, project: Path) -> None:
    file = tiny_llama.make(model_path / "bell.gguf")
    # The same length, so that the file stays what it is but for this name.
    file.write_bytes(file.read_bytes().replace(b"llama", b"chime"))
    service = start(project=project, MODEL_NAME="tiny-llama.gguf", EMBED_MODEL="none", MAX_MODELS=1,
                    LLAMA_LIBRARY=model_path)  # where none is
    listed = {model["id"]: model for model in service.session.get(service.url + "/v1/models").json()["data"]}
    assert listed["bell"]["architecture"] == "chime" and listed["bell"]["usable"]

    turns = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, body in (("/v1/chat/completions", turns), ("/v1/completions", {"prompt": "Hi"}),
                       ("/gpt4all_api", {"prompt": "Hi"})):
        answer = service.post(path, {**body, "model": "bell", "seed": 7})
        assert answer.status_code == 200 and "my seed is 7" in answer.text, answer.text
        # What it can't do is refused by its name, and so is what the others can't.
        for model, field, value, message in (
                ("bell", "logit_bias", {"1": 2}, "'logit_bias' has to be empty or left out: toy can't bias tokens."),
                ("tiny-llama", "seed", 7, "'seed' has to be left out: gpt4all takes no seed.")):
            error = service.post(path, {**body, "model": model, field: value}).json()["error"]
            assert (error["param"], error["message"]) == (field, message)
        assert service.post(path, {**body, "model": "tiny-llama", "seed": None}).status_code == 200

    lanes = {lane.get("model"): lane for lane in service.health()["lanes"].values()}
    assert (lanes["tiny-llama"]["isolation"], lanes["bell"]["isolation"]) == ("fork", "respawn")
    counted = service.post("/v1/tokenize", {"model": "bell", "input": "Hi"}).json()
    assert counted["data"][0]["tokens"] == [72, 105]


def test_a_model_takes_the_memory_that_its_engine_says(
        start: Callable[..., Service], model_path: Path, project: Path) -> None:
    file = tiny_llama.make(model_path / "bell.gguf")
    file.write_bytes(file.read_bytes().replace(b"llama", b"chime"))
    room = 4 * file.stat().st_size  # for two such models, but 7 are what the engine wants for one
    service = start(project=project, MODEL_NAME="none", EMBED_MODEL="none", MEMORY_LIMIT=room, wait=False)
    service.wait_listening()
    answer = service.post("/gpt4all_api", {"prompt": "Hi", "model": "bell"})
    assert answer.status_code == 503 and "MEMORY_LIMIT" in answer.json()["error"]["message"]
