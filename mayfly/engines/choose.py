"""Load the engine that a model file is for. What each engine is, and which comes first, is in `backends`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mayfly.engines.backends import AUTO, BACKENDS, GGUF, SETTINGS, Backend, Kind, candidates, of_file
from mayfly.engines.base import CompletionEngine, EmbeddingEngine, Tokenize
from mayfly.errors import DeviceAbsent, ModelUnavailable
from mayfly.models.header import read_header
from mayfly.prompts.prompt_form import PromptForm

_Engine = TypeVar("_Engine")
#: Takes a line for the log: why "auto" became another engine, or what was asked for isn't done.
Note = Callable[[str], object]


def load_embeddings(path: Path, threads: int, model: str, *, engine: str = AUTO, precision: str = AUTO,
                    note: Note = lambda line: None) -> EmbeddingEngine:
    """Load an embedding model.

    Args:
        model: the model's public name.
        engine: EMBED_ENGINE; "auto" is the first engine that works for this file.
        precision: EMBED_PRECISION.

    Raises:
        ModelUnavailable: the file isn't an embedding model that can be loaded.
    """
    def load(backend: Backend, objection: str) -> EmbeddingEngine:
        takes_precision = "precision" in backend.features
        options = {"precision": precision} if takes_precision else {}
        found: EmbeddingEngine = _load(backend, "embedding", path, objection, threads=threads, model=model, **options)
        if takes_precision and precision not in (AUTO, found.facts["precision"]):
            note(f"EMBED_PRECISION is {precision}, but this processor computes in {found.facts['precision']}")
        return found

    return _first("embedding", path, engine, load, note)


def load_completions(path: Path, threads: int, context_length: int, device: str, model: str,
                     prompt_template: str = "", system_template: str = "", *, engine: str = AUTO,
                     note: Note = lambda line: None) -> CompletionEngine:
    """Load a completion model; `model` is the model's public name.

    Args:
        prompt_template, system_template: in gpt4all's form (`PromptForm`); "" leaves it to the model's file.
        engine: CHAT_ENGINE; "auto" is the first engine that loads this file.

    Raises:
        ModelUnavailable: the file isn't a completion model that can be loaded.
    """
    form = _form(prompt_template, system_template)

    def load(backend: Backend, objection: str) -> CompletionEngine:
        found: CompletionEngine = _load(backend, "completion", path, objection, threads=threads, model=model,
                                        context_length=context_length, device=device, form=form)
        return found

    return _first("completion", path, engine, load, note)


def open_tokenizer(backend: Backend, path: Path, kind: Kind, size: int, prompt_template: str = "",
                   system_template: str = "") -> Tokenize:
    """Open a model's vocabulary without the model.

    Args:
        backend: the engine that serves the model.
        size: how many tokens the file's header says there are.
        prompt_template, system_template: see `load_completions`.

    Returns:
        A function that gives the token ids for a text in steps, those included that begin and end it for this model.

    Raises:
        ModelUnavailable: the vocabulary can't be read.
    """
    found: Tokenize = _named(backend, backend.tokenizer)(path, kind, size, _form(prompt_template, system_template))
    return found


def _form(prompt_template: str, system_template: str) -> PromptForm | None:
    return PromptForm(prompt_template, system_template) if prompt_template else None


def about(name: str) -> str:
    """Return what an engine is: its name, its library, and what that uses of this processor, as far as it says."""
    backend = next(backend for backend in BACKENDS if backend.name == name)
    if backend.about:
        return f"{name}: {_named(backend, backend.about)()}"
    if not backend.package:
        return name
    from importlib.metadata import version  # as long an import as all of this program's own together

    return f"{name} {version(backend.package)}"


def _judged(kind: Kind, path: Path, wanted: str = AUTO) -> list[tuple[Backend, str]]:
    """Return the engines that may be tried with a file, each with its objection to it or ""."""
    able = candidates(kind, of_file(path.name), wanted)
    if able[0].suffix != GGUF:
        return [(backend, "") for backend in able]
    header = read_header(path)
    return [(backend, backend.objection(kind, header.architecture, header.tensor_types, header.pooling))
            for backend in able]


def _first(kind: Kind, path: Path, wanted: str, load: Callable[[Backend, str], _Engine], note: Note) -> _Engine:
    """Return the first engine that loads a file.

    Raises:
        ModelUnavailable: none does. What one said that tried counts more than what another one knows beforehand.
    """
    tried = _judged(kind, path, wanted)
    last = candidates(kind, of_file(path.name))[-1]
    failures: list[tuple[bool, ModelUnavailable]] = []
    for backend, objection in tried:
        try:
            engine = load(backend, objection)
        except ModelUnavailable as exc:
            failures.append((bool(objection), exc))
            continue
        if failures:
            note(f"{kind}s are computed by {backend.name}: {'; '.join(str(exc) for _, exc in failures)}")
        return engine
    _, failure = min(failures, key=lambda each: each[0])
    if isinstance(failure, DeviceAbsent):
        raise DeviceAbsent(failure.device, *(each for _, exc in failures if isinstance(exc, DeviceAbsent)
                                             for each in exc.there)) from failure
    if len(tried) > 1 or tried[0][0] is last:
        raise failure
    raise type(failure)(f"{failure} ({SETTINGS[kind]}={AUTO} goes back to {last.name})") from failure


def _load(backend: Backend, kind: Kind, path: Path, objection: str, **options: Any) -> Any:
    if objection:
        raise ModelUnavailable(f"{path.name} {objection}")
    return _named(backend, backend.loaders[kind])(path, **options)


def _named(backend: Backend, name: str) -> Callable[..., Any]:
    """Return the callable of a "module:callable". Only here is anything of an engine imported."""
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except ImportError as exc:
        raise ModelUnavailable(f"{backend.name} isn't installed, or can't be used on this machine ({exc})") from exc
    return found
