"""The benchmark's random model is one that gpt4all runs; here a small one of the same make."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
from gpt4all import GPT4All

from mayfly.models.header import read_header

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "random_llama.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specification = importlib.util.spec_from_file_location("random_llama", SCRIPT)
    assert specification is not None and specification.loader is not None
    random_llama = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(random_llama)
    path = tmp_path_factory.mktemp("random") / "random.gguf"
    sizes = {"blocks": 2, "embedding": 128, "heads": 4, "kv_heads": 2, "feed_forward": 256, "vocabulary": 2000}
    written: Path = random_llama.write(path, **sizes)
    return written


def test_its_weights_are_q4_0_of_a_sane_size(model: Path) -> None:
    assert read_header(model).quantization == "Q4_0"
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    down = tensors["blk.1.ffn_down.weight"]
    weights = gguf.quants.dequantize(down.data, down.tensor_type)
    assert weights.shape == (128, 256)
    assert abs(weights.mean()) < 0.01
    assert weights.var() == pytest.approx(1 / 256, rel=0.1)
    output = tensors["output.weight"]
    control = gguf.quants.dequantize(output.data, output.tensor_type)[: 3 + 256]
    assert not np.any(control)


def test_it_answers_as_long_as_it_is_asked_to(model: Path) -> None:
    engine = GPT4All(model.name, model_path=model.parent, allow_download=False, n_threads=1, device="cpu")
    ids: list[int] = []
    text = engine.generate("the sea", max_tokens=64, temp=1.0, callback=lambda token, _: ids.append(token) is None)
    assert len(ids) == 64
    assert text.isascii() and len(set(ids)) > 10
