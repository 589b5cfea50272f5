"""Embeddings by the llama.cpp in gpt4all's wheel: the vectors that gpt4all makes, of any chunks of tokens.

gpt4all's own call takes texts and computes all chunks of one before it returns, which nobody can watch or end: minutes
for 100,000 words. So what it does is done here, chunk by chunk (`embedInternal` in the llamamodel.cpp of 2.8.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mayfly.engines import self_test
from mayfly.engines.base import Part
from mayfly.engines.bert_tokens import BertTokens, finished, prefix_of
from mayfly.engines.gpt4all.llama_api import Batch, load_model, open_llama
from mayfly.engines.gpt4all.vocabulary import open_vocabulary
from mayfly.engines.llama_batch import vectors
from mayfly.errors import EngineFailed, ModelUnavailable
from mayfly.models.header import read_contents
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import LongText

# Tokens that are computed at once at most. llama.cpp lets each token of a batch look at all of them and hides the other
# texts' afterwards, so more aren't faster.
_BATCH_TOKENS = 64


class Gpt4AllEmbeddings:
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
        self.model = model
        self._name = header.name
        # Its weights are as the file has them; it multiplies in the file's precision and adds in f32.
        self.facts = {"engine": "gpt4all", "precision": header.quantization.lower()}
        self.dimensions = header.embedding_length
        self_test.require_weights(path, contents.tensors)
        vocabulary = open_vocabulary(path, header.vocabulary_size)
        window = header.embedding_window
        self.batch_tokens = min(_BATCH_TOKENS, window)
        try:
            self._tokens = BertTokens(lambda text: vocabulary.tokenize([Segment(text, special=False)]), window,
                                      prefix_of(header.name))
            self._load(path, window)
            self.set_threads(threads)
            self_test.require_vectors(path, self)
        except (ValueError, EngineFailed) as exc:
            raise ModelUnavailable(f"gpt4all can't load {path.name}: {exc}") from exc

    def _load(self, path: Path, window: int) -> None:
        self._llama = open_llama()
        model = load_model(path, vocabulary_only=False)
        if not model:
            raise ModelUnavailable(f"gpt4all can't load {path.name}")
        params = self._llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_seq_max = window
        params.embeddings = True
        self._context = self._llama.llama_new_context_with_model(model, params)
        if not self._context:
            raise ModelUnavailable(f"gpt4all can't load {path.name}: there isn't enough memory")

    def prepare(self) -> None:
        """Nothing would delay a later text."""

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine."""
        return self._tokens.plan(text, long_text)

    def compute(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """See EmbeddingEngine."""
        def evaluate(*fields: object) -> None:
            if self._llama.llama_decode(self._context, Batch(*fields)):
                raise EngineFailed("the embedding engine failed")

        return finished(vectors(self._llama, self._context, chunks, self.dimensions, evaluate), self._name)

    def set_threads(self, threads: int) -> None:
        """See EmbeddingEngine."""
        self._llama.llama_set_n_threads(self._context, max(1, threads), max(1, threads))
