"""ISOLATION=respawn and none, and model files that are replaced while the service runs."""

from __future__ import annotations

import math
import operator
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import scripts
import tiny_llama
from processes import busy, runs
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL="none")

ASKED = {"prompt": "What is a mayfly?", "temp": 0, "max_tokens": 24}


def test_respawn_serves_each_completion_from_another_process(start: Callable[..., Service]) -> None:
    service = start(ISOLATION="respawn")
    served, texts = [], set()
    for _ in range(4):
        both = _active_and_standby(service)
        active = service.lane("completion")["pid"]
        (standby,) = set(both) - {active}
        answer = service.complete("Tell me a story.", temp=1, max_tokens=16)
        assert answer["generation"] == both[active]
        # The next one is loaded already, and now it is its turn.
        until(lambda next_one=standby: service.lane("completion")["pid"] == next_one, what="the standby's turn")
        served.append(active)
        texts.add(answer["response"])
    assert len(set(served)) == len(texts) == 4
    until(lambda: not [pid for pid in served if runs(pid)], what="all of them gone")
    until(lambda: service.lane("completion")["restarts"]["spent"] == 4, what="four spent")
    assert service.lane("completion")["restarts"] == {"spent": 4, "crashed": 0, "hung": 0, "failed_start": 0}
    assert service.reports() == []


def test_in_respawn_every_completion_is_counted_as_spent(start: Callable[..., Service], model_path: Path) -> None:
    service = start(ISOLATION="respawn", MODEL_NAME=scripts.write(model_path))
    generations = [service.complete("Hello")["generation"] for _ in range(12)]
    assert len(set(generations)) == 12
    until(lambda: service.lane("completion")["restarts"]["spent"] == 12, what=f"12 spent in:\n{service.output()}")
    assert "it ended" not in service.output()
    assert service.reports() == []


def test_in_respawn_the_standby_serves_the_request_of_a_crashed_process(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(ISOLATION="respawn", MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 1.0)))
    _active_and_standby(service)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.complete, "slow", max_tokens=100)
        (serving,) = until(lambda: busy(service), what="a process that serves")
        os.kill(serving.pid, signal.SIGKILL)
        answer = asked.result()
    assert answer["response"] == scripts.counted()
    assert f"completion-{answer['generation']}" != serving.name
    until(lambda: [service.lane("completion")["restarts"][cause] for cause in ("crashed", "spent")] == [1, 1],
          what="one crashed, one spent")
    assert service.lane("completion")["retried"] == 1
    (report,) = service.reports()
    assert f"_{serving.name}_" in report.name
    assert "killed by SIGKILL" in report.read_text()
    # An idle one that dies costs nobody anything.
    both = _active_and_standby(service)
    os.kill(service.lane("completion")["pid"], signal.SIGKILL)
    assert service.complete("Hello")["generation"] in both.values()
    until(lambda: service.lane("completion")["restarts"]["crashed"] == 2, what="the second crash counted")


@pytest.mark.parametrize("isolation", ["fork", "respawn"])
def test_two_completions_at_once_come_from_two_processes(
        start: Callable[..., Service], model_path: Path, isolation: str) -> None:
    service = start(ISOLATION=isolation, CHAT_PROCESSES=2,
                    MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 1.5)))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(service.complete, "slow", max_tokens=100) for _ in range(3)]
        both = until(lambda: found if len(found := busy(service)) == 2 else [], what="two that serve at once")
        assert len({entry.pid for entry in both}) == len({entry.request for entry in both}) == 2
        answers = [request.result() for request in asked]
    assert [answer["response"] for answer in answers] == [scripts.counted()] * 3
    assert len({answer["generation"] for answer in answers}) == 3
    until(lambda: service.lane("completion")["restarts"]["spent"] == 3, what="three spent")
    assert service.reports() == []


def test_without_isolation_one_process_serves_all_until_it_crashes(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(ISOLATION="none", MODEL_NAME=scripts.write(
        model_path, {"when": "crash", "do": "crash", "after": 1, "times": 1}))
    pid = service.pid("completion")
    generations = [service.complete("Hello")["generation"] for _ in range(5)]
    assert len(set(generations)) == 1
    assert service.pid("completion") == pid
    answer = service.complete("crash once")
    assert answer["response"] == "Hello there."
    assert answer["generation"] > generations[0]
    until(lambda: not runs(pid), what="the crashed one gone")
    until(lambda: service.lane("completion")["restarts"]["crashed"] == 1, what="the crash counted")
    assert service.lane("completion")["restarts"]["spent"] == 0
    (report,) = service.reports()
    assert "calls served:    5" in report.read_text()


@pytest.mark.parametrize("isolation", ["fork", "respawn", "none"])
def test_a_completion_model_that_is_replaced_by_rename_is_picked_up(
        start: Callable[..., Service], model_path: Path, isolation: str) -> None:
    service = start(ISOLATION=isolation)
    before = service.complete(**ASKED)["response"]
    os.replace(tiny_llama.make(model_path / "other.gguf", seed=7), model_path / "tiny-llama.gguf")
    after = until(lambda: text if (text := service.complete(**ASKED)["response"]) != before else "",
                  what="an answer of the new model")
    assert {service.complete(**ASKED)["response"] for _ in range(3)} == {after}
    if isolation != "respawn":  # there, spent processes may have made room for the new model already
        service.printed("completion: its model file was replaced")
    assert [service.lane("completion")["restarts"][cause] for cause in ("crashed", "failed_start")] == [0, 0]
    assert service.reports() == []


@pytest.mark.settings(EMBED_MODEL=None)  # the real one
def test_an_embedding_model_that_is_replaced_by_rename_is_picked_up(
        start: Callable[..., Service], model_path: Path, embedding_model: Path) -> None:
    service = start(MODEL_NAME="none")
    (before,) = service.embed("The cat sat on the mat.")
    os.replace(_mirrored(embedding_model, model_path / "other.gguf"), model_path / embedding_model.name)

    def cosine() -> float:
        return math.fsum(map(operator.mul, service.embed("The cat sat on the mat.")[0], before))

    until(lambda: cosine() < 0, what="a vector of the new model")
    assert cosine() == pytest.approx(-1, abs=1e-4)
    assert service.lane("embedding")["restarts"] == {"spent": 0, "crashed": 0, "hung": 0, "failed_start": 0}
    assert service.reports() == []


def _active_and_standby(service: Service) -> dict[int, int]:
    """Wait until two processes are loaded; return their generations by pid."""
    def loaded() -> dict[int, int]:
        facts = [service.sentinel(file.removesuffix(".watchdog")) for file in service.sentinels()
                 if file.startswith("completion-")]
        found = {int(fact["pid"]): int(fact["generation"]) for fact in facts if fact}
        return found if len(found) == 2 and service.lane("completion")["pid"] in found else {}

    return until(loaded, what="one that serves and a standby")


def _mirrored(model: Path, path: Path) -> Path:
    """Write a copy of a BERT model whose every vector points the other way."""
    path.write_bytes(model.read_bytes())
    tensors = gguf.GGUFReader(path, "r+").tensors
    last = max((tensor.name for tensor in tensors if "layer_output_norm" in tensor.name),
               key=lambda name: int(name.split(".")[1]))
    for tensor in tensors:
        if tensor.name.rpartition(".")[0] == last.rpartition(".")[0]:
            np.negative(tensor.data, out=tensor.data)
    return path
