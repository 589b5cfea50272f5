"""Engines: what computes. gpt4all for real models, scripted for failures that no real model has on order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mayfly.engines.base import CompletionEngine, EmbeddingEngine

_SCRIPT_SUFFIX = ".script.json"


def load_embeddings(path: Path, threads: int, model: str) -> EmbeddingEngine:
    """Load the engine that a model file's kind asks for; `model` is the model's public name.

    Raises:
        ModelUnavailable: the file isn't an embedding model that can be loaded.
    """
    if path.name.endswith(_SCRIPT_SUFFIX):
        from mayfly.engines.scripted import ScriptedEmbeddings

        return ScriptedEmbeddings(path, model)
    from mayfly.engines.gpt4all import Gpt4AllEmbeddings

    return Gpt4AllEmbeddings(path, threads, model)


def load_completions(path: Path, threads: int, context_length: int, device: str, model: str,
                     prompt_template: str = "", system_template: str = "") -> CompletionEngine:
    """Load the engine that a model file's kind asks for; `model` is the model's public name.

    Args:
        prompt_template, system_template: in gpt4all's form (`PromptForm`); "" leaves it to the model's file.

    Raises:
        ModelUnavailable: the file isn't a completion model that can be loaded.
    """
    if path.name.endswith(_SCRIPT_SUFFIX):
        from mayfly.engines.scripted import ScriptedCompletions

        return ScriptedCompletions(path, model)
    from mayfly.engines.gpt4all import Gpt4AllCompletions
    from mayfly.engines.prompt_form import PromptForm

    form = PromptForm(prompt_template, system_template) if prompt_template else None
    return Gpt4AllCompletions(path, threads, context_length, device, model, form)


def load_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int) -> Callable[[str], list[int]]:
    """Open a model's vocabulary without the model.

    Args:
        size: how many tokens the file's header says there are.

    Returns:
        A function that gives the token ids for a text, those included that begin and end it for this model.

    Raises:
        ModelUnavailable: the vocabulary can't be read.
    """
    if path.name.endswith(_SCRIPT_SUFFIX):
        from mayfly.engines.scripted import tokenize

        return tokenize
    from mayfly.engines.vocabulary import open_tokenizer

    return open_tokenizer(path, kind, size)
