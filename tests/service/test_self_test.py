"""A model whose weights are damaged behind a good header fails its self-test, in every engine, and answers nobody."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import damaged
import pytest
import requests
import tiny_llama
from service import Service

from mayfly.engines import choose
from mayfly.engines.backends import BACKENDS, GGUF
from mayfly.errors import ModelUnavailable

ALL: Callable[[str], bool] = lambda name: True  # noqa: E731
MATRICES: Callable[[str], bool] = lambda name: "norm" not in name and "bias" not in name  # noqa: E731
WORDS: Callable[[str], bool] = lambda name: name == "token_embd.weight"  # noqa: E731
BLOCKS: Callable[[str], bool] = lambda name: name.startswith("blk.")  # noqa: E731
ONE: Callable[[str], bool] = lambda name: name == "blk.1.ffn_up.weight"  # noqa: E731
DAMAGES = [(0, ALL), (0, MATRICES), (0, WORDS), (0, BLOCKS), (math.nan, ALL), (math.nan, ONE), (math.inf, ALL),
           (1, ALL)]

#: The engines that are installed here.
INSTALLED = [engine for engine in BACKENDS if engine.suffix == GGUF and engine.installed()]
COMPLETING = [engine.name for engine in INSTALLED if "completion" in engine.loaders]
EMBEDDING = [engine.name for engine in INSTALLED if "embedding" in engine.loaders]


@pytest.mark.parametrize("engine", COMPLETING)
@pytest.mark.parametrize(("number", "of"), DAMAGES)
def test_a_completion_model_with_damaged_weights_fails_its_self_test(tiny_model: Path, tmp_path: Path, engine: str,
                                                                     number: float, of: Callable[[str], bool]) -> None:
    path = damaged.overwrite(tiny_model, tmp_path / "bad.gguf", number, of)
    with pytest.raises(ModelUnavailable, match="fails its self-test"):
        choose.load_completions(path, 1, 256, "cpu", "bad", engine=engine).self_test()


@pytest.mark.parametrize("engine", EMBEDDING)
@pytest.mark.parametrize(("number", "of"), DAMAGES)
def test_an_embedding_model_with_damaged_weights_fails_its_self_test(
        embedding_model: Path, tmp_path: Path, engine: str, number: float, of: Callable[[str], bool]) -> None:
    path = damaged.overwrite(embedding_model, tmp_path / "bad.gguf", number, of)
    with pytest.raises(ModelUnavailable, match="fails its self-test"):
        choose.load_embeddings(path, 1, "bad", engine=engine)


@pytest.mark.parametrize("engine", COMPLETING)
@pytest.mark.parametrize("eos_bias", [-30.0, 30.0])
def test_a_good_model_passes_whether_or_not_it_ends_every_answer_at_once(tmp_path: Path, engine: str,
                                                                         eos_bias: float) -> None:
    path = tiny_llama.make(tmp_path / "good.gguf", eos_bias=eos_bias)
    choose.load_completions(path, 1, 256, "cpu", "good", engine=engine).self_test()


def test_a_matrix_of_zeros_alone_is_no_damage(tiny_model: Path, tmp_path: Path) -> None:
    """Blocks that were added to a model to be trained later begin with some."""
    path = damaged.overwrite(tiny_model, tmp_path / "good.gguf", 0, lambda name: name == "blk.1.attn_output.weight")
    choose.load_completions(path, 1, 256, "cpu", "good").self_test()


def test_callers_of_a_damaged_model_are_told_so_and_others_are_served(
        start: Callable[..., Service], model_path: Path) -> None:
    damaged.overwrite(model_path / "tiny-llama.gguf", model_path / "nan.gguf", math.nan)
    damaged.overwrite(model_path / "tiny-llama.gguf", model_path / "zeros.gguf", 0)
    (embedding,) = model_path.glob("all-MiniLM*")
    damaged.overwrite(embedding, model_path / "blank.gguf", 0)
    service = start(MAX_MODELS=4)
    calls = [("/v1/completions", "nan", "prompt"), ("/v1/completions", "zeros", "prompt"),
             ("/v1/embeddings", "blank", "input")]
    for path, model, field in calls:
        answer = requests.post(service.url + path, json={"model": model, field: "Hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_unusable"), answer.text
        message = answer.json()["error"]["message"]
        assert "fails its self-test" in message and str(model_path) not in message
    for path, model, field in (("/v1/completions", "tiny-llama", "prompt"), ("/v1/embeddings", "", "input")):
        assert requests.post(service.url + path, json={"model": model, field: "Hello"}).status_code == 200
