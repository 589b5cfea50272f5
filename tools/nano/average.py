"""Writes the mean of two models that come from the same training, which is better than either.

Run from the project's folder: python -m tools.nano.average FIRST.gguf SECOND.gguf OUT.gguf

Weights after a training and after some more of it lie in one valley of the loss, each at another side of its bottom
(Izmailov et al., 2018, "Averaging weights leads to wider optima and better generalization").
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from tools.nano import restore, train


def main() -> None:
    """Average as the command line says."""
    parser = argparse.ArgumentParser(description="Write the mean of two models.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path, help="trained on from the first (train --start)")
    parser.add_argument("out", type=Path, help="the model file to write")
    parser.add_argument("--record", type=Path, help="where the second's figures are, and those of the mean will be")
    arguments = parser.parse_args()
    figures = average(arguments.first, arguments.second, arguments.out)
    if arguments.record:
        earlier = json.loads(arguments.record.read_text())
        if earlier["sha256"] != hashlib.sha256(arguments.second.read_bytes()).hexdigest():
            parser.error(f"{arguments.record} isn't the record of {arguments.second}")
        figures["mean_of"] = [earlier.pop("start"), earlier]
        arguments.record.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures), flush=True)


def average(first: Path, second: Path, out: Path) -> dict[str, Any]:
    """Write the mean of two models of one shape and one vocabulary, and return the figures."""
    network, other = restore.network(first), restore.network(second)
    with torch.no_grad():
        for weights, others in zip(network.parameters(), other.parameters(), strict=True):
            weights.lerp_(others, 0.5)
    train.write(out, restore.pieces(first), network.shape, network)
    return {"file": out.name, "sha256": hashlib.sha256(out.read_bytes()).hexdigest(), "bytes": out.stat().st_size,
            "parameters": sum(weights.numel() for weights in network.parameters())}


if __name__ == "__main__":
    main()
