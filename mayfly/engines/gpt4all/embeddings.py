"""Embeddings by gpt4all."""

from __future__ import annotations

import array
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from mayfly.engines import long_texts, self_test
from mayfly.engines.gpt4all.library import first_line, load_embeddings
from mayfly.errors import EngineFailed, ModelUnavailable
from mayfly.models import wordpiece
from mayfly.models.header import read_contents
from mayfly.wire.calls import LongText

# Texts that are embedded side by side. Each copy of MiniLM takes some 4 MB beside the weights.
_MOST_COPIES = 4


class Gpt4AllEmbeddings:
    """An embedding model in this process (Embed4All); see ParallelEmbeddingEngine.

    A short text keeps one thread busy better than two, so several texts are computed side by side, each by a copy of
    the model: two threads in one would crash. Copies share the weights' memory; they are loaded when first needed.

    Args:
        path: the model file.
        threads: compute threads.
        model: the model's public name.

    Raises:
        ModelUnavailable: gpt4all can't load it.
    """

    def __init__(self, path: Path, threads: int, model: str) -> None:
        contents = read_contents(path)
        header = contents.header
        self.model = model
        # Its weights are as the file has them; it multiplies in the file's precision and adds in f32.
        self.facts = {"engine": "gpt4all", "precision": header.quantization.lower()}
        self._path = path
        self_test.require_weights(path, contents.tensors)
        self._window = header.embedding_window
        self._threads = self._spinning = threads
        self._copies = [self._load()]
        self._most_copies = _MOST_COPIES
        self._pool: ThreadPoolExecutor | None = None
        self.dimensions = 0
        vectors = [array.array("f", self.embed(text, "truncate")[0]) for text in self_test.TEXTS]
        self.dimensions = len(vectors[0])
        self_test.require_vectors(path, vectors)

    @property
    def at_once(self) -> int:
        """See ParallelEmbeddingEngine."""
        return min(self._threads, self._most_copies)

    def parts(self, text: str, long_text: LongText) -> Iterator[str | None]:
        """See EmbeddingEngine.

        gpt4all would embed any number of chunks in one call that can't be watched or ended: 100,000 words take minutes.
        """
        return long_texts.to_embed(text, long_text)

    def embed(self, part: str, long_text: LongText) -> tuple[bytes, int]:
        """See PartEmbeddingEngine."""
        return self._embed(self._copies[0], min(self._threads, self._spinning), part, long_text)

    def embed_each(self, parts: Sequence[tuple[str, LongText]],
                   on_done: Callable[[int, tuple[bytes, int] | EngineFailed], tuple[str, LongText] | None]) -> None:
        """See ParallelEmbeddingEngine."""
        try:
            while len(self._copies) < min(len(parts), self.at_once):
                self._copies.append(self._load())
        except ModelUnavailable:
            # Those that there are do the work: the file may be about to be replaced, or memory is short.
            self._most_copies = len(self._copies)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_MOST_COPIES + 1, "embedding")
        copies = self._copies[:min(len(parts), self.at_once)]
        pool, threads = self._pool, min(self._threads, self._spinning) // len(copies)
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)
        done: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work(number: int, part: str, long_text: LongText) -> tuple[bytes, int] | EngineFailed:
            copy = free.get()
            try:
                return self._embed(copy, threads, part, long_text)
            except EngineFailed as exc:
                return exc
            finally:
                free.put(copy)
                done.put(number)

        running = {number: pool.submit(work, number, *part) for number, part in enumerate(parts)}
        begun = len(parts)
        try:
            while running:
                # Waits as long as nothing is done: a hang has to be seen from outside.
                number = done.get()
                following = on_done(number, running.pop(number).result())
                if following is not None:
                    running[begun] = pool.submit(work, begun, *following)
                    begun += 1
        except BaseException:
            wait([future for future in running.values() if not future.cancel()])
            raise

    def _load(self) -> Any:
        return load_embeddings(self._path, self._threads, self._window)

    def _embed(self, copy: Any, threads: int, part: str, long_text: LongText) -> tuple[bytes, int]:
        copy.gpt4all.model.set_thread_count(max(1, threads))
        # gpt4all's own cleaning of a text differs from the tokenizer that the model was trained with. And the binding
        # refuses the empty text; a blank one has the same tokens: none.
        text = wordpiece.normalise(part) or " "
        try:
            result = copy.embed(text, long_text_mode=long_text, return_dict=True)
        except (RuntimeError, ValueError) as exc:
            raise EngineFailed(f"the embedding engine failed: {first_line(exc)}") from exc
        vector, tokens = array.array("f", result["embeddings"]), int(result["n_prompt_tokens"])
        if self.dimensions and len(vector) != self.dimensions:
            raise EngineFailed(f"the embedding engine returned {len(vector)} numbers instead of {self.dimensions}")
        return long_texts.join([vector], [tokens]), tokens

    def set_threads(self, threads: int) -> None:
        """See EmbeddingEngine."""
        self._threads = threads

    def set_spinning(self, threads: int) -> None:
        """See ParallelEmbeddingEngine."""
        self._spinning = threads
