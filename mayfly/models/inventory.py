"""What models there are below MODEL_PATH, by what their files say of themselves: nothing is loaded.

A header takes milliseconds to read, and is read again only when its file has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mayfly.engines import backends
from mayfly.engines.backends import AUTO, GGUF, Backend, Kind, suffix_of
from mayfly.errors import ModelUnavailable
from mayfly.models import parts, store
from mayfly.models.call_forms import form_of, thought_of
from mayfly.models.dialects import dialect_of
from mayfly.models.gaps import fills_gaps
from mayfly.models.header import Header, read_contents
from mayfly.settings import Settings

_LEAST_WINDOW = 2048
# What llama.cpp keeps of a key or a value in its cache: 16-bit floats.
_CACHE_BYTES = 2
# What is told of a header as it stands there.
_TOLD = ("architecture", "quantization", "parameter_count", "embedding_length", "vocabulary_size")


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        id: the name by which callers know it.
        file: its path below MODEL_PATH, as `store.find` takes it; that of the first part, if it is split.
        path: the file by that name; links aren't resolved, for engines go by the name.
        size: in bytes, of all its parts.
        modified: when the file, or the newest of its parts, was last written, in seconds since 1970.
        kind: what it is for; None if the file doesn't tell.
        architecture, quantization, parameter_count, embedding_length, vocabulary_size: see `Header`; "" and 0 where
            unknown.
        context_length: tokens that it was made for, or that it takes at once to make a vector; 0 if unknown.
        cache_token_bytes: what a token of the context takes in memory beside the weights.
        chat_template: where the template of a completion model's prompts is from: "file", or "default:" and the name of
            the one that models of its kind are taken to know.
        tools: how a completion model is told of tools: "native", by its template, or "generic", in words; "" of others.
        thinks: its template tells what it thinks from what it answers.
        fills_gaps: it has tokens for filling the gap between two texts.
        engines: the names of those that can take it.
        unusable: why it can't be used, or "".
    """

    id: str
    file: str
    path: Path
    size: int
    modified: int
    kind: Kind | None = None
    architecture: str = ""
    context_length: int = 0
    quantization: str = ""
    parameter_count: int = 0
    embedding_length: int = 0
    vocabulary_size: int = 0
    cache_token_bytes: int = 0
    chat_template: str = ""
    tools: str = ""
    thinks: bool = False
    fills_gaps: bool = False
    engines: tuple[str, ...] = ()
    unusable: str = ""

    def window(self, settings: Settings) -> int:
        """Return how many tokens it takes at once: of those of N_CTX, which is for completions, as many as MEMORY_LIMIT
        has room for beside the weights, but not less than a usual conversation has."""
        if self.kind == "embedding":
            return self.context_length
        window = min(settings.n_ctx, self.context_length or settings.n_ctx)
        room, token = settings.memory_limit, settings.windows * self.cache_token_bytes
        while room and window > _LEAST_WINDOW and self.size + window * token > room:
            window = max(_LEAST_WINDOW, window // 2)
        return window

    def backend(self, kind: Kind, wanted: str = AUTO) -> Backend:
        """Return the engine that serves it as a model of a kind; `wanted` is the one that a setting names."""
        return backends.serving(kind, self.engines, wanted)

    def memory(self, settings: Settings) -> int:
        """Estimate the memory in bytes that it takes, with the keys and values of the completions that run at once."""
        kind = self.kind or "completion"
        wanted = settings.embed_engine if kind == "embedding" else settings.chat_engine
        cache = settings.windows * self.window(settings) * self.cache_token_bytes
        return self.backend(kind, wanted).memory(self.size, cache, settings.threads)


def unconfigured(kind: str, setting: str) -> str:
    """Return what callers of a model are told whose setting is `none`."""
    return (f"no {kind} model is configured ({setting}=none): put the name of a model file in MODEL_PATH into "
            f"{setting} in .env and start again")


def public_name(file: str) -> str:
    """Return the name by which callers know a model file, also if it is named without its ending: all-MiniLM-L6-v2 for
    each form of the default one."""
    file = store.file_name(file)
    folder, slash, last = file.rpartition("/")
    of = parts.part(last)
    name = folder + slash + of.model if of else file.removesuffix(suffix_of(file))
    return "all-MiniLM-L6-v2" if name.startswith("all-MiniLM-L6-v2.") else name


class Inventory:
    """The models below a folder. May be used by several threads.

    To find a model the folder isn't looked through again as long as no name has come or gone there, and the file that
    was found the last time is still the same.

    Args:
        model_path: the folder.
        first: configured files, which get a name that several files could have.
    """

    def __init__(self, model_path: Path, first: Iterable[str] = ()) -> None:
        self._model_path = model_path
        self._first = [store.file_name(name) for name in first if name]
        self._known: dict[str, tuple[parts.Mark, Model]] = {}
        self._lock = threading.Lock()
        self._found: dict[str, Model] = {}
        self._folders: dict[str, int] = {}

    def models(self) -> list[Model]:
        """Return all models, sorted by their ids."""
        return sorted(self._models(), key=lambda model: model.id)

    def find(self, name: str) -> Model | None:
        """Return the model of an id, or of a file name with or without its ending; None if there is none."""
        with self._lock:
            found, folders = self._found.get(name), self._folders
        if found is not None and store.unchanged(folders) and self._is_still(found):
            return found
        folders = store.folders(self._model_path)
        with self._lock:
            if folders != self._folders:
                self._folders = folders
                self._found.clear()
        models = list(self._models())
        for wanted in (name, store.file_name(name), name[:-len(GGUF)] if name.lower().endswith(GGUF) else name):
            for model in models:
                if wanted in (model.id, model.file):
                    with self._lock:
                        # By no other names than a model has: clients may send any.
                        self._found[name] = model
                    return model
        return None

    def require(self, name: str) -> Model:
        """Return the model of a name, as `find` does.

        Raises:
            ModelUnavailable: there is none, or its file isn't one in the folder; the message says what to do.
        """
        model = self.find(name)
        # What the store refuses, such as a link that leads away, isn't to be opened by anybody.
        path = store.find(self._model_path, name if model is None else model.file)
        if model is None:
            # One that isn't listed, because its name is hidden or long, can still be configured; so can one with its
            # ending spelt otherwise.
            file = path.relative_to(self._model_path).as_posix()
            model = self._look(public_name(file), file, path)
        return model

    def gone(self, path: Path) -> str:
        """Return why the file of a model, by `Model.path`, can't be opened any more, or ""."""
        file = path.relative_to(self._model_path).as_posix()
        gone = f"{file} was removed from MODEL_PATH; once it is back it is loaded"
        try:
            if store.find(self._model_path, file) != path:
                return gone  # there is one whose name is spelt otherwise
        except store.ModelAbsent:
            return gone
        except ModelUnavailable as exc:
            return str(exc)
        return ""

    def _is_still(self, model: Model) -> bool:
        mark = parts.mark(model.path)
        with self._lock:
            return bool(mark) and self._known.get(model.file) == (mark, model)

    def _models(self) -> Iterator[Model]:
        files = store.listing(self._model_path)
        # Of two that could have a name it goes to the configured one, else to the one that isn't split, and ends in
        # small letters.
        files.sort(key=lambda file: (file not in self._first, parts.part(file) is not None,
                                     not suffix_of(file).islower()))
        taken = set()
        for file in files:
            name = public_name(file)
            if name in taken:
                name = file
            taken.add(name)
            try:
                path = store.find(self._model_path, file)
            except store.ModelAbsent:
                continue  # it is gone this moment
            except ModelUnavailable as exc:
                yield Model(name, file, self._model_path / file, 0, 0, unusable=str(exc))
            else:
                yield self._look(name, file, path)

    def _look(self, name: str, file: str, path: Path) -> Model:
        mark = parts.mark(path)
        with self._lock:
            before = self._known.get(file)
        if before is not None and before[0] == mark and before[1].id == name:
            return before[1]
        model = _describe(Model(name, file, path, sum(size for _, _, size, _ in mark),
                                max((when for *_, when in mark), default=0) // 10**9))
        with self._lock:
            self._known[file] = (mark, model)
        return model


def _describe(model: Model) -> Model:
    takers = backends.of_file(model.file)
    described = replace(model, engines=tuple(backend.name for backend in takers))
    try:
        told = takers[0].describe(model.path)
        if told is not None:
            template, completes = told.get("template"), told["kind"] == "completion"
            facts = {name: value for name, value in told.items() if name != "template"}
            return replace(described, **facts, **_answering(template, completes))
        contents = read_contents(model.path)
    except (ModelUnavailable, OSError, ValueError) as exc:
        return replace(described, unusable=str(exc))
    header = contents.header
    kind = backends.kind_of(header.architecture, header.pooling)
    completes = kind == "completion"
    objections = {backend.name: backend.objection(kind, header.architecture, header.tensor_types, header.pooling)
                  or ("" if backend.installed() else f"needs {backend.package}, which isn't installed")
                  for backend in takers if kind in backend.loaders}
    able = tuple(name for name, objection in objections.items() if not objection)
    reasons = dict.fromkeys(f"{model.path.name} {objection}" for objection in objections.values())
    return replace(
        described, kind=kind, engines=able or described.engines, unusable="" if able else "; ".join(reasons),
        context_length=header.context_length if completes else header.embedding_window,
        cache_token_bytes=_cache_token_bytes(header) if completes else 0,
        chat_template=_chat_template(header) if completes else "",
        fills_gaps=completes and fills_gaps(contents.numbers, header.pieces),
        **_answering(header.chat_template, completes),
        **{name: getattr(header, name) for name in _TOLD})


def _answering(template: str | None, completes: bool) -> dict[str, Any]:
    """Return what a template says of the answers."""
    if not completes:
        return {}
    return {"tools": "generic" if form_of(template) is None else "native", "thinks": thought_of(template) is not None}


def _chat_template(header: Header) -> str:
    return "file" if header.chat_template else f"default:{dialect_of(header.architecture, header.pieces).name}"


def _cache_token_bytes(header: Header) -> int:
    heads, shared = header.head_count, header.head_count_kv
    width = header.embedding_length * shared // heads if heads and shared else header.embedding_length
    return 2 * header.block_count * width * _CACHE_BYTES
