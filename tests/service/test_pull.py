"""Pulling a model over HTTP from a list and files that a server of the test plays."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
import tiny_llama
from models_rig import FileServer
from played_hub import REPOSITORY, TOKEN, PlayedHub
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

KEY = "a-key-of-the-test"
NAME = "pulled-llama.gguf"
ADDRESS = "/gguf/" + NAME
NOISE = random.Random(0).randbytes(3_000_000)


def fill(server: FileServer, original: Path) -> None:
    server.files |= {ADDRESS: original.read_bytes(), "/gguf/noise.gguf": NOISE}
    publish(server, entry(server, NAME), entry(server, "noise.gguf"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.make(tmp_path_factory.mktemp("original") / "original.gguf", seed=5)


@pytest.fixture
def server(original: Path) -> Iterator[FileServer]:
    server = FileServer()
    fill(server, original)
    yield server
    server.close()


@pytest.fixture
def service(server: FileServer, start: Callable[..., Service]) -> Service:
    return start(MODEL_NAME="none", API_KEYS=KEY, MODEL_LIST=server.url + "/models3.json")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, FileServer]]:
    folder, server = tmp_path_factory.mktemp("pulling"), FileServer()
    vectors = scripts.write(folder, name="vectors", kind="embedding")
    service = Service(folder / "service", {
        "MODEL_PATH": folder, "EMBED_MODEL": vectors, "API_KEYS": KEY, "MODEL_LIST": server.url + "/models3.json"})
    yield service.wait_ready(), server
    service.stop()
    server.close()


@pytest.fixture
def shared(both: tuple[Service, FileServer], original: Path) -> tuple[Service, FileServer]:
    """A service that tests share which neither kill nor stall anything, and its server, as if nothing had been yet."""
    service, server = both
    for path in Path(str(service.settings["MODEL_PATH"])).glob("*.gguf*"):
        path.unlink()
    server.requests.clear()
    fill(server, original)
    return both


def entry(server: FileServer, name: str, **fields: object) -> dict[str, object]:
    content = server.files["/gguf/" + name]
    return {"filename": name, "filesize": str(len(content)), "md5sum": hashlib.md5(content).hexdigest(), **fields}


def publish(server: FileServer, *entries: object) -> None:
    server.files["/models3.json"] = json.dumps(entries).encode()


def ask(service: Service, name: str, key: str | None = KEY, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return service.post("/v1/models/pull", {"model": name}, headers=headers, timeout=60, **options)


def events(answer: requests.Response) -> list[Any]:
    """Return the events of a stream, the last of them "[DONE]" or an error."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def parts(service: Service) -> list[str]:
    return sorted(path.name for path in Path(str(service.settings["MODEL_PATH"])).glob("*.part"))


