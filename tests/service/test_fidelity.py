"""Over HTTP too, the vectors are those of sentence-transformers, whatever the form of the call."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
from fidelity.texts import FOLDER, alike
from service import Service

REFERENCE = np.load(FOLDER / "reference.npy")
TEXTS = [sample.text for sample in alike()]


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each row to its reference."""
    reference = REFERENCE[:len(TEXTS)]
    return np.sum(vectors * reference, axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(reference, axis=1)


def test_every_text_of_the_reference_has_its_vector_over_http(start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME="none")
    body = {"input": TEXTS, "long_text": "truncate"}
    answer = service.post("/embed", body).json()
    assert [entry["index"] for entry in answer["data"]] == list(range(len(TEXTS)))
    floats = np.array([entry["embedding"] for entry in answer["data"]])
    print(f"{len(TEXTS)} texts, least cosine {cosines(floats).min():.6f}")
    assert cosines(floats).min() >= 0.9999

    coded = service.post("/embed", {**body, "encoding_format": "base64"}).json()["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in coded])
    assert np.abs(decoded - floats).max() < 1e-6

    # One at a time they are the same as in one call, and in the default mode too where a text fits the window.
    short = [index for index, text in enumerate(TEXTS) if len(text) < 200][::8]
    for index in short:
        (single,) = service.embed(TEXTS[index])
        assert np.dot(single, floats[index]) > 0.99999
