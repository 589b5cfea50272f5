"""Engines: what computes. gpt4all and OpenVINO for real models, scripted for failures that no real model has on order.

Embeddings have two: gpt4all runs everywhere and takes any model that it can load; OpenVINO is 1.5 to 3 times as fast
in f32 (more in bf16), where it is installed and knows the model's architecture. Both read the same file and give the
same vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mayfly.engines.base import CompletionEngine, EmbeddingEngine, Tokenize
from mayfly.errors import ModelUnavailable

_SCRIPT_SUFFIX = ".script.json"


def load_embeddings(path: Path, threads: int, model: str, *, engine: str = "auto", precision: str = "auto",
                    note: Callable[[str], object] = lambda line: None) -> EmbeddingEngine:
    """Load the engine that a model file's kind asks for.

    Args:
        model: the model's public name.
        engine: EMBED_ENGINE; "auto" is openvino where that works for this file, else gpt4all.
        precision: EMBED_PRECISION, which openvino alone minds.
        note: takes a line for the log: why "auto" became gpt4all, or what was asked for isn't done.

    Raises:
        ModelUnavailable: the file isn't an embedding model that can be loaded.
    """
    if path.name.endswith(_SCRIPT_SUFFIX):
        from mayfly.engines.scripted import ScriptedEmbeddings

        return ScriptedEmbeddings(path, model)
    if engine != "gpt4all":
        try:
            found = _load_openvino(path, threads, model, precision)
        except ModelUnavailable as exc:
            if engine == "openvino":
                raise ModelUnavailable(f"{exc} (EMBED_ENGINE=auto goes back to gpt4all)") from exc
            note(f"embeddings are computed by gpt4all: {exc}")
        else:
            if precision not in ("auto", found.facts["precision"]):
                note(f"EMBED_PRECISION is {precision}, but this processor computes in {found.facts['precision']}")
            return found
    from mayfly.engines.gpt4all.embeddings import Gpt4AllEmbeddings

    return Gpt4AllEmbeddings(path, threads, model)


def _load_openvino(path: Path, threads: int, model: str, precision: str) -> EmbeddingEngine:
    try:
        from mayfly.engines.openvino import OpenVinoEmbeddings
    except ImportError as exc:
        raise ModelUnavailable(f"OpenVINO isn't installed, or can't be used on this machine ({exc})") from exc
    return OpenVinoEmbeddings(path, threads, model, precision)


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
    from mayfly.engines.gpt4all.completions import Gpt4AllCompletions
    from mayfly.prompts.prompt_form import PromptForm

    form = PromptForm(prompt_template, system_template) if prompt_template else None
    return Gpt4AllCompletions(path, threads, context_length, device, model, form)


def load_tokenizer(path: Path, kind: Literal["completion", "embedding"], size: int) -> Tokenize:
    """Open a model's vocabulary without the model.

    Args:
        size: how many tokens the file's header says there are.

    Returns:
        A function that gives the token ids for a text in steps, those included that begin and end it for this model.

    Raises:
        ModelUnavailable: the vocabulary can't be read.
    """
    if path.name.endswith(_SCRIPT_SUFFIX):
        from mayfly.engines.scripted import tokenize

        return tokenize
    from mayfly.engines.vocabulary import open_tokenizer

    return open_tokenizer(path, kind, size)
