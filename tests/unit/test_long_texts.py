"""A text of any length is embedded in parts that take seconds, so that its worker can be watched and stopped."""

from __future__ import annotations

import array
import math
import random
from pathlib import Path

import pytest
from embedded import embed, parts

from mayfly.engines import long_texts
from mayfly.engines.gpt4all.embeddings import Gpt4AllEmbeddings

ANIMALS = ["fox", "dog", "the", "runs", "hunting", "in", "forest", "wolf", "and", "sleeps", "under", "trees"]
MONEY = ["bank", "pays", "the", "interest", "on", "loans", "credit", "and", "tax", "of", "market", "rises"]


@pytest.fixture(scope="module")
def embedder(embedding_model: Path) -> Gpt4AllEmbeddings:
    return Gpt4AllEmbeddings(embedding_model, 1, "all-MiniLM-L6-v2")


@pytest.mark.parametrize("letters", ["ab \n\t", "ab", "中文", "😀a ", " "],
                         ids=["words", "a word", "Chinese", "emoji", "blanks"])
def test_parts_make_up_the_text_and_are_neither_empty_nor_too_long(letters: str) -> None:
    chance = random.Random(5)
    for length in (0, 1, 15_999, 16_000, 16_001, 100_000):
        text = "".join(chance.choices(letters, k=length))
        found = long_texts.parts(text)
        assert "".join(found) == text
        assert length == 0 or all(found)
        assert max(len(part.encode()) for part in found) <= 20_000


def test_parts_are_cut_between_words() -> None:
    text = " ".join(random.Random(5).choices(MONEY, k=10_000))
    assert len(found := long_texts.parts(text)) > 2
    assert {word for part in found for word in part.split()} == set(MONEY)


def test_the_vector_of_a_text_in_parts_is_close_to_gpt4alls_own(
        embedder: Gpt4AllEmbeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    beginning = " ".join(chance.choices(ANIMALS, k=450))
    text = beginning + " " + " ".join(chance.choices(MONEY, k=450))
    whole, tokens = embed(embedder, text)
    monkeypatch.setattr(long_texts, "LONGEST_PART", 1_500)
    vector, counted = embed(embedder, text)
    half, _ = embed(embedder, beginning)
    assert len(parts(embedder, text)) == len(long_texts.parts(text)) > 2
    assert counted == pytest.approx(tokens, rel=0.05)
    assert _cosine(vector, vector) == pytest.approx(1, abs=1e-5)  # norm 1
    print("cosine to gpt4all's own:", _cosine(vector, whole), "that of the first half:", _cosine(half, whole))
    assert _cosine(vector, whole) > 0.9 > _cosine(half, whole)


def _cosine(a: bytes, b: bytes) -> float:
    """Return the cosine of two vectors of norm 1."""
    return math.fsum(x * y for x, y in zip(array.array("f", a), array.array("f", b), strict=True))
