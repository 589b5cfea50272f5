"""Several models behind one service: what is listed, opens when it is asked for, and leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import processes
import pytest
import requests
import scripts
import tiny_llama
from service import PROJECT, Service, until


def ask(service: Service, model: str, prompt: str = "Hello", **fields: Any) -> requests.Response:
    return service.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 50, **fields})


def text(service: Service, model: str, prompt: str = "Hello") -> str:
    answer = ask(service, model, prompt)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["text"])


def open_models(service: Service) -> set[str]:
    """Return the models whose lanes are open, other than the configured ones."""
    return {name.removeprefix("model:") for name, lane in service.health()["lanes"].items()
            if name.startswith("model:") and "generation" in lane}


@pytest.fixture
def played(tmp_path: Path, start: Callable[..., Service], model_path: Path) -> Callable[..., Service]:
    """Start a service with scripted models a, b and c besides the configured one; each answers with its name."""
    for name in "abc":
        scripts.write(model_path, scripts.slowly("slow", 3.0), {"when": "", "pieces": [f"I am {name}."]}, name=name)
    scripts.write(model_path, name="vectors", kind="embedding")
    usual = scripts.write(model_path, name="usual", kind="embedding")

    def begin(**settings: object) -> Service:
        return start(**{"MODEL_NAME": "none", "EMBED_MODEL": usual, **settings})

    return begin


def test_every_file_is_listed_with_what_it_says_of_itself(start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.make(model_path / "second.gguf", seed=2, context=512)
    path = tiny_llama.make(model_path / "chime.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"chime"))
    tiny_llama.malformed(model_path / "cut.gguf", "truncated_data")
    service = start()
    listed = {entry["id"]: entry for entry in requests.get(service.url + "/v1/models").json()["data"]}
    assert list(listed)[:2] == ["all-MiniLM-L6-v2", "tiny-llama"]
    assert listed["second"] == requests.get(service.url + "/v1/models/second").json()
    created = int((model_path / "second.gguf").stat().st_mtime)
    assert listed["second"] == {
        "id": "second", "object": "model", "created": created, "owned_by": "mayfly", "kind": "completion",
        "size": (model_path / "second.gguf").stat().st_size, "architecture": "llama", "quantization": "F32",
        "parameter_count": 552576, "embedding_length": 128, "context_length": 512,
        "chat_template": "file", "tools": "generic", "usable": True}
    assert (listed["chime"]["usable"], listed["cut"]["usable"]) == (False, False)
    for name, reason in (("chime", "gpt4all 2.8.2 can't run"), ("cut", "cut short")):
        assert reason in listed[name]["reason"]
        refused = ask(service, name)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_unusable")
        assert reason in refused.json()["error"]["message"]
    wrong = ask(service, "all-MiniLM-L6-v2")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_kind_of_model")
    for name in ("absent", "../models/second", "/etc/passwd", "https://host/second.gguf"):
        assert (ask(service, name).status_code, ask(service, name).json()["error"]["code"]) == (404, "model_not_found")
    assert set(service.health()["lanes"]) == {"embedding", "completion"}  # nothing was loaded for all this


def test_real_models_open_when_they_are_asked_for_and_answer_beside_the_configured_one(
        start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.make(model_path / "second.gguf", seed=2)
    service = start(EMBED_MODEL="none")
    first, second = (ask(service, name, temperature=0, max_tokens=6).json() for name in ("tiny-llama", "second"))
    assert (first["model"], second["model"]) == ("tiny-llama", "second")
    assert first["choices"][0]["text"] != second["choices"][0]["text"]
    assert second["usage"]["completion_tokens"] == 6
    assert ask(service, "second", temperature=0, max_tokens=6).json()["choices"] == second["choices"]
    assert ask(service, "second.gguf", max_tokens=1).json()["model"] == "second"
    lane = service.lane("model:second")
    assert (lane["state"], lane["model"], lane["isolation"]) == ("ready", "second", "fork")
    until(lambda: service.lane("model:second")["restarts"]["spent"] == 3)
    assert "address" not in lane


def test_an_embedding_model_opens_when_it_is_asked_for(played: Callable[..., Service]) -> None:
    service = played()
    answer = service.post("/v1/embeddings", {"model": "vectors", "input": ["one", "two"]})
    assert (answer.status_code, answer.json()["model"]) == (200, "vectors")
    assert open_models(service) == {"vectors"}


@pytest.mark.parametrize("isolation", ["fork", "respawn", "none"])
def test_the_least_recently_used_model_leaves_and_comes_back(played: Callable[..., Service], isolation: str) -> None:
    service = played(MAX_MODELS=2, ISOLATION=isolation)
    for name in "ab":
        assert text(service, name) == f"I am {name}."
    assert open_models(service) == {"a", "b"}
    assert text(service, "a") == "I am a."
    before = service.family()
    assert text(service, "c") == "I am c."
    assert open_models(service) == {"a", "c"}
    assert [pid for pid in before if not processes.runs(pid)]
    assert text(service, "b") == "I am b."
    assert open_models(service) == {"b", "c"}
    assert len(list(service.run_folder.glob("model*.sock"))) == 2
    assert service.reports() == []


def test_a_model_in_use_stays_until_it_has_answered_and_the_other_one_waits(played: Callable[..., Service]) -> None:
    service = played(MAX_MODELS=1)
    text(service, "a")
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(text, service, "a", "slow") for _ in range(2)]  # one is served, one waits
        until(lambda: service.lane("model:a")["active"] and service.lane("model:a")["queue"])
        other = pool.submit(text, service, "b")
        until(lambda: service.health()["lanes"].get("model:b", {}).get("state") == "waiting")
        assert "in use" in service.health()["lanes"]["model:b"]["reason"]
        assert not slow[0].done()
        assert [answer.result() for answer in slow] == [scripts.counted()] * 2
        assert other.result() == "I am b."
    assert service.reports() == []


def test_one_that_waits_for_room_until_its_deadline_is_told_so(played: Callable[..., Service]) -> None:
    service = played(MAX_MODELS=1, REQUEST_TIMEOUT=5)
    text(service, "a")
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            ask(service, "a", "slow")

    with ThreadPoolExecutor() as pool:
        try:
            for _ in range(3):
                pool.submit(keep_busy)
            until(lambda: service.lane("model:a")["active"] and service.lane("model:a")["queue"])
            refused = ask(service, "b")
        finally:
            over.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert "in use" in refused.json()["error"]["message"]


def test_callers_of_more_models_than_may_be_loaded_are_all_answered(played: Callable[..., Service]) -> None:
    service = played(MAX_MODELS=1)
    with ThreadPoolExecutor(6) as pool:
        names = list("abcabcabcabc")
        assert list(pool.map(lambda name: text(service, name), names)) == [f"I am {name}." for name in names]
    assert len(open_models(service)) == 1
    assert service.reports() == []


def test_the_memory_limit_counts_files_and_refuses_what_can_never_fit(
        start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.make(model_path / "wide.gguf", embedding=512, blocks=4)
    tiny_llama.make(model_path / "second.gguf", seed=2)
    service = start(MEMORY_LIMIT="60MB", N_CTX=256, EMBED_ENGINE="gpt4all")
    assert ask(service, "second").status_code == 200
    refused = ask(service, "wide")
    assert refused.status_code == 503
    assert "MEMORY_LIMIT" in refused.json()["error"]["message"]
    assert open_models(service) == {"second"}


def test_a_model_that_aborts_its_process_is_unavailable_and_the_rest_goes_on(
        start: Callable[..., Service], model_path: Path) -> None:
    tiny_llama.malformed(model_path / "aborts.gguf", "impossible_header")
    service = start(EMBED_MODEL="none")
    refused = ask(service, "aborts")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert "_model1_watchdog_error.log" in refused.json()["error"]["message"]
    assert service.complete("Hello")["response"]
    assert service.session.get(service.url + "/ready").status_code == 200


@pytest.mark.parametrize(("numbers", "told"), [
    ({"llama.block_count": 12}, (400, "model_unusable")), ({"llama.expert_count": 4096}, (503, "model_unavailable"))],
    ids=["says so", "aborts"])
def test_a_model_that_cannot_be_loaded_keeps_no_other_one_out(
        start: Callable[..., Service], model_path: Path, numbers: dict[str, int], told: tuple[int, str]) -> None:
    tiny_llama.make(model_path / "bad.gguf", numbers=numbers)
    for name in ("good", "better"):
        tiny_llama.make(model_path / f"{name}.gguf", seed=len(name))
    vectors = scripts.write(model_path, name="vectors", kind="embedding")
    service = start(MAX_MODELS=1, MODEL_NAME="none", EMBED_MODEL=vectors, REQUEST_TIMEOUT=60)
    with ThreadPoolExecutor(6) as pool:
        # Callers who were told leave their connections in its socket, where no process takes them out.
        refused = list(pool.map(lambda _: ask(service, "bad"), range(6)))
    assert {answer.status_code for answer in refused} == {told[0]}
    for name in ("good", "better"):
        assert ask(service, name).status_code == 200
        pid = service.lane(f"model:{name}")["pid"]
        # It is remembered, and drives nobody out.
        again = ask(service, "bad")
        assert (again.status_code, again.json()["error"]["code"]) == told
        # Whoever waits for a file to become another one waits in vain.
        assert ("Retry-After" in again.headers) == (told[0] == 503)
        assert "_watchdog_error.log" in again.json()["error"]["message"]
        assert ask(service, name).status_code == 200
        assert service.lane(f"model:{name}")["pid"] == pid
    turns = [{"role": "user", "content": "Hello"}]
    for path, body in {"/gpt4all_api": {"prompt": "Hello"}, "/v1/chat/completions": {"messages": turns, "stream": True},
                       "/v1/responses": {"input": "Hello"}, "/v1/messages": {"messages": turns, "max_tokens": 5},
                       "/api/generate": {"prompt": "Hello"}, "/api/chat": {"messages": turns}}.items():
        assert service.post(path, {"model": "bad", **body}).status_code == told[0], path
    # All its deaths are one, which the reports count once.
    (report,) = service.reports()
    assert re.search(r"times: +[3-9], since", report.read_text())
    assert report.name in again.json()["error"]["message"]
    # Another file of that name is tried at once.
    tiny_llama.make(model_path / "bad.gguf", seed=9)
    until(lambda: ask(service, "bad").status_code == 200, what="the mended file loaded")


@pytest.mark.parametrize("isolation", ["fork", "respawn"])
def test_a_loaded_model_whose_file_is_taken_away_leaves_without_a_failure(
        played: Callable[..., Service], model_path: Path, tmp_path: Path, isolation: str) -> None:
    service = played(ISOLATION=isolation)
    file, away = model_path / "a.script.json", tmp_path / "away.script.json"

    def lead_nowhere() -> None:
        file.symlink_to("nowhere")

    for put, said in ((lambda: None, "a.script.json was removed"), (file.mkdir, "isn't a file"),
                      (lead_nowhere, "is a link to a file that isn't there")):
        assert text(service, "a") == "I am a."
        file.rename(away)
        put()
        until(lambda: "model:a" not in service.health()["lanes"], what="the model gone")
        service.printed(f"model:a leaves: .*{said}")
        refused = ask(service, "a")
        # One that is listed can't be used.
        listed = file.is_symlink()
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            (400, "model_unusable") if listed else (404, "model_not_found"))
        if listed:
            file.unlink()
        elif file.exists():
            file.rmdir()
        away.rename(file)
    assert text(service, "a") == "I am a."
    assert service.reports() == []


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "asked for"])
def test_a_loaded_model_whose_file_gets_another_spelling_is_loaded_from_that(
        played: Callable[..., Service], model_path: Path, configured: bool) -> None:
    service = played(**({"MODEL_NAME": "a.script.json"} if configured else {}))
    assert text(service, "a") == "I am a."
    (model_path / "a.script.json").rename(model_path / "a.Script.JSON")
    service.printed(f"{'completion' if configured else 'model:a'} leaves: a.script.json was removed")
    until(lambda: ask(service, "a").status_code == 200, what="the same model by its other name")
    assert service.reports() == []


def test_models_stay_loaded_while_the_web_process_is_replaced(played: Callable[..., Service]) -> None:
    service = played()
    text(service, "a")
    for path, model in (("/v1/embeddings", "vectors"), ("/v1/tokenize", "vectors")):
        assert service.post(path, {"model": model, "input": "one"}).status_code == 200
    pid = service.lane("model:a")["pid"]
    web = service.pid("app")
    assert web in service.family()
    os.kill(web, signal.SIGKILL)
    until(lambda: service.sentinel("app").get("pid") not in (None, web))
    # What runs is told of, though nobody has asked the new process for it.
    assert open_models(service) == {"a", "vectors"}
    assert set(service.health()["lanes"]) == {"embedding", "completion", "model:a", "model:vectors", "vocabulary"}
    told = service.session.get(service.url + "/metrics").text
    assert 'mayfly_ready_models{lane="on_demand"} 2.0' in told and 'mayfly_ready_models{lane="vocabulary"} 1.0' in told
    assert text(service, "a") == "I am a."
    assert service.lane("model:a")["pid"] == pid


def test_a_stopped_service_leaves_nothing_of_its_other_models_behind(played: Callable[..., Service]) -> None:
    service = played()
    for name in "ab":
        text(service, name)
    family = service.family()
    assert service.stop() == 0
    assert sorted(path.name for path in service.run_folder.iterdir()) == ["watchdog.lock"]
    assert not [pid for pid in family if processes.runs(pid)]


def test_without_a_watchdog_the_configured_models_are_served_alone(
        tmp_path: Path, model_path: Path) -> None:
    code = ("from app import create_app\n"
            "client = create_app().test_client()\n"
            "for model in ('tiny-llama', 'second'):\n"
            "    answer = client.post('/v1/completions', json={'model': model, 'prompt': 'Hello', 'max_tokens': 2})\n"
            "    print(answer.status_code, answer.get_json().get('error', {}).get('message', ''), flush=True)\n"
            "import os; os._exit(0)")
    tiny_llama.make(model_path / "second.gguf", seed=2)
    (tmp_path / "empty.env").touch()
    environ = {**os.environ, "MAYFLY_ENV": str(tmp_path / "empty.env"), "MODEL_PATH": str(model_path),
               "MODEL_NAME": "tiny-llama.gguf", "THREADS": "1"}
    printed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, text=True,
                             timeout=120, check=True).stdout.splitlines()
    assert printed[0].startswith("200")
    assert printed[1].startswith("503") and "configured models only" in printed[1]


@pytest.mark.parametrize("isolation", ["fork", "respawn"])
def test_a_folder_of_links_and_a_model_in_parts_answer_by_their_own_names(
        tmp_path: Path, start: Callable[..., Service], embedding_model: Path, isolation: str) -> None:
    cache = tmp_path / "models--owner--name"
    folder = cache / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (cache / "blobs").mkdir()
    tiny_llama.make(folder / "one.gguf")
    tiny_llama.make(folder / "large.gguf", tensors_a_part=8, seed=2)
    os.link(embedding_model, folder / embedding_model.name)
    files = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in files if file.name.startswith("large"))
    for number, file in enumerate(files):
        os.replace(file, cache / "blobs" / f"5f2a{number}")
        file.symlink_to(f"../../blobs/5f2a{number}")
    service = start(MODEL_PATH=folder, MODEL_NAME="one.gguf", ISOLATION=isolation)
    said = requests.get(service.url + "/v1/models").text
    assert str(tmp_path) not in said and "blobs" not in said and "5f2a" not in said
    listed = {entry["id"]: entry for entry in requests.get(service.url + "/v1/models").json()["data"]}
    assert set(listed) == {"all-MiniLM-L6-v2", "one", "large"}
    assert all(entry["usable"] for entry in listed.values()) and listed["large"]["size"] == size
    assert len(service.embed("a text")[0]) == 384
    for name in ("one", "large"):
        assert text(service, name)
        counted = service.post("/v1/tokenize", {"model": name, "input": "the river"})
        assert counted.status_code == 200, counted.text
    (folder / "large-00003-of-00003.gguf").unlink()
    answer = ask(service, "large")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_unusable")
    assert "its part 3 of 3, large-00003-of-00003.gguf, is missing" in answer.json()["error"]["message"]
    (folder / "large-00003-of-00003.gguf").symlink_to("../../blobs/5f2a3")
    assert text(service, "large")


def test_a_configured_link_that_leaves_the_folder_is_not_loaded(
        tmp_path: Path, start: Callable[..., Service], model_path: Path) -> None:
    os.replace(model_path / "tiny-llama.gguf", tmp_path / "outside.gguf")
    (model_path / "tiny-llama.gguf").symlink_to("../outside.gguf")
    service = start(EMBED_MODEL="none", wait=False)
    service.wait_listening()
    answer = service.post("/gpt4all_api", {"prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    message = answer.json()["error"]["message"]
    assert "'tiny-llama.gguf' is a link that leaves MODEL_PATH" in message and str(tmp_path) not in message
