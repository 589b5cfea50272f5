"""Texts that know where their characters come from: what a template takes out of a text still comes from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.prompts.provenance import TEMPLATE, Traced, joined, origin_of, parts, traced, whole

FIRST, SECOND = frozenset((0,)), frozenset((1,))
# Few letters, so that the texts are found in one another; each caller has letters of its own.
OF_TEMPLATE, OF_FIRST, OF_SECOND = "ab \n", "AB\t", "\u03b1\u03b2\u2028"
ORIGINS = {**dict.fromkeys(OF_TEMPLATE, TEMPLATE), **dict.fromkeys(OF_FIRST, FIRST), **dict.fromkeys(OF_SECOND, SECOND)}


def text_of(pieces: list[str]) -> str:
    """Return a text in which each letter comes from where its alphabet says."""
    return joined(whole(piece, ORIGINS[piece]) for piece in "".join(pieces))


TEXTS = st.lists(st.sampled_from([*ORIGINS, "ab", "A a", " B\n"]), max_size=12).map(text_of)
SMALL = st.integers(-6, 6)
CALLS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "split": (st.one_of(st.none(), TEXTS.filter(len)), SMALL),
    "rsplit": (st.one_of(st.none(), TEXTS.filter(len)), SMALL),
    "splitlines": (st.booleans(),), "partition": (TEXTS.filter(len),), "rpartition": (TEXTS.filter(len),),
    "strip": (st.one_of(st.none(), TEXTS),), "lstrip": (st.one_of(st.none(), TEXTS),),
    "rstrip": (st.one_of(st.none(), TEXTS),), "removeprefix": (TEXTS,), "removesuffix": (TEXTS,),
    "replace": (TEXTS, TEXTS, SMALL), "join": (st.lists(TEXTS, max_size=4),), "__add__": (TEXTS,),
    "__getitem__": (st.slices(8),), "__mul__": (st.integers(-1, 3),),
}


def plain(value: Any) -> Any:
    """Return a value without origins."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return str.__str__(value) if not isinstance(value, Traced) else "".join((value, ""))


def texts_in(value: Any) -> list[str]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@given(st.data())
@pytest.mark.parametrize("name", CALLS)
def test_what_a_method_makes_is_what_it_makes_of_any_text_and_each_character_keeps_its_origin(
        name: str, data: st.DataObject) -> None:
    text = traced(data.draw(TEXTS))
    args = [data.draw(strategy) for strategy in CALLS[name]]
    plain_args = [plain(arg) if isinstance(arg, (str, list)) else arg for arg in args]
    made = getattr(text, name)(*args)
    assert plain(made) == getattr(plain(text), name)(*plain_args)
    followed = name != "__getitem__" or args[0].indices(len(text))[2] == 1
    if name == "replace" and not args[0]:
        followed = False
    for one in texts_in(made):
        for part, origin in parts(one):
            assert all(ORIGINS[letter] == origin if followed else ORIGINS[letter] <= origin for letter in part)


@given(TEXTS)
def test_whatever_isnt_followed_comes_from_all_that_went_in(text: str) -> None:
    text = joined((text, whole("A", FIRST)))
    for name in vars(str):
        made: Callable[..., Any] = getattr(text, name)
        if name.startswith("_") or name in (*CALLS, "encode", "maketrans", "format_map", "index", "rindex"):
            continue
        arguments: dict[str, tuple[Any, ...]] = {
            "center": (40,), "ljust": (40,), "rjust": (40,), "zfill": (40,), "translate": ({97: "x"},),
            "count": ("a",), "find": ("a",), "rfind": ("a",), "startswith": ("a",), "endswith": ("a",)}
        result = made(*arguments.get(name, ()))
        assert result == getattr(plain(text), name)(*arguments.get(name, ()))
        if isinstance(result, str):
            assert [origin for _, origin in parts(result)] == [origin_of(text)], name


@given(TEXTS, TEXTS)
def test_texts_put_into_others_are_themselves_there(text: str, other: str) -> None:
    for made in (traced("%s:%%%s") % (text, other), joined((text, ":%", other)), traced("").join((text, ":%", other))):
        assert plain(made) == plain(text) + ":%" + plain(other)
        assert all(ORIGINS.get(letter, TEMPLATE) == origin for part, origin in parts(made) for letter in part)
    padded = traced("%5s") % (text,)
    assert plain(padded) == plain(text).rjust(5)
    assert origin_of(padded) >= origin_of(text)


def test_a_text_of_another_kind_is_nobodys_so_it_is_not_the_templates() -> None:
    class Other(str):
        pass

    assert [origin for _, origin in parts(joined(("a", Other("b"), "c")))][1] != TEMPLATE


def test_characters_and_what_goes_through_them_keep_their_origin() -> None:
    text = traced(text_of(["aAb"]))
    assert [origin_of(letter) for letter in text] == [TEMPLATE, FIRST, TEMPLATE]
    assert [origin_of(letter) for letter in reversed(text)] == [TEMPLATE, FIRST, TEMPLATE]
    assert origin_of(text[-2]) == FIRST and origin_of(text[0]) == TEMPLATE
    with pytest.raises(IndexError):
        text[3]
    assert origin_of("a" + text) == FIRST and origin_of({"x": [text]}) == FIRST
