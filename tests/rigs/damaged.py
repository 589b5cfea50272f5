"""Damage a model file so that its header doesn't tell: the weights alone are overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

_NUMBERS = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}


def overwrite(source: Path, target: Path, number: float, of: Callable[[str], bool] = lambda name: True) -> Path:
    """Write `source` to `target` with one number as all the weights of the tensors that `of` accepts by their names."""
    content = bytearray(source.read_bytes())
    for tensor in gguf.GGUFReader(source).tensors:
        if of(tensor.name):
            weights = np.full(int(tensor.n_elements), number, _NUMBERS[tensor.tensor_type]).tobytes()
            content[tensor.data_offset:tensor.data_offset + len(weights)] = weights
    target.write_bytes(content)
    return target
