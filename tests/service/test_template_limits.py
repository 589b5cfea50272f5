"""A chat template is a program that comes with a file: whatever it asks for, it gets little and harms nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import tiny_llama
from families import FAMILIES
from service import PROJECT, Service

from mayfly.errors import EngineFailed, InvalidRequest
from mayfly.prompts import limits
from mayfly.prompts import template as template_module
from mayfly.prompts.template import ChatTemplate
from mayfly.wire.calls import Message

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is bounded where it is counted"),
    pytest.mark.settings(EMBED_MODEL="none")]

HUGE = "10 ** 9"
DOUBLED = ("{% set ns = namespace(s=START) %}{% for i in range(60) %}{% set ns.s = TWICE %}{% endfor %}"
           "{{ ns.s | length }}")
NESTED = "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s SHOWN}}"

MEMORY = {
    "%": "{{ '%1000000000d' % 1 }}", "% *": "{{ '%*d' % (HUGE, 1) }}", "% .": "{{ '%.1000000000f' % 1.5 }}",
    "% of a text": "{{ '%1000000000s' % m }}", "format filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000d}'.format(1) }}", "format {}": "{{ '{:{}d}'.format(1, HUGE) }}",
    "format_map": "{{ '{a:1000000000d}'.format_map({'a': 1}) }}",
    "times": "{{ 'a' * HUGE }}", "times a text": "{{ m * HUGE }}", "times a list": "{{ [m] * HUGE }}",
    "ljust": "{{ m.ljust(HUGE) }}", "rjust": "{{ 'a'.rjust(HUGE) }}", "center": "{{ 'a'.center(HUGE) }}",
    "zfill": "{{ 'a'.zfill(HUGE) }}", "expandtabs": "{{ '\t'.expandtabs(HUGE) }}",
    "center filter": "{{ m | center(HUGE) }}", "center constant": "{{ 'a' | center(1000000000) }}",
    "indent": "{{ ('a\n' * 9) | indent(HUGE) }}", "indent lines": "{{ ('b\n' * 10 ** 5) | indent(10 ** 5) }}",
    "join": "{{ range(100000) | join('a' * 10 ** 5) }}", "join texts": "{{ ('a' * 10 ** 5).join('b' * 10 ** 5) }}",
    "replace": "{{ ('a' * 10 ** 5).replace('a', 'b' * 10 ** 5) }}",
    "replace nothing": "{{ ('a' * 10 ** 5) | replace('', m * 10 ** 5) }}",
    "batch": "{{ messages | batch(HUGE, 'x') | list | length }}", "tojson": "{{ messages | tojson(indent=HUGE) }}",
    "xmlattr": "{{ {'a': 'b' * HUGE} | xmlattr }}",
    "doubled by ~": DOUBLED.replace("START", "'a'").replace("TWICE", "ns.s ~ ns.s"),
    "doubled by +": DOUBLED.replace("START", "m").replace("TWICE", "ns.s + ns.s"),
    "doubled by a filter": DOUBLED.replace("START", "m").replace("TWICE", "[ns.s, ns.s] | join"),
    "doubled list": DOUBLED.replace("START", "[1]").replace("TWICE", "ns.s + ns.s"),
    "doubled by a macro": "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}"
                          + DOUBLED.replace("START", "'a'").replace("TWICE", "d(ns.s)"),
    "output": "{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
    "slices": "{% set ns = namespace(s=[]) %}{% set big = range(100000) | list %}"
              "{% for i in range(9999) %}{% set ns.s = [ns.s, big[:]] %}{% endfor %}{{ ns.s | length }}",
}
TIME = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "sum": "{{ (range(100000) | batch(1) | list * 10) | sum(start=[]) | length }}",
    "shared": DOUBLED.replace("START", "[1]").replace("TWICE", "[ns.s, ns.s]").replace("| length", "| tojson | length"),
}
DEPTH = {
    "macro": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "macros": "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "caller": "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
    "list": NESTED.replace("SHOWN", ""), "json": NESTED.replace("SHOWN", "| tojson"),
    "equal lists": NESTED.replace("SHOWN", "== [ns.s]"),
    "filters": NESTED.replace("[ns.s]", "ns.s | map('upper')").replace("SHOWN", "| list"),
}
NUMBERS = {
    "powers": "{{ 10 ** (10 ** 9) }}", "powers of powers": "{{ 9 ** 9 ** 9 ** 9 }}",
    "squares": DOUBLED.replace("START", "3").replace("TWICE", "ns.s * ns.s"),
    "round": "{{ 1.5 | round(HUGE, 'ceil') }}", "range": "{{ range(HUGE) | list }}",
}
UNREADABLE = {
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "minuses": "{{ " + "-" * 5000 + "1 }}",
    "pluses": "{{ " + " + ".join(["1"] * 20000) + " }}", "lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "ifs": "{% if true %}" * 150 + "{% endif %}" * 150, "fors": "{% for a in messages %}" * 30 + "{% endfor %}" * 30,
}


def source_of(part: str) -> str:
    return "{% set m = messages[0].content %}" + part.replace("HUGE", HUGE)


def failure(part: str) -> str:
    template = ChatTemplate(source_of(part), bos_token="", eos_token="")
    with pytest.raises(EngineFailed) as caught:
        template.render([Message("user", "secret" * 3)])
    assert caught.value.code == "engine_failed" and "secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MEMORY)
def test_a_template_that_asks_for_memory_gets_none(name: str) -> None:
    assert "it takes too much memory" in failure(MEMORY[name])


def alone(work: str) -> str:
    """Do something of this module in a process of its own, as a completion has: it is small, so its garbage is
    collected in no time, and what the last one's allocator keeps is no template's. Return what it prints."""
    path = os.pathsep.join(str(PROJECT / folder) for folder in ("", "tests/service", "tests/rigs"))
    done = subprocess.run([sys.executable, "-c", f"import test_template_limits as here; here.{work}"], text=True,
                          capture_output=True, env={"PYTHONPATH": path}, timeout=120)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


def show_what_each_takes() -> None:
    """Print the megabytes that each template of MEMORY takes, each in a fork."""
    import resource

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    for part in MEMORY.values():
        if os.fork() == 0:
            before = peak()
            failure(part)
            print(peak() - before, flush=True)
            os._exit(0)
        os.wait()


def test_what_such_templates_really_take_is_bounded() -> None:
    taken = [int(line) for line in alone("show_what_each_takes()").split()]
    assert len(taken) == len(MEMORY) and max(taken) < 224, "MB"


def end(name: str) -> None:
    """Render a template that never ends, with little time, so that the test needs little."""
    usual, template_module._SECONDS = template_module._SECONDS, 0.2
    assert "it takes too long" in failure(TIME[name])
    # Nothing of it is left: neither a limit nor a timer. What is done now may take its time.
    template_module._SECONDS = usual
    plain = ChatTemplate("{% for i in range(99999) %}{% endfor %}{{ messages[0].content }}", bos_token="", eos_token="")
    assert plain.render([Message("user", "x" * 10_000_000)])[0].text[-1] == "x"


@pytest.mark.parametrize("name", TIME)
def test_a_template_that_never_ends_is_ended(name: str) -> None:
    alone(f"end({name!r})")


def lose_what_is_raised() -> None:
    """Lose the first sign that the time is up."""
    lost = []

    def endless() -> None:
        while True:
            pass

    def work() -> None:
        try:
            endless()
        except limits.TimeIsUp:
            lost.append(True)
        endless()

    with pytest.raises(limits.TimeIsUp):
        limits.bounded(work, memory=64 << 20, seconds=0.1)
    assert lost == [True]
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_time_ends_a_template_though_what_is_raised_is_lost_at_first() -> None:
    """As in a callback of the garbage collector, such as test frameworks have, or in a destructor."""
    alone("lose_what_is_raised()")


def take_the_time(slow: str) -> None:
    """Take all the time in a step of setting or clearing the limit."""
    own = getattr(signal, slow)

    def slowly(*arguments: object) -> object:
        done = own(*arguments)
        if signal.getitimer(signal.ITIMER_PROF)[0]:
            while True:
                pass
        return done

    signals = signal.getsignal(signal.SIGPROF)
    setattr(signal, slow, slowly)
    with contextlib.suppress(limits.TimeIsUp):
        limits.bounded(lambda: None, memory=64 << 20, seconds=0.1)
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) == signals


@pytest.mark.parametrize("slow", ["setitimer", "signal"])
def test_nothing_is_left_of_a_limit_whose_time_is_up_at_its_beginning_or_its_end(slow: str) -> None:
    """As where the garbage of a large program is collected in that moment."""
    alone(f"take_the_time({slow!r})")


@pytest.mark.parametrize("name", DEPTH)
def test_a_template_that_nests_without_an_end_fails_and_nothing_crashes(name: str) -> None:
    assert "it is nested too deep, or without an end" in failure(DEPTH[name])


@pytest.mark.parametrize("name", NUMBERS)
def test_a_template_that_makes_huge_numbers_fails(name: str) -> None:
    assert "it makes too large a number or range" in failure(NUMBERS[name])


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_template_that_is_nested_too_deep_cannot_be_read(name: str) -> None:
    assert "can't be read" in failure(UNREADABLE[name])


def test_nothing_is_computed_before_it_is_called_for() -> None:
    assert ChatTemplate("{{ 'a' * 10 ** 9 }}{{ 'a' | center(1000000000) }}", bos_token="", eos_token="")


def test_a_template_that_writes_more_than_a_prompt_can_be_fails() -> None:
    assert "it writes 5000000 characters" in failure("{{ 'a' * 5000000 }}")


@pytest.mark.parametrize("messages", [
    [Message("user", "a"), Message("assistant", "b")] * 5_000, [Message("user", "a\n" * 2_000_000)],
    [Message("user", "a")] * 2_000, [Message("user", "<think>" * 200_000 + "</think>" * 200_000)] * 3,
], ids=["many turns", "a long text", "a run", "thoughts"])
@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1", "gemma-3", "llama-2"])
def test_a_large_conversation_is_written(name: str, messages: list[Message]) -> None:
    family = FAMILIES[name]
    template = ChatTemplate(family.template, bos_token=family.token("bos"), eos_token=family.token("eos"))
    segments = template.render([*messages, Message("user", "why")])
    assert sum(len(segment.text) for segment in segments if not segment.special) > 2_000


def write_too_much() -> None:
    """Render a conversation that takes more time than any may."""
    template_module._MOST_SECONDS = 0.05
    template = ChatTemplate(FAMILIES["qwen3"].template, bos_token="", eos_token="")
    assert template.render([Message("user", "a")] * 9)
    with pytest.raises(InvalidRequest, match="too large for the model's chat template"):
        template.render([Message("user", "a")] * 20_000)


def test_a_conversation_too_large_for_a_template_is_the_callers_to_shorten() -> None:
    alone("write_too_much()")


def test_over_http_a_hostile_template_is_engine_failed_with_a_reason_and_harms_nobody_else(
        start: Callable[..., Service], model_path: Path) -> None:
    hostile = {"memory": MEMORY["%"], "time": TIME["loops"], "depth": DEPTH["macro"],
               "unreadable": UNREADABLE["parentheses"]}
    for name, part in hostile.items():
        tiny_llama.make(model_path / f"{name}.gguf", chat_template=source_of(part))
    service = start(MAX_MODELS=4)

    def ask(model: str) -> tuple[int, str]:
        answer = service.post("/v1/chat/completions", {
            "model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        return answer.status_code, answer.text

    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(hostile, pool.map(ask, hostile), strict=True))
        good = list(pool.map(ask, ["tiny-llama"] * 4))
    assert [status for status, _ in good] == [200] * 4
    for name, reason in (("memory", "too much memory"), ("time", "takes too long"), ("depth", "nested too deep"),
                         ("unreadable", "can't be read: it is nested too deep")):
        status, text = answers[name]
        assert status == 500 and '"code":"engine_failed"' in text.replace(": ", ":") and reason in text
        assert text.count("set PROMPT_TEMPLATE") == 1
    # Without their templates the models serve, from processes that nothing has happened to.
    for name in hostile:
        bare = service.post("/v1/completions", {"model": name, "prompt": "Hello", "max_tokens": 4})
        assert bare.status_code == 200
    assert not service.reports()


def test_over_http_what_no_limit_can_interrupt_ends_with_its_process_alone(
        start: Callable[..., Service], model_path: Path) -> None:
    compared = ("{% set ns = namespace(a=[], b=[]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}"
                "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}")
    tiny_llama.make(model_path / "compares.gguf", chat_template=compared)
    service = start(MAX_MODELS=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.post, "/v1/chat/completions", {
            "model": "compares", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        while wait([asked], timeout=0.5).not_done:
            assert service.complete("Hello")["response"]
    assert (asked.result().status_code, asked.result().json()["error"]["code"]) == (500, "model_crashed")
    assert service.complete("Hello")["response"]


def test_over_http_a_second_turn_with_a_model_that_reasons_and_a_run_of_turns_are_answered(
        start: Callable[..., Service], model_path: Path) -> None:
    FAMILIES["qwen3"].make(model_path / "reasons.gguf")
    FAMILIES["gemma-2"].make(model_path / "alternates.gguf")
    service = start(MODEL_NAME="reasons.gguf")

    def ask(model: str, messages: list[dict[str, str]]) -> int:
        body = {"model": model, "messages": messages, "max_tokens": 4}
        answer = service.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    asked = {"role": "user", "content": "the light"}
    short = ask("reasons", [asked, {"role": "assistant", "content": "of the moon"}, asked])
    long = ask("reasons", [asked, {"role": "assistant", "content": "<think>\nthe\n</think>\n\nof the moon"}, asked])
    assert short == long
    assert ask("alternates", [asked] * 3 + [{"role": "user", "content": "Summary:"}]) > ask("alternates", [asked])
