"""Damage a model file so that its header doesn't tell: the weights alone are overwritten."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mayfly.models.header import read_contents

_NUMBERS = {"F32": np.float32, "F16": np.float16}


def overwrite(source: Path, target: Path, number: float, of: Callable[[str], bool] = lambda name: True) -> Path:
    """Write `source` to `target` with one number as all the weights of the tensors that `of` accepts by their names."""
    content = bytearray(source.read_bytes())
    for name, tensor in read_contents(source).tensors.items():
        if of(name):
            weights = np.full(math.prod(tensor.shape), number, _NUMBERS[tensor.kind]).tobytes()
            content[tensor.offset:tensor.offset + len(weights)] = weights
    target.write_bytes(content)
    return target
