"""gpt4all's engine computes several texts at once, each with a copy of the model, and they don't mind each other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fidelity.texts import alike
from service import Service

from mayfly.engines.base import ParallelEmbeddingEngine
from mayfly.engines.gpt4all.embeddings import Gpt4AllEmbeddings
from mayfly.errors import EngineFailed
from mayfly.settings import available_cores
from mayfly.wire.calls import LongText

# As long as a part of a text can be.
LONG = "The keeper of the light walks down to the harbour. " * 300


@pytest.fixture(scope="module")
def engine(embedding_model: Path) -> Gpt4AllEmbeddings:
    return Gpt4AllEmbeddings(embedding_model, 4, "m")


Made = tuple[bytes, int] | EngineFailed


def each(engine: Gpt4AllEmbeddings, texts: Sequence[str], places: int) -> list[Made]:
    """Embed texts of one part, so many of them at once and the next one as soon as one is done."""
    made: dict[int, Made] = {}

    def on_done(number: int, found: Made) -> tuple[str, LongText] | None:
        made[number] = found
        following = places + len(made) - 1
        return (texts[following], "mean") if following < len(texts) else None

    engine.embed_each([(text, "mean") for text in texts[:places]], on_done)
    return [made[number] for number in range(len(texts))]


def test_as_many_texts_go_at_once_as_there_are_threads(engine: Gpt4AllEmbeddings) -> None:
    assert isinstance(engine, ParallelEmbeddingEngine)
    for threads, texts in ((1, 1), (2, 2), (4, 4), (64, 4)):
        engine.set_threads(threads)
        assert engine.at_once == texts


def test_each_text_has_the_vector_that_it_has_alone(engine: Gpt4AllEmbeddings) -> None:
    texts = [*[sample.text for sample in alike()][:40], "", " ", "x" * 3000]
    engine.set_threads(1)
    alone = [engine.embed(text, "mean") for text in texts]
    engine.set_threads(4)
    assert each(engine, texts, 4) == alone


def test_short_texts_go_on_beside_a_long_one(engine: Gpt4AllEmbeddings) -> None:
    engine.set_threads(2)
    following = iter(["two", "three"])
    order: list[int] = []

    def on_done(number: int, made: Made) -> tuple[str, LongText] | None:
        order.append(number)
        text = next(following, None)
        return (text, "truncate") if text is not None else None

    engine.embed_each([(LONG, "mean"), ("one", "mean")], on_done)
    assert order == [1, 2, 3, 0]


def test_what_is_raised_when_a_text_is_done_ends_the_work(engine: Gpt4AllEmbeddings) -> None:
    def fail(number: int, made: Made) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        engine.embed_each([(LONG, "mean"), ("one", "mean")], fail)
    assert len(each(engine, ["one", "two"], 2)) == 2


def test_a_copy_that_cannot_be_loaded_is_done_without(embedding_model: Path, tmp_path: Path) -> None:
    path = tmp_path / embedding_model.name
    path.symlink_to(embedding_model)
    engine = Gpt4AllEmbeddings(path, 2, "m")
    path.unlink()
    together = each(engine, ["one", "two", "three"], 2)
    assert together == [engine.embed(text, "mean") for text in ("one", "two", "three")]
    assert engine.at_once == 1


def test_calls_at_once_get_their_own_vectors(embedding_model: Path, tmp_path: Path) -> None:
    texts = [f"the lamp of harbour number {number} is lit" for number in range(48)]
    service = Service(tmp_path, {"EMBED_MODEL": embedding_model.name, "MODEL_PATH": embedding_model.parent,
                                 "EMBED_ENGINE": "gpt4all", "THREADS": min(2, available_cores())})
    try:
        service.wait_ready()
        one_by_one = [service.embed(text)[0] for text in texts]
        assert service.embed(texts) == one_by_one
        with ThreadPoolExecutor(16) as pool:
            assert [vectors[0] for vectors in pool.map(service.embed, texts)] == one_by_one
        assert service.lane("embed")["engine"] == "gpt4all"
        assert service.lane("embed")["generation"] == 1
    finally:
        service.stop()