def test_a_pulled_model_tells_of_its_progress_and_can_be_asked_for(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    size = len(server.files[ADDRESS])
    first, *_, success, done = events(ask(service, "pulled-llama"))
    assert first == {"status": "downloading", "completed": 0, "total": size, "model": "pulled-llama"}
    assert success == {"status": "success", "completed": size, "total": size, "model": "pulled-llama"}
    assert done == "[DONE]"
    answer = service.post("/v1/completions", {"model": "pulled-llama", "prompt": "Hello", "max_tokens": 3})
    assert (answer.status_code, answer.json()["model"]) == (200, "pulled-llama")
    server.requests.clear()
    assert events(ask(service, NAME))[-1] == "[DONE]"  # it is there
    assert server.requests == []


def test_it_needs_a_key_also_on_this_machine(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    for key in (None, "a-wrong-key"):
        refused = ask(service, NAME, key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert server.requests == []


def test_without_any_key_in_the_settings_nobody_can_pull(
        server: FileServer, start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME="none", MODEL_LIST=server.url + "/models3.json")
    for key in (None, "anything-at-all"):
        assert ask(service, NAME, key).status_code == 401
    assert server.requests == []


def test_what_the_list_does_not_name_is_not_found(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    for name in ("absent", "absent.gguf", "../escaped", "/etc/passwd", "..", "https://host/x.gguf", "a\0b", "a b",
                 "C:x", "sub/inner", ".hidden", "", "hf:", "hf:owner", "hf:../..",
                 "hf:a/b/../c.gguf\n", "hf:a/b/c.txt"):
        assert ask(service, name).status_code == 404, name
    assert {path for path, _ in server.requests} <= {"/models3.json"}
    assert parts(service) == []


def test_a_list_that_names_other_places_is_not_followed(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    for filename in ("../escaped.gguf", "/tmp/escaped.gguf", ".x.gguf"):
        publish(server, entry(server, NAME, filename=filename, url=server.url + ADDRESS))
        for name in (filename, filename.rpartition("/")[2]):
            assert ask(service, name).status_code == 404, name
    assert parts(service) == []


def test_a_link_in_the_place_of_the_download_is_not_followed(
        shared: tuple[Service, FileServer], tmp_path: Path) -> None:
    service, _ = shared
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (Path(str(service.settings["MODEL_PATH"])) / (NAME + ".part")).symlink_to(victim)
    refused = ask(service, NAME)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "pull_failed")
    assert victim.read_bytes() == b"untouched"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    server.cut += [ADDRESS] * 2
    assert events(ask(service, NAME))[-1] == "[DONE]"
    asked = [wanted for path, wanted in server.requests if path == ADDRESS]
    assert asked[0] is None and len(asked) == 3 and all(asked[1:])


def test_a_wrong_sum_is_an_error_and_leaves_nothing(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    publish(server, entry(server, NAME, md5sum="0" * 32))
    last = events(ask(service, NAME))[-1]
    assert last["error"]["code"] == "pull_failed" and "MD5" in last["error"]["message"]
    assert parts(service) == []
    assert service.post("/v1/completions", {"model": "pulled-llama", "prompt": "Hello"}).status_code == 404


def test_a_list_that_cannot_be_read_is_a_502(shared: tuple[Service, FileServer]) -> None:
    service, server = shared
    del server.files["/models3.json"]
    refused = ask(service, NAME)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "pull_failed")


def test_a_full_disk_is_an_error_and_the_service_goes_on(service: Service) -> None:
    # The kernel's own refusal to make a file of this process longer; Python has SIGXFSZ ignored.
    resource.prlimit(service.pid("app"), resource.RLIMIT_FSIZE, (500_000, 500_000))
    last = events(ask(service, "noise"))[-1]
    assert last["error"]["code"] == "pull_failed" and "can't be written" in last["error"]["message"]
    assert len(service.embed("still here")) == 1
    assert not (Path(str(service.settings["MODEL_PATH"])) / "noise.gguf").exists()


def test_one_download_runs_at_a_time_and_one_that_is_left_is_continued(service: Service, server: FileServer) -> None:
    server.stalled.add("/gguf/noise.gguf")
    with ask(service, "noise", stream=True) as first:
        lines = first.iter_lines()
        assert json.loads(next(lines).removeprefix(b"data: "))["status"] == "downloading"
        assert server.stalling.wait(120)
        second = ask(service, NAME)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "pull_in_progress")
    server.stalled.clear()
    part = Path(str(service.settings["MODEL_PATH"])) / "noise.gguf.part"
    have = until(lambda: part.stat().st_size)
    server.close_stalled()
    # It is over as soon as the thread that reads hears from the network again.
    done = until(lambda: (answer := ask(service, "noise")).status_code == 200 and events(answer))
    assert done[-1] == "[DONE]"
    resumed = [wanted for path, wanted in server.requests if path == "/gguf/noise.gguf"][-1]
    assert resumed is not None and int(resumed.removeprefix("bytes=").rstrip("-")) >= have > 0
    assert part.with_suffix("").read_bytes() == NOISE


def test_a_model_that_is_known_but_absent_says_how_to_pull_it_without_the_network(
        service: Service, server: FileServer) -> None:
    unread = requests.get(service.url + "/v1/models/noise")
    assert unread.status_code == 404 and "if it is one of gpt4all's list" in unread.json()["error"]["message"]
    events(ask(service, NAME))
    server.requests.clear()
    known = requests.get(service.url + "/v1/models/noise").json()["error"]
    assert known["code"] == "model_not_found"
    assert "list has it (0.003 GB)" in known["message"] and "start.sh pull noise" in known["message"]
    assert "Nor does" in requests.get(service.url + "/v1/models/gpt-9").json()["error"]["message"]
    assert server.requests == []


def test_a_download_that_another_program_makes_is_left_alone(shared: tuple[Service, FileServer]) -> None:
    import fcntl

    service, _ = shared
    part = Path(str(service.settings["MODEL_PATH"])) / (NAME + ".part")
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused = ask(service, NAME)
        assert refused.status_code == 502 and "already" in refused.json()["error"]["message"]
    assert events(ask(service, NAME))[-1] == "[DONE]"


def test_the_web_process_may_die_in_the_middle(service: Service, server: FileServer) -> None:
    server.stalled.add("/gguf/noise.gguf")
    with ask(service, "noise", stream=True):
        assert server.stalling.wait(120)
        part = Path(str(service.settings["MODEL_PATH"])) / "noise.gguf.part"
        until(lambda: part.stat().st_size)
        web = service.pid("app")
        os.kill(web, 9)
    server.stalled.clear()
    until(lambda: service.sentinel("app").get("pid") not in (None, web))
    assert events(ask(service, "noise"))[-1] == "[DONE]"
    assert part.with_suffix("").read_bytes() == NOISE


def test_a_model_of_the_hub_is_pulled_by_its_quantization_with_a_token_that_nothing_shows(
        start: Callable[..., Service], tmp_path: Path) -> None:
    hub = PlayedHub()
    file = f"{NAME.removesuffix('.gguf')}-Q4_K_M.gguf"
    hub.add(file, tiny_llama.make(tmp_path / "original.gguf", seed=5).read_bytes())
    hub.cut.append(hub.address(file))
    try:
        service = start(MODEL_NAME="none", API_KEYS=KEY, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
        unknown = requests.get(f"{service.url}/v1/models/hf:{REPOSITORY}").json()["error"]
        assert f"start.sh pull hf:{REPOSITORY}" in unknown["message"]
        first, *_, success, done = events(ask(service, f"hf:{REPOSITORY}"))
        assert (first["model"], first["completed"], success["status"], done) == (
            "pulled-llama-Q4_K_M", 0, "success", "[DONE]")
        assert set(hub.tokens) == {f"Bearer {TOKEN}"}, list(zip(hub.requests, hub.tokens, strict=True))
        assert service.post("/v1/completions", {"model": success["model"], "prompt": "Hello", "max_tokens": 3}
                            ).status_code == 200
        absent = ask(service, f"hf:{REPOSITORY}:Q8_0")
        assert (absent.status_code, absent.json()["error"]["code"]) == (404, "model_not_found")
        hub.refused[hub.api] = (403, "GatedRepo")
        gated = ask(service, f"hf:{REPOSITORY}:Q8_0")
        assert (gated.status_code, gated.json()["error"]["code"]) == (502, "pull_failed")
        shown = service.output() + absent.text + gated.text + "".join(
            path.read_text() for path in service.log_folder.iterdir())
        assert TOKEN not in shown
        for process in ("app", "embedding"):
            assert TOKEN not in Path(f"/proc/{service.pid(process)}/environ").read_text()
    finally:
        hub.close()


def test_a_model_that_ollamas_clients_pull_answers_to_the_name_that_they_asked_for(
        start: Callable[..., Service], tmp_path: Path) -> None:
    hub = PlayedHub()
    for quantization, seed in (("Q4_K_M", 5), ("Q8_0", 6)):
        hub.add(f"pulled-llama-{quantization}.gguf",
                tiny_llama.make(tmp_path / "original.gguf", seed=seed).read_bytes())
    try:
        service = start(MODEL_NAME="none", API_KEYS=KEY, HF_ENDPOINT=hub.url)
        pull = functools.partial(service.post, "/api/pull", headers={"Authorization": f"Bearer {KEY}"})
        name = f"hf.co/{REPOSITORY}"
        absent = service.post("/api/chat", {"model": name, "messages": [{"role": "user", "content": "Hi"}]})
        assert (absent.status_code, absent.json()) == (404, {"error": f"model '{name}' not found"})
        told = [json.loads(line) for line in pull({"model": name}).text.splitlines()]
        total = (tmp_path / "original.gguf").stat().st_size
        downloading = [line for line in told if line["status"].startswith("pulling ") and "total" in line]
        assert {line["total"] for line in downloading} == {total} and downloading[0]["completed"] == 0
        assert all(line["digest"].startswith("sha256:") for line in downloading)
        assert [line["status"] for line in told if line not in downloading] == [
            "pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
        other = f"{name}:Q8_0"
        assert pull({"model": other, "stream": False}).json() == {"status": "success"}
        listed = {model["name"] for model in requests.get(service.url + "/api/tags", timeout=60).json()["models"]}
        assert {f"{name}:latest", other, "pulled-llama-Q8_0:latest"} <= listed
        answers = {each: service.post("/api/generate", {
            "model": each, "prompt": "Hello", "raw": True, "stream": False,
            "options": {"num_predict": 8, "temperature": 0}}).json() for each in (name, other)}
        assert {each: answer["model"] for each, answer in answers.items()} == {name: name, other: other}
        assert answers[name]["response"] != answers[other]["response"]
        hub.requests.clear()
        assert json.loads(pull({"model": name}).text.splitlines()[-1]) == {"status": "success"}
        assert hub.requests == []  # it is there
        unknown = pull({"model": f"{name}:Q2_K"})
        assert unknown.status_code == 404 and isinstance(unknown.json()["error"], str)
    finally:
        hub.close()
