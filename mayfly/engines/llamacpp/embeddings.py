"""Embeddings by llama.cpp: of encoders (BERT and its heirs), and of decoders that were trained to make vectors."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mayfly.engines import self_test
from mayfly.engines.base import Part
from mayfly.engines.bert_tokens import BertTokens, finished, prefix_of
from mayfly.engines.llama_batch import vectors
from mayfly.engines.llamacpp.library import Batch, load_model, open_library, reason
from mayfly.engines.llamacpp.vocabulary import Vocabulary, of_words
from mayfly.errors import EngineFailed, ModelUnavailable
from mayfly.models.header import read_contents
from mayfly.wire.calls import LongText

# Tokens that are computed at once at most, and texts. Each token of a batch is multiplied with all, and those of other
# texts are hidden afterwards.
_BATCH_TOKENS = 128


class LlamaEmbeddings:
    """An embedding model in this process; see EmbeddingEngine.

    Args:
        path: the model file.
        threads: compute threads.
        model: the model's public name.

    Raises:
        ModelUnavailable: llama.cpp can't load it.
    """

    threads_spin = True

    def __init__(self, path: Path, threads: int, model: str) -> None:
        contents = read_contents(path)
        header = contents.header
        self_test.require_weights(path, contents.tensors)
        self.model = model
        self._name = header.name
        self.facts = {"engine": "llamacpp", "precision": header.quantization.lower()}
        self._llama = open_library()
        loaded = load_model(path)
        self.dimensions = int(self._llama.llama_model_n_embd_out(loaded))
        window = header.embedding_window
        self.batch_tokens = min(_BATCH_TOKENS, window)
        params = self._llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = window
        params.n_seq_max = self.batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = params.kv_unified = True
        self._context = self._llama.llama_init_from_model(loaded, params)
        if not self._context:
            raise ModelUnavailable(f"llama.cpp can't load {path.name}: {reason('there is not enough memory')}")
        self._memory = self._llama.llama_get_memory(self._context)
        vocabulary = Vocabulary(loaded)
        try:
            self._tokens = (BertTokens(of_words(path, vocabulary), window, prefix_of(header.name)) if vocabulary.words
                            else _Pieces(vocabulary, window))
            self_test.require_vectors(path, self)
        except (ValueError, EngineFailed) as exc:
            raise ModelUnavailable(f"llama.cpp can't load {path.name}: {exc}") from exc

    def prepare(self) -> None:
        """Nothing would delay a later text."""

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine."""
        return self._tokens.plan(text, long_text)

    def compute(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """See EmbeddingEngine."""
        if self._memory:
            self._llama.llama_memory_clear(self._memory, False)

        def evaluate(*fields: object) -> None:
            call = self._llama.llama_decode if self._memory else self._llama.llama_encode
            if code := call(self._context, Batch(*fields)):
                raise EngineFailed(f"the embedding engine failed: {reason(f'llama.cpp says {code}')}")

        return finished(vectors(self._llama, self._context, chunks, self.dimensions, evaluate), self._name)

    def set_threads(self, threads: int) -> None:
        """See EmbeddingEngine."""
        self._llama.llama_set_n_threads(self._context, max(1, threads), max(1, threads))


class _Pieces:
    """The tokens of texts for a model whose vocabulary isn't a BERT's: as they are, in chunks that fill the window."""

    def __init__(self, vocabulary: Vocabulary, window: int) -> None:
        self._vocabulary = vocabulary
        self._begin, self._end = vocabulary.frame()
        self._room = window - len(self._begin) - len(self._end)
        if self._room < 1:
            raise ValueError(f"a window of {window} tokens is too small")

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine; "truncate" keeps the first chunk alone."""
        held = array("i")
        for ids in self._vocabulary.unframed(text):
            while len(held) > self._room:
                if long_text == "truncate":
                    break
                # How much is left isn't known in bytes; there is some.
                yield self._part(held[:self._room], len(held) - self._room)
                held = held[self._room:]
            held.extend(ids)
            yield None
        while len(held) > self._room and long_text != "truncate":
            yield self._part(held[:self._room], len(held) - self._room)
            held = held[self._room:]
        yield self._part(held[:self._room], 0)

    def _part(self, ids: array[int], left: int) -> Part:
        # A text without tokens has to have one, where no token frames it.
        chunk = self._begin + ids + self._end or array("i", [0])
        return Part([chunk], max(1, len(ids)), left)
