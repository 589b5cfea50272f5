"""A text of any length is embedded in parts that take seconds, so that its worker can be watched and stopped."""

from __future__ import annotations

import array
import math
import random
from pathlib import Path

import pytest

from mayfly.engines import gpt4all, long_texts

ANIMALS = ["fox", "dog", "the", "runs", "hunting", "in", "forest", "wolf", "and", "sleeps", "under", "trees"]
MONEY = ["bank", "pays", "the", "interest", "on", "loans", "credit", "and", "tax", "of", "market", "rises"]


@pytest.fixture(scope="module")
def embedder(embedding_model: Path) -> gpt4all.Gpt4AllEmbeddings:
    return gpt4all.Gpt4AllEmbeddings(embedding_model, 1, "all-MiniLM-L6-v2")


@pytest.mark.parametrize("letters", ["ab \n\t", "ab", "中文", "😀a ", " "],
                         ids=["words", "a word", "Chinese", "emoji", "blanks"])
def test_parts_make_up_the_text_and_are_neither_empty_nor_too_long(letters: str) -> None:
    chance = random.Random(5)
    for length in (0, 1, 15_999, 16_000, 16_001, 100_000):
        text = "".join(chance.choices(letters, k=length))
        parts = long_texts.parts(text)
        assert "".join(parts) == text
        assert length == 0 or all(parts)
        assert max(len(part.encode()) for part in parts) <= 20_000


def test_parts_are_cut_between_words() -> None:
    text = " ".join(random.Random(5).choices(MONEY, k=10_000))
    assert len(parts := long_texts.parts(text)) > 2
    assert {word for part in parts for word in part.split()} == set(MONEY)


def test_the_vector_of_a_text_in_parts_is_close_to_gpt4alls_own_and_each_part_is_a_step(
        embedder: gpt4all.Gpt4AllEmbeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    beginning = " ".join(chance.choices(ANIMALS, k=450))
    text = beginning + " " + " ".join(chance.choices(MONEY, k=450))
    whole, tokens = embedder.embed(text, "mean", lambda: pytest.fail("a short text has no parts"))
    monkeypatch.setattr(long_texts, "_LONGEST_PART", 1_500)
    steps: list[None] = []
    vector, counted = embedder.embed(text, "mean", lambda: steps.append(None))
    half, _ = embedder.embed(beginning, "mean", lambda: None)
    assert len(steps) == len(long_texts.parts(text)) - 1 >= 2
    assert counted == pytest.approx(tokens, rel=0.05)
    assert _cosine(vector, vector) == pytest.approx(1, abs=1e-5)  # norm 1
    print("cosine to gpt4all's own:", _cosine(vector, whole), "that of the first half:", _cosine(half, whole))
    assert _cosine(vector, whole) > 0.9 > _cosine(half, whole)


def _cosine(a: bytes, b: bytes) -> float:
    """Return the cosine of two vectors of norm 1."""
    return math.fsum(x * y for x, y in zip(array.array("f", a), array.array("f", b), strict=True))


def test_what_a_step_raises_ends_the_work(embedder: gpt4all.Gpt4AllEmbeddings) -> None:
    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        embedder.embed("word " * 40_000, "mean", stop)
