"""Deleting models over HTTP: whole, after they have left memory, and only what is MODEL_PATH's own."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from service import Service, until

KEY = "a-key-of-the-test"


def delete(service: Service, name: str, key: str | None = KEY) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.delete(f"{service.url}/v1/models/{name}", headers=headers, timeout=60)


def refusal(answer: requests.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def listed(service: Service) -> set[str]:
    return {entry["id"] for entry in requests.get(service.url + "/v1/models").json()["data"]}


def ask(service: Service, model: str, **fields: Any) -> requests.Response:
    return service.post("/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 3, **fields},
                        stream=bool(fields.get("stream")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path, tiny_model: Path) -> Path:
    """The MODEL_PATH of the service below: what a test puts into it, it deletes."""
    folder = tmp_path_factory.mktemp("models")
    for model in (embedding_model, tiny_model):
        (folder / model.name).write_bytes(model.read_bytes())
    scripts.write(folder, scripts.slowly("", 100.0, pieces=2000), name="slow")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"), {
        "MODEL_PATH": folder, "MODEL_NAME": "tiny-llama.gguf", "EMBED_MODEL": "all-MiniLM-L6-v2.gguf2.f16",
        "API_KEYS": KEY})
    yield service.wait_ready()
    assert service.reports() == []
    service.stop()


def test_a_model_that_is_loaded_leaves_and_is_deleted(service: Service, folder: Path) -> None:
    (folder / "sub").mkdir()
    tiny_llama.make(folder / "sub" / "second.gguf", seed=2)
    assert ask(service, "sub/second").status_code == 200
    assert "model:sub/second" in service.health()["lanes"]
    answer = delete(service, "sub/second")
    assert (answer.status_code, answer.json()) == (200, {"id": "sub/second", "object": "model", "deleted": True})
    assert not (folder / "sub" / "second.gguf").exists()
    assert "model:sub/second" not in service.health()["lanes"] and "sub/second" not in listed(service)
    assert refusal(ask(service, "sub/second"))[:2] == (404, "model_not_found")
    assert refusal(delete(service, "sub/second"))[:2] == (404, "model_not_found")
    assert service.reports() == []


def test_a_model_in_parts_is_deleted_whole_and_so_is_one_that_can_t_be_used(
        service: Service, folder: Path) -> None:
    parts = [folder / f"large-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.write_bytes(b"GGUF of a kind")
    parts[1].unlink()  # it doesn't hold up the others
    tiny_llama.malformed(folder / "cut.gguf", "truncated_data")
    assert {"large", "cut"} <= listed(service)
    assert delete(service, "large").json()["id"] == "large"
    assert delete(service, "cut.gguf").json()["id"] == "cut"
    assert not any(part.exists() for part in parts) and not {"large", "cut"} & listed(service)


def test_a_model_in_use_is_not_deleted(service: Service, folder: Path) -> None:
    stream = ask(service, "slow", max_tokens=2000, stream=True)
    pieces = stream.iter_content(10)
    assert stream.status_code == 200 and next(pieces)
    status, code, message = refusal(delete(service, "slow"))
    assert (status, code) == (409, "model_in_use") and "'slow' is in use" in message
    stream.close()
    until(lambda: delete(service, "slow").status_code == 200)
    assert not (folder / "slow.script.json").exists()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama.gguf", "all-MiniLM-L6-v2"])
def test_a_configured_model_is_not_deleted(service: Service, folder: Path, name: str) -> None:
    status, code, message = refusal(delete(service, name))
    setting = "MODEL_NAME" if "tiny" in name else "EMBED_MODEL"
    assert (status, code) == (409, "model_not_deletable") and setting in message
    assert len(list(folder.glob("*.gguf"))) == 2 and service.complete("Hello")["model"] == "tiny-llama"


def test_a_link_that_leaves_the_folder_is_refused_and_of_one_inside_it_the_link_alone_goes(
        service: Service, folder: Path, tmp_path: Path) -> None:
    outside = tiny_llama.make(tmp_path / "outside.gguf")
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_bytes(outside.read_bytes())
    (folder / "away.gguf").symlink_to(outside)
    (folder / "cached.gguf").symlink_to(blob)
    (folder / "gone.gguf").symlink_to(tmp_path / "nothing.gguf")
    (folder / "round.gguf").symlink_to(folder / "round.gguf")
    for name in ("away", "cached", "gone", "round"):
        status, code, message = refusal(delete(service, name))
        assert (name, status, code) == (name, 409, "model_not_deletable") and "leaves MODEL_PATH" in message
        assert (folder / f"{name}.gguf").is_symlink()
        (folder / f"{name}.gguf").unlink()
    assert outside.exists() and blob.exists()
    second = tiny_llama.make(folder / "second.gguf", seed=2)
    (folder / "alias.gguf").symlink_to("second.gguf")
    assert delete(service, "alias").status_code == 200
    assert second.exists() and not (folder / "alias.gguf").is_symlink()
    second.unlink()


def test_it_needs_a_key_also_on_this_machine_and_the_name_of_a_model(service: Service, folder: Path) -> None:
    tiny_llama.make(folder / "second.gguf", seed=2)
    for key in (None, "a-wrong-key"):
        assert refusal(delete(service, "second", key))[:2] == (401, "invalid_api_key")
    for name in ("absent", "..%2Fservice%2Fempty.env", "%2Fetc%2Fpasswd", "sub%2F..%2Fsecond", "second%00",
                 ".list.json", "gpt-3.5-turbo", "pull"):
        assert refusal(delete(service, name))[:2] == (404, "model_not_found"), name
    assert delete(service, "second").status_code == 200


def test_who_waits_for_a_model_gets_its_answer_before_it_is_deleted(service: Service, folder: Path) -> None:
    tiny_llama.make(folder / "second.gguf", seed=2)
    statuses: list[int] = []
    askers = [threading.Thread(target=lambda: statuses.append(ask(service, "second").status_code)) for _ in range(4)]
    for asker in askers:
        asker.start()
    until(lambda: service.health()["lanes"].get("model:second", {}).get("queue") == 4)
    until(lambda: delete(service, "second").status_code == 200)
    for asker in askers:
        asker.join(120)
    assert statuses == [200] * 4
    assert service.reports() == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only, for root too, where file systems may be mounted."""
    mounts = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]]
    try:
        for command in mounts:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_where_the_models_folder_is_read_only_deleting_and_fetching_are_refused_with_the_reason(
        service: Service, folder: Path) -> None:
    tiny_llama.make(folder / "kept.gguf", seed=2)
    with read_only(folder):
        status, code, message = refusal(delete(service, "kept"))
        assert (status, code) == (409, "model_not_deletable") and "Read-only" in message
        answer = requests.post(service.url + "/v1/models/pull", json={"model": "another.gguf"}, timeout=60,
                               headers={"Authorization": f"Bearer {KEY}"})
        status, code, message = refusal(answer)
        assert (status, code) == (409, "read_only") and "MODEL_PATH" in message
        for method, path, body in (("POST", "/api/copy", {"source": "played", "destination": "other"}),
                                   ("DELETE", "/api/delete", {"model": "played"})):
            refused = requests.request(method, service.url + path, json=body, timeout=60,
                                       headers={"Authorization": f"Bearer {KEY}"})
            assert refused.status_code == 409 and "MODEL_PATH is read-only" in refused.json()["error"]
        assert ask(service, "kept").status_code == 200
    assert delete(service, "kept").status_code == 200
