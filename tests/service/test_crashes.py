"""Processes die one at a time: callers get their answer or a JSON error, and the watchdog writes down what died."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from processes import busy, runs, state
from service import PROJECT, Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL="none")


def test_a_crash_before_the_answer_is_retried_without_the_client_noticing(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME=scripts.write(
        model_path,
        {"when": "first token", "do": "crash", "after": 0, "times": 1},
        {"when": "streamed", "do": "crash", "after": 0, "times": 1},
        {"when": "half way", "do": "crash", "after": 2, "times": 1, "pieces": ["ne", "ver ", "seen"]}))
    assert service.complete("at the first token")["response"] == "Hello there."
    assert service.complete("half way through")["response"] == "Hello there."
    *pieces, end, done = service.stream("streamed")
    assert "".join(piece["response"] for piece in pieces) == "Hello there."
    assert end["finish_reason"] == "stop" and done == "[DONE]"
    lane = until(lambda: _counted(service, spent=3, crashed=3), what="three spent and three crashed")
    assert lane["retried"] == 3
    assert len(service.reports()) == 3
    assert all("killed by SIGSEGV" in report.read_text() for report in service.reports())


def test_a_prompt_that_crashes_every_process_costs_two_of_them_and_is_answered_500(
        start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME=scripts.write(model_path, {"when": "poison", "do": "crash", "after": 1}))
    answer = service.post("/gpt4all_api", {"prompt": "drink this poison"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "model_crashed")
    assert answer.headers["Retry-After"]
    first, second = until(lambda: reports if len(reports := service.reports()) == 2 else None, what="two reports")
    # The newer of the two: names end in the generation's number.
    assert max((first, second), key=lambda report: _generation_of(report.name)).name in error["message"]
    assert service.complete("drink this water")["response"] == "Hello there."
    assert until(lambda: _counted(service, spent=1, crashed=2), what="two crashed")["retried"] == 1
    for report in (first, second):
        text = report.read_text()
        assert "killed by SIGSEGV" in text
        assert f"request:         {answer.headers['X-Request-Id']}" in text
        assert "characters=17" in text
        assert "Segmentation fault" in text  # the stacks, from its stderr
        assert "poison" not in text


def test_a_crash_amid_a_stream_is_an_error_event_and_the_end(start: Callable[..., Service], model_path: Path) -> None:
    crash = {"when": "crash", "do": "crash", "after": 3, "pieces": ["one ", "two ", "three ", "four "],
             "seconds": scripts.APART}
    service = start(MODEL_NAME=scripts.write(model_path, crash))
    events = list(service.stream("crash amid the stream"))
    assert events[:-1] == [{"response": "one "}, {"response": "two "}, {"response": "three "}]
    assert events[-1]["error"]["code"] == "model_crashed"
    (report,) = service.reports()
    assert report.name in events[-1]["error"]["message"]
    assert _counted(service, spent=0, crashed=1)
    assert list(service.stream("and on it goes"))[-1] == "[DONE]"


def test_a_death_after_the_answer_is_no_request_s_and_its_report_says_what_was_done(
        start: Callable[..., Service], model_path: Path) -> None:
    poison = {"when": "poison", "do": "crash ahead", "pieces": ["Thanks."]}
    service = start(MODEL_NAME=scripts.write(model_path, poison))
    turns = [{"role": role, "content": text} for role, text in (
        ("user", "A drink?"), ("assistant", "Water."), ("user", "Rather poison."))]
    answer = service.post("/v1/chat/completions", {"messages": turns})
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "Thanks."
    (report,) = until(service.reports, what="a report")
    text = report.read_text()
    assert "without completing its request" not in text and "request:         none" in text
    assert "doing:           its answer was out; it evaluated that for the next turn" in text
    assert "killed by SIGSEGV" in text and "poison" not in text
    assert _counted(service, spent=0, crashed=1) and service.lane("completion")["retried"] == 0


def test_a_request_survives_the_death_of_its_template(start: Callable[..., Service], model_path: Path) -> None:
    service = start(MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 1.5)))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.complete, "slow and steady", max_tokens=100)
        (serving,) = until(lambda: busy(service), what="a generation that serves")
        template = service.pid("completion")
        os.kill(template, signal.SIGKILL)
        until(lambda: not runs(serving.pid), what="the generation gone with its template")
        answer = asked.result()
    assert answer["response"] == scripts.counted()
    assert answer["generation"] > _generation_of(serving.name)
    assert service.pid("completion") != template
    lane = until(lambda: _counted(service, spent=1, crashed=1), what="the template's crash, and no other, counted")
    assert lane["retried"] == 1
    (report,) = service.reports()
    assert "_completion_" in report.name
    assert f"lost with it:    generation {_generation_of(serving.name)}" in report.read_text()


def test_who_inherits_processes_as_the_first_of_a_container_does_waits_for_them(tmp_path: Path, model_path: Path
                                                                                 ) -> None:
    inherits = ("import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); "  # PR_SET_CHILD_SUBREAPER
                "os.execv(sys.executable, [sys.executable, sys.argv[1]])")
    service = Service(tmp_path / "service", {
        "MODEL_PATH": model_path, "MODEL_NAME": "tiny-llama.gguf", "EMBED_MODEL": "none"},
        command=(sys.executable, "-c", inherits, str(PROJECT / "watchdog.py")))
    service.wait_ready()
    (waiting,) = until(lambda: [name for name in service.sentinels() if name.startswith("completion-")],
                       what="a generation that waits")
    generation = service.pid(waiting.removesuffix(".watchdog"))
    os.kill(service.pid("completion"), signal.SIGKILL)
    until(lambda: _counted(service, crashed=1), what="the template's crash counted")
    until(lambda: state(generation) == "", what="its generation waited for")
    assert service.complete("Hello")
    assert [state(pid) for pid in service.family()].count("Z") == 0
    assert service.stop() == 0


def test_a_generation_that_dies_while_it_waits_is_replaced(start: Callable[..., Service]) -> None:
    service = start()
    name = until(lambda: [name for name in service.sentinels() if name.startswith("completion-")],
                 what="one that waits")[0]
    os.kill(service.pid(name.removesuffix(".watchdog")), signal.SIGKILL)
    until(lambda: _counted(service, spent=0, crashed=1), what="its crash counted")
    answer = service.complete("Hello")
    assert f"completion-{answer['generation']}.watchdog" != name
    assert service.lane("completion")["retried"] == 0
    assert len(service.reports()) == 1


def _counted(service: Service, **wanted: int) -> dict[str, Any]:
    """Return the chat lane's part of /health once its counts are the wanted ones, and {} before."""
    lane = service.lane("completion")
    return lane if {name: lane["restarts"][name] for name in wanted} == wanted else {}


