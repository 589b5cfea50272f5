"""Vectors of several chunks in one batch of llama.cpp, by whichever of its libraries: gpt4all's or that of today."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mayfly.errors import EngineFailed


def vectors(llama: ctypes.CDLL, context: int, chunks: Sequence[Sequence[int]], dimensions: int,
            evaluate: Callable[..., None]) -> npt.NDArray[np.float32]:
    """Evaluate chunks of token ids side by side.

    Args:
        llama: the library, with `llama_get_embeddings_seq` and `llama_get_embeddings_ith` declared.
        context: its context, in which nothing is evaluated yet.
        evaluate: is called with the fields of a `llama_batch` up to the one that says whose results are wanted, in
            their order; raises EngineFailed where the library can't.

    Returns:
        A row for each chunk, of any norm; shape [chunks, dimensions].

    Raises:
        EngineFailed: the library can't evaluate the batch, or made no vector of a chunk.
    """
    lengths = [len(chunk) for chunk in chunks]
    count = sum(lengths)
    ids = np.concatenate([np.asarray(chunk, np.int32) for chunk in chunks])
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    # Which chunk each token belongs to, and where that is told.
    owners = np.repeat(np.arange(len(chunks), dtype=np.int32), lengths)
    told = owners.ctypes.data + owners.itemsize * np.arange(count, dtype=np.uintp)
    ones, wanted = np.ones(count, np.int32), np.ones(count, np.int8)
    columns: list[Any] = [column.ctypes.data for column in (positions, ones, told, wanted)]
    evaluate(count, ids.ctypes.data, None, *columns)
    rows = np.empty((len(chunks), dimensions), np.float32)
    for number, end in enumerate(np.cumsum(lengths)):
        # A model that makes no one vector of many has that of the last token.
        found = (llama.llama_get_embeddings_seq(context, number)
                 or llama.llama_get_embeddings_ith(context, int(end) - 1))
        if not found:
            raise EngineFailed("the embedding engine made no vector")
        rows[number] = np.ctypeslib.as_array(found, (dimensions,))
    return rows
