"""The service end to end, at its simplest: a vector, a completion, a stop."""

from __future__ import annotations

import math
from collections.abc import Callable

from service import Service


def test_a_started_service_answers_with_real_vectors_and_completions(start: Callable[..., Service]) -> None:
    service = start()
    (vector,) = service.embed("The cat sat on the mat.")
    assert len(vector) == 384
    assert abs(math.fsum(number * number for number in vector) - 1) < 1e-3
    answer = service.complete("Hello", persona="You are a pirate.", max_tokens=12)
    assert answer["response"]
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["finish_reason"] == "length"


def test_a_stopped_service_leaves_no_process_and_no_file_behind(start: Callable[..., Service]) -> None:
    service = start()
    service.complete("Hello")
    family = service.family()
    assert len(family) >= 4  # app, embed, chat, a generation
    assert service.stop() == 0
    assert sorted(path.name for path in service.run_folder.iterdir()) == ["watchdog.lock"]
    assert not [pid for pid in family if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