def _generation_of(name: str) -> int:
    """Return the number in a generation's name, or in that of its report."""
    found = re.search(r"completion-(\d+)", name)
    assert found
    return int(found[1])


# -- the watchdog itself --------------------------------------------------------------------------------------


@pytest.mark.settings(EMBED_MODEL=None)  # the real one
@pytest.mark.parametrize("isolation", ["fork", "respawn"])
def test_a_killed_watchdog_leaves_no_orphan(start: Callable[..., Service], model_path: Path, isolation: str) -> None:
    service = start(ISOLATION=isolation, MODEL_NAME=scripts.write(model_path, scripts.slowly("slow", 60.0)))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.post, "/gpt4all_api", {"prompt": "slow", "max_tokens": 100})
        until(lambda: busy(service), what="a process that serves")
        family = until(lambda: found if len(found := service.family()) >= 4 else [], what="the whole family")
        service.process.kill()
        service.process.wait()
        until(lambda: not [pid for pid in family if runs(pid)], within=30, what="all of them gone")
        with pytest.raises(requests.ConnectionError):
            asked.result()
    # What it left in its folder doesn't keep the next one from starting.
    again = start(ISOLATION=isolation, MODEL_NAME=service.settings["MODEL_NAME"])
    assert again.complete("fast")["response"] == "Hello there."
    assert again.reports() == []


@pytest.mark.settings(EMBED_MODEL=None)  # the real one
def test_a_watchdog_killed_while_its_processes_load_leaves_no_orphan(start: Callable[..., Service]) -> None:
    service = start(wait=False)
    service.wait_listening()
    family = until(lambda: found if len(found := service.family()) >= 3 else [], what="app, embed and chat begun")
    service.process.kill()
    service.process.wait()
    until(lambda: not [pid for pid in family if runs(pid)], within=30, what="all of them gone")
