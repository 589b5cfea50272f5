"""However much a body holds, little is done with it: counted in calls and memory, as times depend on the machine."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson
import pytest
from hostile_bodies import bodies
from web_rig import web

from mayfly.errors import InvalidRequest
from mayfly.settings import parse
from mayfly.web.application import route_table
from mayfly.web.bodies import holds_more, most_values, parsed
from mayfly.web.schemas import validate

# Mostly more than is parsed, and about as much as is validated.
SIZES = (400_000, 120_000)
SETTINGS = parse({})
MOST = most_values(SETTINGS.max_texts)
ROUTES = {route.path: route for route in route_table(web(SETTINGS))}
BODIES = {f"{path} {what} in {size}": (path, make) for size in SIZES for path, what, make in bodies(size)}
# What the largest conversation that is taken needs, and some room.
CALLS = 300_000
BYTES = 40 << 20


@pytest.fixture(scope="module")
def warm() -> set[str]:
    """The paths for which a body was read before."""
    return set()


@pytest.mark.parametrize("name", BODIES)
def test_the_work_that_a_body_makes_is_bounded(name: str, warm: set[str]) -> None:
    path, make = BODIES[name]
    raw = make()
    calls = 0
    told: list[str] = []

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def read() -> None:
        route = ROUTES[path]
        assert route.body is not None
        try:
            body = validate(route.body, parsed(raw, MOST), [], n_ctx=SETTINGS.n_ctx)
            turns: Callable[[], object] = getattr(body, "turns", lambda: None)
            turns()
        except InvalidRequest as exc:
            told.append(f"{exc.message} {exc.param}")

    if path not in warm:  # for what is made by the first of all that is looked into
        warm.add(path)
        ROUTES[path].body.model_rebuild()
        read()
    tracemalloc.start()
    sys.setprofile(count)
    try:
        read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        sys.setprofile(None)
        tracemalloc.stop()
    print(f"{name}: {calls} calls, {peak / (1 << 20):.1f} MB")
    assert calls < CALLS
    assert peak < BYTES
    assert all(len(words) < 500 for words in told)


def values(value: Any) -> int:
    """Return how many values there are in one, itself and names of fields included."""
    if isinstance(value, list):
        return 1 + sum(map(values, value))
    if isinstance(value, dict):
        return 1 + sum(1 + values(inner) for inner in value.values())
    return 1


@pytest.mark.parametrize("value", [
    {}, [], 1, {"a": 1}, [1], [[], [[]], {}], {"input": ["a", "b"], "model": "m"}, {"a": {"b": [1, "x", None]}},
    {"input": 'quotes " and , marks : [ { \\'}, {"input": "\\"}, {"input": '\\"'}, {"input": "\\\\\""}, {"[,": "{:\\n"},
    {"input": ["\\", '"', "\\,", "a\\\\", '"\\"']},
])
def test_values_are_counted_as_a_parser_counts_them(value: Any) -> None:
    for raw in (orjson.dumps(value), orjson.dumps(value, option=orjson.OPT_INDENT_2)):
        count = values(orjson.loads(raw))
        # An empty list or object counts for one more.
        assert not holds_more(raw, count + raw.count(b"[]") + raw.count(b"{}") + 1)
        assert holds_more(raw, count // 2)


def test_a_long_text_of_marks_is_no_crowd_of_values() -> None:
    for text in (",[{:" * 500_000, '"' * 500_000, "\\" * 500_001, '\\",' * 300_000):
        raw = orjson.dumps({"input": text})
        assert parsed(raw, MOST) == {"input": text}


def test_too_many_values_are_refused_in_words_that_cure_it() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(orjson.dumps({"input": [1] * (MOST + 1)}), MOST)
    assert refused.value.code == "too_many_values"
    assert "check_embedding_ctx_length=False" in refused.value.message
