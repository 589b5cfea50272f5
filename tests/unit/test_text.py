"""From tokens to text: whole characters, and never the beginning of a stop string."""

from __future__ import annotations

import itertools
import random

import pytest

from mayfly.prompts.stop_filter import TextFilter
from mayfly.wire.calls import ScoredToken


def _shown(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], TextFilter]:
    """Return what was shown after each piece, and at the end."""
    text = TextFilter(stop)
    return [*(text.feed(piece) for piece in pieces), text.finish()], text


def test_text_is_shown_token_by_token() -> None:
    assert _shown([b"Hel", b"lo", b"", b" there"])[0] == ["Hel", "lo", "", " there", ""]


@pytest.mark.parametrize("character", ["é", "中", "😀"])
def test_a_character_spread_over_tokens_is_held_back_until_it_is_whole(character: str) -> None:
    encoded = character.encode()
    shown, _ = _shown([b"a", *(bytes([byte]) for byte in encoded), b"b"])
    assert shown == ["a", *[""] * (len(encoded) - 1), character, "b", ""]


def test_a_character_that_is_never_finished_is_shown_as_a_replacement_at_the_end() -> None:
    assert _shown([b"a", "😀".encode()[:3]])[0] == ["a", "", "\ufffd"]


def test_bytes_that_are_no_utf8_become_replacements_and_harm_nothing_after_them() -> None:
    assert "".join(_shown([b"a\xff", b"\xc3", b"b", "é".encode()])[0]) == "a\ufffd\ufffdbé"


@pytest.mark.parametrize("pieces", [[b"one STOP two"], [b"one ", b"STOP", b" two"], [b"one S", b"TO", b"P two"],
                                    [bytes([byte]) for byte in b"one STOP two"]])
def test_neither_a_stop_string_nor_its_beginning_is_ever_shown(pieces: list[bytes]) -> None:
    shown, text = _shown(pieces, ("STOP",))
    assert "".join(shown) == "one "
    assert text.stopped


def test_what_only_began_like_a_stop_string_is_shown_as_soon_as_that_is_known() -> None:
    shown, text = _shown([b"a ST", b"EM", b" ST"], ("STOP",))
    assert shown == ["a ", "STEM", " ", "ST"]
    assert not text.stopped


def test_a_stop_string_may_begin_again_within_its_own_beginning() -> None:
    assert "".join(_shown([b"a", b"a", b"a", b"b", b"c"], ("aab",))[0]) == "a"


def test_the_first_of_several_stop_strings_counts() -> None:
    shown, text = _shown([b"one two three"], ("three", "two"))
    assert "".join(shown) == "one " and text.stopped == "two"


def test_a_stop_string_of_multi_byte_characters_is_found_when_tokens_cut_them() -> None:
    encoded = "你好。再见".encode()
    shown, text = _shown([encoded[:4], encoded[4:7], encoded[7:]], ("。",))
    assert "".join(shown) == "你好"
    assert text.stopped


def test_nothing_is_shown_after_a_stop_string() -> None:
    text = TextFilter(("!",))
    assert text.feed(b"stop! and") == "stop"
    assert text.feed(b" more") == ""
    assert text.finish() == ""


def test_however_the_bytes_are_cut_the_shown_text_ends_at_a_stop_string_or_is_whole() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        whole = "".join(chance.choice("abc中é😀") for _ in range(chance.randrange(16)))
        stop = tuple("".join(chance.choice("abc中é") for _ in range(chance.randint(1, 4)))
                     for _ in range(chance.randrange(4)))
        encoded = whole.encode()
        cuts = sorted(chance.randrange(len(encoded) + 1) for _ in range(chance.randrange(8)))
        edges = [0, *cuts, len(encoded)]
        pieces = [encoded[start:end] for start, end in itertools.pairwise(edges)]
        parts, text = _shown(pieces, stop)
        shown = "".join(parts)
        case = (whole, stop, pieces, parts)
        assert not any(mark in shown for mark in stop), case
        if text.stopped:
            assert any(whole.startswith(shown + mark) for mark in stop), case
        else:
            assert shown == whole, case


def _score(piece: bytes) -> ScoredToken:
    return ScoredToken(tuple(piece), "", -1.0)


def test_the_scores_of_tokens_come_with_the_text_that_they_begin_in() -> None:
    text = TextFilter(["stop"])
    seen = []
    for piece in (b"a\xc3", b"\xa9", b" s", b"to", b"ne", b"", b"x s", b"top y", b"z"):
        seen.append((text.feed(piece, _score(piece)), [bytes(score.piece) for score in text.tokens()]))
    assert seen == [("a", [b"a\xc3"]), ("\u00e9", [b"\xa9"]), (" ", [b" s"]), ("", []), ("stone", [b"to", b"ne"]),
                    ("", []), ("x ", [b"", b"x s"]), ("", []), ("", [])]
    assert text.finish() == "" and text.tokens() == ()


def test_at_the_end_the_scores_of_all_tokens_are_told_that_no_stop_string_has_cut() -> None:
    text = TextFilter(["stop"])
    for piece in (b"a sto", b"", b"\xc3"):
        text.feed(piece, _score(piece))
    assert [bytes(score.piece) for score in text.tokens()] == [b"a sto"]
    assert text.finish() == "sto\ufffd"
    assert [bytes(score.piece) for score in text.tokens()] == [b"", b"\xc3"]
