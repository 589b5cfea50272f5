"""What models there are below MODEL_PATH, by what their files say of themselves: nothing is loaded.

A header takes milliseconds to read, and is read again only when its file has changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mayfly.errors import ModelUnavailable
from mayfly.models import nano, parts, store
from mayfly.models.architectures import (
    ACCELERATED_ARCHITECTURES,
    COMPLETION_ARCHITECTURES,
    EMBEDDING_ARCHITECTURES,
    embedding_window,
)
from mayfly.models.dialects import dialect_of
from mayfly.models.header import Header, read_header

Kind = Literal["completion", "embedding"]

# A name travels in one write to a pipe, which holds 4,096 bytes; a character may take 6 of them.
_LONGEST_NAME = 500
_LARGEST_SCRIPT = 1 << 20
# What llama.cpp keeps of a key or a value in its cache: 16-bit floats.
_CACHE_BYTES = 2


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        id: the name by which callers know it.
        file: its path below MODEL_PATH, as `store.find` takes it; for the model that comes with the project, its name.
            That of the first part, if it is split.
        path: the file by that name; links aren't resolved, for engines go by the name.
        size: in bytes, of all its parts.
        modified: when the file, or the newest of its parts, was last written, in seconds since 1970.
        kind: what it is for; None if the file doesn't tell.
        architecture, context_length, quantization, parameter_count, embedding_length, vocabulary_size: see `Header`; ""
            and 0 where unknown.
        cache_token_bytes: what a token of the context takes in memory beside the weights.
        chat_template: where the template of a completion model's prompts is from: "file", or "default:" and the name of
            the one that models of its kind are taken to know.
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
    unusable: str = ""

    def window(self, n_ctx: int) -> int:
        """Return how many tokens it takes at once, where N_CTX, which is for completions, is `n_ctx`."""
        if self.kind == "embedding":
            return embedding_window(self.architecture, self.context_length)
        return min(n_ctx, self.context_length or n_ctx)

    def memory(self, n_ctx: int, processes: int, compiled: int = 0) -> int:
        """Estimate the memory in bytes that it takes in so many processes.

        The weights are mapped from the file and shared; each process has a cache of keys and values of its own.

        Args:
            compiled: for an embedding model: how many forms of it the accelerated engine keeps, one for each number
                of threads.
        """
        if compiled and self.architecture in ACCELERATED_ARCHITECTURES:
            return _ACCELERATOR + (1 + _COMPILED_FACTOR * compiled) * self.size
        return self.size + processes * self.window(n_ctx) * self.cache_token_bytes


# What OpenVINO takes without a model, and with each compiled one, by its file's size: measured with all-MiniLM-L6-v2 in
# f16 (45 MB), 280 MB with one and 420 MB with two of them, and up to 80 MB more for one after texts of all lengths.
_ACCELERATOR = 150 << 20
_COMPILED_FACTOR = 3


def unconfigured(kind: str, setting: str) -> str:
    """Return what callers of a model are told whose setting is `none`."""
    return (f"no {kind} model is configured ({setting}=none): put the name of a model file in MODEL_PATH into "
            f"{setting} in .env and start again")


def public_name(file: str) -> str:
    """Return the name by which callers know a model file: all-MiniLM-L6-v2 for each form of the default one."""
    folder, slash, last = file.rpartition("/")
    of = parts.part(last)
    name = folder + slash + of.model if of else file.removesuffix(store.GGUF).removesuffix(store.SCRIPT)
    return "all-MiniLM-L6-v2" if name.startswith("all-MiniLM-L6-v2.") else name


class Inventory:
    """The models below a folder. May be used by several threads.

    To find a model the folder isn't looked through again as long as no name has come or gone there, and the file that
    was found the last time is still the same.

    Args:
        model_path: the folder.
        first: configured files, which get a name that several files could have. If the model that comes with the
            project is one of them, it needn't be in the folder.
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
        for wanted in (name, store.file_name(name), name.removesuffix(store.GGUF)):
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
        path = self._file(name if model is None else model.file)
        if model is None:
            # One that isn't listed, because its name is hidden or long, can still be configured.
            model = self._look(public_name(store.file_name(name)), store.file_name(name), path)
        return model

    def _is_still(self, model: Model) -> bool:
        mark = parts.mark(model.path)
        with self._lock:
            return bool(mark) and self._known.get(model.file) == (mark, model)

    def _models(self) -> Iterator[Model]:
        files = [file for file in store.listing(self._model_path) if len(file) <= _LONGEST_NAME]
        if nano.FILE_NAME in self._first and nano.FILE_NAME not in files:
            files.append(nano.FILE_NAME)
        # Of two that could have a name it goes to the configured one, else to the one that isn't split.
        files.sort(key=lambda file: (file not in self._first, parts.part(file) is not None))
        taken = set()
        for file in files:
            name = public_name(file)
            if name in taken:
                name = file
            taken.add(name)
            try:
                path = self._file(file)
            except store.ModelAbsent:
                continue  # it is gone this moment
            except ModelUnavailable as exc:
                yield Model(name, file, self._model_path / file, 0, 0, unusable=str(exc))
            else:
                yield self._look(name, file, path)

    def _file(self, name: str) -> Path:
        """Return a model's file; ModelUnavailable if there is none."""
        try:
            return store.find(self._model_path, name)
        except store.ModelAbsent:
            if store.file_name(name) != nano.FILE_NAME or nano.FILE_NAME not in self._first:
                raise
            if not nano.PATH.is_file():
                raise store.ModelAbsent(nano.absent()) from None
            return nano.PATH

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
    if model.file.endswith(store.SCRIPT):
        return _script(model)
    try:
        header = read_header(model.path)
    except ModelUnavailable as exc:
        return replace(model, unusable=str(exc))
    kind: Kind = "embedding" if header.architecture in EMBEDDING_ARCHITECTURES else "completion"
    return replace(
        model, size=header.size, kind=kind, architecture=header.architecture, context_length=header.context_length,
        quantization=header.quantization, parameter_count=header.parameter_count,
        embedding_length=header.embedding_length, vocabulary_size=header.vocabulary_size,
        cache_token_bytes=_cache_token_bytes(header) if kind == "completion" else 0,
        chat_template=_chat_template(header) if kind == "completion" else "",
        unusable=_objection(model.path.name, header))


def _objection(name: str, header: Header) -> str:
    if header.architecture in COMPLETION_ARCHITECTURES | EMBEDDING_ARCHITECTURES:
        return ""
    known = ", ".join(sorted(COMPLETION_ARCHITECTURES | EMBEDDING_ARCHITECTURES))
    return f"{name} has the architecture {header.architecture[:50]!r}, which gpt4all 2.8.2 can't run; it runs {known}"


def _chat_template(header: Header) -> str:
    return "file" if header.chat_template else f"default:{dialect_of(header.architecture, header.pieces).name}"


def _cache_token_bytes(header: Header) -> int:
    heads, shared = header.head_count, header.head_count_kv
    width = header.embedding_length * shared // heads if heads and shared else header.embedding_length
    return 2 * header.block_count * width * _CACHE_BYTES


def _script(model: Model) -> Model:
    """Describe a script of the scripted engine, which stands for a model."""
    try:
        with model.path.open("rb") as stream:
            script = json.loads(stream.read(_LARGEST_SCRIPT))
        kind = script.get("kind", "completion")
        window = int(script.get("context_length", 2048))
    except (OSError, ValueError, TypeError, AttributeError):
        return replace(model, unusable=f"{model.path.name} is no script")
    return replace(model, kind=kind if kind == "embedding" else "completion", architecture="script",
                   context_length=window)
