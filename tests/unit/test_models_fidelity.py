"""The embedding model's vectors are those of sentence-transformers, but for the known exceptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fidelity.texts import FOLDER, Sample, alike, different
from gpt4all import Embed4All

from mayfly.models.wordpiece import normalise

REFERENCE = np.load(FOLDER / "reference.npy")
ALIKE = alike()
DIFFERENT = different()

Embed = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def embed(embedding_model: Path) -> Embed:
    """A text's vector, cut at the model's window; shape [384]."""
    model = Embed4All(
        embedding_model.name, model_path=embedding_model.parent, allow_download=False, n_threads=1, device="cpu"
    )

    def vector(text: str) -> np.ndarray:
        # The binding refuses the empty text.
        return np.array(model.embed(normalise(text) or " ", long_text_mode="truncate"))

    return vector


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def name(sample: Sample) -> str:
    return f"{sample.kind}-{sample.text[:12]!a}"


def test_the_reference_has_a_vector_for_each_text() -> None:
    assert len(ALIKE) >= 64
    assert REFERENCE.shape == (len(ALIKE) + len(DIFFERENT), 384)
    assert REFERENCE.dtype == np.float32


@pytest.mark.parametrize(("row", "sample"), list(enumerate(ALIKE)), ids=[name(sample) for sample in ALIKE])
def test_vectors_agree_with_sentence_transformers(embed: Embed, row: int, sample: Sample) -> None:
    assert cosine(embed(sample.text), REFERENCE[row]) >= 0.9999


@pytest.mark.parametrize(("row", "sample"), list(enumerate(DIFFERENT)), ids=[name(sample) for sample in DIFFERENT])
def test_known_exceptions_are_still_exceptions(embed: Embed, row: int, sample: Sample) -> None:
    """One that has come to agree belongs among the others, and out of docs/models.md."""
    assert cosine(embed(sample.text), REFERENCE[len(ALIKE) + row]) < 0.9999


def test_another_text_is_told_apart(embed: Embed) -> None:
    assert cosine(embed("Stock markets fell sharply on Monday."), REFERENCE[0]) < 0.5


def test_a_text_is_cut_where_sentence_transformers_cuts_it(embed: Embed) -> None:
    fits = " ".join(["word"] * 254)
    assert cosine(embed(fits + " and more"), embed(fits)) > 0.999999
    assert cosine(embed(" ".join(["word"] * 253)), embed(fits)) < 0.999999


@pytest.mark.parametrize("text", ["", "plain words, with punctuation!", "tab\tand\nnew line", "日本語", "\u4e00"])
def test_a_text_without_accents_is_left_as_it_is(text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize(
    ("text", "normal"),
    [("café", "cafe"), ("cafe\u0301", "cafe"), ("Ångström", "Angstrom"), ("한", "\u1112\u1161\u11ab"), ("\u0301", "")],
)
def test_accents_are_dropped_and_syllables_taken_apart(text: str, normal: str) -> None:
    assert normalise(text) == normal
