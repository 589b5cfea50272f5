"""The engine of completions in a service: a real model by llama.cpp, in processes of its own, and who serves when it
can't."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from service import PROJECT, Service, until

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")

FACT = {"prompt": "What is the capital of Germany?", "temperature": 0, "repeat_penalty": 1.0, "max_tokens": 12}


def _huge_pages() -> str:
    """Return what the kernel says of large pages, if glibc can ask for them."""
    version = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    old = version is None or tuple(map(int, version.split()[1].split("."))) < (2, 35)
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return "" if old or not file.exists() else file.read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("smollm2")
    running = Service(folder, {"MODEL_PATH": smollm2.parent, "MODEL_NAME": smollm2.name, "EMBED_MODEL": "",
                               "N_CTX": 8192})
    yield running.wait_ready()
    running.stop()


def test_a_real_model_answers_and_the_service_says_what_computes_it(service: Service) -> None:
    answer = service.complete(**FACT)
    assert "Berlin" in answer["response"]
    lane = service.lane("completion")
    assert (lane["engine"], lane["isolation"]) == ("llamacpp", "fork")
    listed = service.session.get(service.url + "/v1/models/SmolLM2-135M-Instruct.Q4_1").json()
    assert (listed["engine"], listed["usable"]) == ("llamacpp", True)


def test_every_completion_has_a_process_of_its_own_and_at_temperature_0_all_say_the_same(service: Service) -> None:
    answers = [service.complete(**FACT) for _ in range(8)]
    assert len({answer["generation"] for answer in answers}) == 8
    assert len({answer["response"] for answer in answers}) == 1
    drawn = [service.complete("Tell me a story.", temperature=1, top_p=1, max_tokens=12) for _ in range(4)]
    assert len({answer["response"] for answer in drawn}) == 4
    assert service.reports() == []


@pytest.mark.skipif("[madvise]" not in _huge_pages(), reason="this kernel has large pages always, or never")
def test_weights_lie_in_large_pages_where_the_kernel_gives_them_to_who_asks(service: Service) -> None:
    service.complete(**FACT)
    template = service.pid("completion")
    flags = re.findall(r"^VmFlags:(.*)", Path(f"/proc/{template}/smaps").read_text(), flags=re.M)
    assert any("hg" in each.split() for each in flags)


def test_a_client_that_leaves_while_its_prompt_is_evaluated_frees_its_process(service: Service) -> None:
    spent = service.lane("completion")["restarts"]["spent"]
    body = b'{"prompt": "' + b"the river and the hill " * 1200 + b'", "max_tokens": 1}'
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /gpt4all_api HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: service.lane("completion")["active"] == 1, what="a process that evaluates")
    until(lambda: service.lane("completion")["restarts"]["spent"] > spent, what="its end")
    service.printed(r"spent after \d+\.\d+ s, 0 tokens \(cancelled\)")


def test_who_asks_for_a_library_that_is_not_there_is_served_by_gpt4all_and_told_so(
        start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(LLAMA_LIBRARY=tmp_path, EMBED_MODEL="none")
    assert service.complete("Hello", max_tokens=4)["response"]
    assert service.lane("completion")["engine"] == "gpt4all"
    service.printed(r"completions are computed by gpt4all: there is no library of llama.cpp at")
    # What the engine that serves can't do is refused, though the one that was tried first could.
    error = service.post("/gpt4all_api", {"prompt": "Hello", "seed": 7}).json()["error"]
    assert error["message"] == "'seed' has to be left out: gpt4all takes no seed."


@pytest.mark.parametrize(("path", "fields"), [
    ("/gpt4all_api", {"prompt": "Hello", "seed": 7}),
    ("/v1/completions", {"prompt": "Hello", "logprobs": 0, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "n_ctx": 100}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_nobody_has_loaded_refuses_what_the_engine_lacks_that_then_serves_it(
        start: Callable[..., Service], model_path: Path, tmp_path: Path, path: str, fields: dict[str, Any]) -> None:
    os.link(model_path / "tiny-llama.gguf", model_path / "second.gguf")
    service = start(LLAMA_LIBRARY=tmp_path, EMBED_MODEL="none")
    asked = {"model": "second", "max_tokens": 4, **fields}
    [field] = {"seed", "logprobs", "n_ctx"}.intersection(fields)
    refused = service.post(path, asked)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
    assert error["message"] == f"'{field}' has to be left out: gpt4all, which serves this model, has nothing for it."
    del asked[field]
    assert service.post(path, asked).status_code == 200


def test_no_seed_is_told_of_an_answer_that_was_made_without_one(
        start: Callable[..., Service], model_path: Path, tmp_path: Path) -> None:
    """As a model is loaded shows which engine serves it, and the first call has come before."""
    service = start(LLAMA_LIBRARY=tmp_path, EMBED_MODEL="none")
    turns = [{"role": "user", "content": "Hello"}]
    for number, (path, body) in enumerate([
            ("/gpt4all_api", {"prompt": "Hello"}), ("/gpt4all_api", {"prompt": "Hello", "stream": True}),
            ("/v1/completions", {"prompt": "Hello"}), ("/v1/chat/completions", {"messages": turns, "stream": True}),
            ("/v1/messages", {"messages": turns}), ("/api/chat", {"messages": turns, "stream": False})]):
        os.link(model_path / "tiny-llama.gguf", model_path / f"model-{number}.gguf")
        answer = service.post(path, {"model": f"model-{number}", "max_tokens": 4, **body})
        assert answer.status_code == 200 and "X-Seed" not in answer.headers, answer.headers
        assert '"seed"' not in answer.text
        assert service.lane(f"model:model-{number}")["engine"] == "gpt4all"


def test_a_file_that_could_not_be_loaded_is_listed_with_llamacpps_own_reason_until_it_is_another(
        start: Callable[..., Service], model_path: Path) -> None:
    whole = (model_path / "tiny-llama.gguf").read_bytes()
    cut = model_path / "cut.gguf"
    cut.write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.1.attn_r.weight"))
    service = start(EMBED_MODEL="none", CHAT_ENGINE="llamacpp")

    def listed() -> dict[str, Any]:
        return dict(service.session.get(service.url + "/v1/models/cut").json())

    assert listed()["usable"] is True
    refused = service.post("/gpt4all_api", {"model": "cut", "prompt": "Hello"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_unusable")
    assert listed()["usable"] is False
    assert "llama.cpp can't load cut.gguf: " in listed()["reason"]
    assert "'blk.1.attn_q.weight' not found" in listed()["reason"]
    cut.write_bytes(whole)
    assert listed()["usable"] is True and "reason" not in listed()


def test_a_library_that_dies_while_it_loads_or_tests_a_model_is_done_without(
        start: Callable[..., Service], tmp_path: Path) -> None:
    # The library ends the process as an instruction does that a processor lacks.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'mayfly.workers' in sys.orig_argv:\n"
        f"    sys.path.insert(0, {str(PROJECT)!r})\n"
        "    from mayfly.engines.llamacpp import completions\n"
        "    completions.LlamaCompletions.self_test = lambda engine: os.kill(os.getpid(), signal.SIGILL)\n")
    service = start(PYTHONPATH=tmp_path / "site", EMBED_MODEL="none")
    assert service.complete("Hello", max_tokens=4)["response"]
    assert service.lane("completion")["engine"] == "gpt4all"
    service.printed("CHAT_ENGINE=auto means gpt4all from now on")
    (report,) = service.reports()
    assert "SIGILL" in report.read_text()
