"""Muon: momentum whose matrices are made orthogonal before each step (Keller Jordan, 2024).

Torch has it too, but computes in bfloat16, which is slow on processors without instructions for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

_ITERATIONS = 5
# Coefficients of the published quintic iteration.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Updates square blocks of matrices together.

    Args:
        matrices: (weights, parts): weights of shape [rows, columns] made of so many matrices below each other.
        lr: the size of a step; each matrix moves by about this much in every direction.
        decay: weight decay, a share of `lr`.
    """

    def __init__(self, matrices: Sequence[tuple[Tensor, int]], lr: float, momentum: float = 0.95, decay: float = 0.1
                 ) -> None:
        super().__init__([weights for weights, _ in matrices], {"lr": lr, "momentum": momentum, "decay": decay})
        self._parts = dict(matrices)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        group = self.param_groups[0]
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weights in group["params"]:
            state = self.state[weights]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weights)
            running = state["momentum"].lerp_(weights.grad, 1 - group["momentum"])
            wanted = weights.grad.lerp(running, group["momentum"])
            parts = self._parts[weights]
            for part, towards in zip(weights.chunk(parts), wanted.chunk(parts), strict=True):
                # Wide matrices, so that all of one size go together.
                if part.shape[0] > part.shape[1]:
                    part, towards = part.T, towards.T
                alike[tuple(part.shape)].append((part, towards))
        for (rows, columns), pairs in alike.items():
            steps = _orthogonal(torch.stack([towards for _, towards in pairs]))
            size = group["lr"] * (columns / rows) ** 0.5
            for (part, _), step in zip(pairs, steps, strict=True):
                part.mul_(1 - group["lr"] * group["decay"]).sub_(step, alpha=size)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return [n, rows, columns] with singular values near 1 and the singular vectors of `matrices`."""
    found = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = found @ found.mT
        found = _A * found + (_B * square + _C * square @ square) @ found
    return found
