"""What a model has to pass after its load, whichever engine computes it: a damaged one fails now and not on a caller.

A file can be complete by its header and hold zeros all the same: where a download hasn't been yet, or a disk has lost
something. What is computed with such weights, or with numbers that are none, is the same whatever is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mayfly.engines.base import EmbeddingEngine
from mayfly.errors import FileUnusable, ModelUnavailable
from mayfly.models.header import Tensor

if TYPE_CHECKING:  # not needed by the workers that complete
    import numpy as np
    import numpy.typing as npt

#: Texts of the same length in any vocabulary of words.
TEXTS = ("cat", "dog")
#: Beginnings that no model goes on from in the same way.
PROMPTS = ("Hello", "1 2 3", "The name of the river", "def main():\n    ")

# A model may hold some matrices of zeros on purpose: blocks that were added to be trained later begin so.
_MOST_ZEROS = 0.1
_LOOK, _BLOCK = 1 << 12, 1 << 20
_SAME = 0.99999


def require_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise FileUnusable if too much of a model is matrices of zeros; reads little of one that isn't."""
    matrices = [tensor for tensor in tensors.values() if len(tensor.shape) > 1]
    whole = sum(tensor.size for tensor in matrices)
    zeros = sum(tensor.size for tensor in matrices if _is_blank(tensor))
    if zeros > _MOST_ZEROS * whole:
        raise FileUnusable(f"{path.name} fails its self-test: {100 * zeros // whole} % of its weights are zeros; "
                               "the file is damaged, or its download isn't finished")


def _is_blank(tensor: Tensor) -> bool:
    try:
        with tensor.file.open("rb", buffering=0) as stream:
            stream.seek(tensor.offset)
            left, block = tensor.size, _LOOK
            while left > 0:
                found = stream.read(min(left, block))
                if any(found) or not found:
                    return False
                left, block = left - len(found), _BLOCK
    except OSError as exc:
        raise ModelUnavailable(f"{tensor.file.name} can't be read: {exc.strerror or exc}") from exc
    return True


def vectors(engine: EmbeddingEngine) -> list[npt.NDArray[np.float32]]:
    """Return the vectors of `TEXTS`."""
    return [engine.compute(part.chunks)[0] for text in TEXTS for part in engine.plan(text, "truncate") if part]


def require_vectors(path: Path, engine: EmbeddingEngine) -> None:
    """Raise FileUnusable unless the vectors of `TEXTS` have norm 1 and differ."""
    first, second = vectors(engine)
    for vector in (first, second):
        norm = math.sqrt(float(vector @ vector))
        if not abs(norm - 1) <= 1e-3:
            raise FileUnusable(f"{path.name} fails its self-test: the norm of a vector is {norm:g} instead of 1")
    if float(first @ second) > _SAME:
        raise FileUnusable(f"{path.name} fails its self-test: {' and '.join(map(repr, TEXTS))} have the same "
                               "vector; its weights are damaged")


def require_choice(model: str, likeliest: Callable[[str], int | None], end_ids: Collection[int]) -> None:
    """Raise FileUnusable if a completion model goes on from every prompt with the first token of its vocabulary: so
    does one for which all tokens are equally likely, or none has a likelihood that is a number.

    Args:
        likeliest: evaluates a prompt and returns the likeliest token; None for one that ends the answer.
        end_ids: the tokens that do that.
    """
    if all(found == 0 or (found is None and 0 in end_ids) for found in map(likeliest, PROMPTS)):
        raise FileUnusable(f"{model} fails its self-test: it goes on in the same way whatever the prompt is; its "
                               "weights are damaged")
