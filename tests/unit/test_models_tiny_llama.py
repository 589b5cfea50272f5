"""The tiny model behaves as the tests that use it need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_llama
from gpt4all import GPT4All

Complete = Callable[..., tuple[str, int]]


def load(path: Path) -> Complete:
    """Return a function that gives a completion's text and its number of tokens."""
    model = GPT4All(path.name, model_path=path.parent, allow_download=False, n_threads=1, n_ctx=2048, device="cpu")

    def complete(prompt: str, max_tokens: int, temp: float) -> tuple[str, int]:
        ids: list[int] = []
        text = model.generate(
            prompt, max_tokens=max_tokens, temp=temp, top_p=0.9, callback=lambda token, _: ids.append(token) is None
        )
        return text, len(ids)

    return complete


@pytest.fixture(scope="module")
def complete(tiny_model: Path) -> Complete:
    return load(tiny_model)


def test_answers_at_temperature_one_differ(complete: Complete) -> None:
    texts = {complete("Tell me a story.", 16, 1.0)[0] for _ in range(50)}
    assert len(texts) >= 49


def test_answers_at_temperature_zero_are_the_same(complete: Complete) -> None:
    first = complete("Tell me a story.", 32, 0.0)
    complete("Something else", 32, 1.0)
    assert complete("Tell me a story.", 32, 0.0) == first


def test_answers_depend_on_the_prompt(complete: Complete) -> None:
    prompts = ("Hello", "Hello!", "Tell me of the river", "日本語で", "def f(x):")
    assert len({complete(prompt, 24, 0.0)[0] for prompt in prompts}) == len(prompts)


def test_max_tokens_governs_the_length(complete: Complete) -> None:
    assert [complete("Hello", tokens, 1.0)[1] for tokens in (1, 16, 200, 1500)] == [1, 16, 200, 1500]


def test_answers_are_words(complete: Complete) -> None:
    text, _ = complete("😀 emoji and 日本", 300, 1.0)
    assert text.isascii() and "\ufffd" not in text
    assert len(set(text.split()) & set(tiny_llama.WORDS)) > 50


def test_a_model_can_be_made_that_ends_its_answers(tmp_path: Path) -> None:
    complete = load(tiny_llama.make(tmp_path / "ends.gguf", eos_bias=5.0))
    lengths = [complete("Hello", 256, 1.0)[1] for _ in range(10)]
    assert max(lengths) < 256


def test_the_same_seed_gives_the_same_file_and_another_one_another(tmp_path: Path, tiny_model: Path) -> None:
    assert tiny_llama.make(tmp_path / "same.gguf").read_bytes() == tiny_model.read_bytes()
    assert tiny_llama.make(tmp_path / "other.gguf", seed=1).read_bytes() != tiny_model.read_bytes()
