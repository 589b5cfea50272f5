"""Vectors and tokens on their way out: checked, and written without touching single numbers in Python."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from mayfly.errors import EngineFailed
from mayfly.wire.calls import Embeddings, Tokens

# Embedding models normalise their vectors; what is further off than this was computed wrongly.
_NORM_TOLERANCE = 1e-3
# Numbers that are written at once: some milliseconds, in which no other thread runs.
_AT_ONCE = 1 << 16


def checked(embeddings: Embeddings, count: int) -> npt.NDArray[np.float32]:
    """Return the vectors as an array of shape (count, dimensions).

    Raises:
        EngineFailed: there aren't `count` of them, or one isn't finite or not of norm 1.
    """
    dimensions = embeddings.dimensions
    if dimensions < 1 or len(embeddings.vectors) != 4 * count * dimensions:
        raise EngineFailed("The embedding model returned vectors of a wrong number or length.")
    array = np.frombuffer(embeddings.vectors, dtype="<f4").reshape(count, dimensions)
    squares = np.einsum("ij,ij->i", array, array)
    # A NaN or an infinity in a vector is one in its norm, in the least and the most of them, and compares false.
    if not (squares.min() >= (1 - _NORM_TOLERANCE) ** 2 and squares.max() <= (1 + _NORM_TOLERANCE) ** 2):
        raise EngineFailed("The embedding model returned a vector that isn't finite and of norm 1.")
    return array


def embedding_list(embeddings: Embeddings, count: int, encoding: Literal["float", "base64"]) -> bytes:
    """Return OpenAI's embedding list as JSON; "base64" is little-endian float32.

    Raises:
        EngineFailed: the vectors fail their checks.
    """
    rows: list[Any]
    if encoding == "base64":
        rows = [base64.b64encode(row.tobytes()).decode("ascii") for row in checked(embeddings, count)]
    else:
        rows = shortened(embeddings, count)
    return orjson.dumps(
        {
            "object": "list",
            "model": embeddings.model,
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "usage": {"prompt_tokens": embeddings.prompt_tokens, "total_tokens": embeddings.prompt_tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def shortened(embeddings: Embeddings, count: int, dimensions: int | None = None) -> list[npt.NDArray[np.float32]]:
    """Return the vectors, or if they are longer than asked, their beginnings, of norm 1 again.

    Raises:
        EngineFailed: the vectors fail their checks.
    """
    array = checked(embeddings, count)
    if dimensions is not None and dimensions < embeddings.dimensions:
        array = array[:, :dimensions]
        # What is nothing but zeros has no direction.
        array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    # orjson writes native float32 arrays only.
    return list(np.ascontiguousarray(array, dtype=np.float32))


def token_lists(tokens: Tokens, model: str) -> bytes:
    """Return the token ids of each text as JSON.

    Megabytes of text have millions of tokens, so they are written in parts, between which other threads run.
    """
    ids = np.frombuffer(tokens.ids, np.int32)
    parts = [b'{"object":"list","data":[']
    start = 0
    for index, count in enumerate(tokens.counts):
        parts.append(b'%s{"index":%d,"tokens":[' % (b"," if index else b"", index))
        for at in range(start, start + count, _AT_ONCE):
            written = orjson.dumps(ids[at:min(at + _AT_ONCE, start + count)], option=orjson.OPT_SERIALIZE_NUMPY)
            parts += [b"," if at > start else b"", written[1:-1]]
        parts.append(b'],"count":%d}' % count)
        start += count
    parts.append(b'],"model":%s}' % orjson.dumps(model))
    return b"".join(parts)
