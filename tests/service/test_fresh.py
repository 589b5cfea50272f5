"""Every completion comes from a process that has served nobody before, and nothing of one shows in another."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import runs
from service import Service, until

COMPLETIONS = 50


def test_fifty_completions_come_from_fifty_processes_that_are_gone_afterwards(start: Callable[..., Service]) -> None:
    service = start()
    pids, generations, texts = set(), [], set()
    for _ in range(COMPLETIONS):
        waiting = _the_one_ahead(service)
        pid = service.pid(waiting)
        answer = service.complete("Tell me a story.", temp=1, max_tokens=16)
        assert f"completion-{answer['generation']}" == waiting
        until(lambda name=waiting: f"{name}.watchdog" not in service.sentinels(), what=f"{waiting} spent")
        pids.add(pid)
        generations.append(answer["generation"])
        texts.add(answer["response"])
    assert len(pids) == COMPLETIONS
    assert generations == sorted(set(generations))
    until(lambda: service.lane("completion")["restarts"]["spent"] == COMPLETIONS, what="as many spent as were served")
    until(lambda: not [pid for pid in pids if runs(pid)], what="every one of them gone")
    assert service.lane("completion")["restarts"] == {"spent": COMPLETIONS, "crashed": 0, "hung": 0, "failed_start": 0}
    assert service.lane("embedding")["restarts"] == {"spent": 0, "crashed": 0, "hung": 0, "failed_start": 0}
    assert service.reports() == []
    # Forks of one template share its random generator unless each is given numbers of its own.
    print(f"{len(texts)} different answers of {COMPLETIONS} at temperature 1")
    assert len(texts) >= 45


@pytest.mark.parametrize("isolation", ["fork", "none"])
def test_temperature_0_gives_the_same_answer_whatever_was_asked_in_between(
        start: Callable[..., Service], isolation: str) -> None:
    service = start(ISOLATION=isolation)
    asked = {"prompt": "What is a mayfly?", "persona": "You are a naturalist.", "temp": 0, "max_tokens": 24}
    first = service.complete(**asked)
    others: dict[str, Callable[[], object]] = {
        "another prompt": lambda: service.complete("What is a river?", temp=0, max_tokens=24),
        "a hot one": lambda: service.complete("What is a mayfly?", temp=2, top_p=1, max_tokens=64),
        "another persona": lambda: service.complete(**{**asked, "persona": "You are a pirate."}),
        "a longer answer": lambda: service.complete(**{**asked, "max_tokens": 100}),
        "an earlier turn": lambda: service.complete(**asked, assist="It is an insect."),
        "a stream": lambda: list(service.stream("What is a mayfly?", temp=0)),
        "a stream that is left": lambda: next(service.stream("What is a mayfly?", max_tokens=1500)),
        "a stop string": lambda: service.complete(**asked, stop=first["response"][5:9]),
        "vectors": lambda: service.embed(["What is a mayfly?"] * 3),
        "one that doesn't fit": lambda: service.post("/gpt4all_api", {"prompt": "word " * 3000}),
    }
    for what, ask in others.items():
        ask()
        again = service.complete(**asked)
        assert (what, again["response"]) == (what, first["response"])
        assert again["usage"] == first["usage"]
    assert service.reports() == []


def test_personas_that_are_used_again_and_again_never_mix(start: Callable[..., Service]) -> None:
    service = start(EMBED_MODEL="none", CHAT_PROCESSES=2)
    personas = [f"You are Ada, the keeper of house number {number} by the river." for number in range(3)]
    fields = {"temp": 0, "max_tokens": 16}
    right = {persona: service.complete("Hello", persona=persona, **fields)["response"] for persona in personas}
    assert len(set(right.values())) == 3
    asked = personas * 12
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda persona: service.complete("Hello", persona=persona, **fields), asked))
    assert [answer["response"] for answer in answers] == [right[persona] for persona in asked]
    hot = [service.complete("Tell me a story", persona=personas[0], temp=1, top_p=1, max_tokens=16)["response"]
           for _ in range(10)]
    assert len(set(hot)) == 10
    assert service.reports() == []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system tells nothing of its page tables")
def test_the_process_ahead_has_its_weights_mapped_and_pages_of_its_own_and_an_empty_window_takes_no_memory(
        start: Callable[..., Service], smollm2: Path) -> None:
    pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")
    own = {}
    for window in (512, 8192):
        service = start(folder=str(window), MODEL_PATH=smollm2.parent, MODEL_NAME=smollm2.name, EMBED_MODEL="none",
                        N_CTX=window).wait_ready()
        own[window] = _in_memory(service.pid("completion"), "RssAnon")
        template, ahead = service.pid("completion"), service.pid(_the_one_ahead(service))
        until(lambda one=template, other=ahead: _mapped(other, smollm2) >= _mapped(one, smollm2) > 0)
        # What a call writes to, some 17 MB: without it a process that waits has 3 MB of its own.
        until(lambda other=ahead: _own(other) > 10 << 10, what="its own pages")
        service.stop()
    # A token takes 23 kB, and 7,680 more of them would take 177 MB.
    assert own[8192] - own[512] < 40 << 10


def _in_memory(pid: int, kind: str) -> int:
    """Return what a process has in memory, in kB, of a kind of `/proc/PID/status`."""
    return int(re.findall(rf"^{kind}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


def _own(pid: int) -> int:
    """Return how much memory a process shares with none, in kB."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Private_Dirty:\s+(\d+) kB$", told, re.MULTILINE)[0])


def _mapped(pid: int, file: Path) -> int:
    """Return how much of a file is in a process's page tables, in kB."""
    told = Path(f"/proc/{pid}/smaps").read_text()
    return sum(map(int, re.findall(rf" {re.escape(str(file.resolve()))}\n(?:.*\n)*?Rss: +(\d+) kB", told)))


def _the_one_ahead(service: Service) -> str:
    """Wait until the one generation that waits for a call is the only one there; return its name."""
    def alone() -> str:
        names = [name for name in service.sentinels() if name.startswith("completion-")]
        return names[0].removesuffix(".watchdog") if len(names) == 1 else ""

    return until(alone, what="a single generation")
