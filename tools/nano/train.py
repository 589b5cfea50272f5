"""Trains the model and writes its file, with the figures of the training beside it.

Run from the project's folder: python -m tools.nano.train models/mayfly-nano-demo.gguf
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.nano import export, restore, vocabulary
from tools.nano.dialogues import Dialogue, dialogues
from tools.nano.encoding import Encoded, Encoder
from tools.nano.muon import Muon
from tools.nano.network import EPSILON, ROPE_BASE, Network, Shape
from tools.nano.words import TRAINING

_PIECES = 1024
_VOCABULARY_DIALOGUES = 10_000
_BATCH_TOKENS = 3_300
# Dialogues are sorted by length within so many, so that a batch has little padding.
_POOL = 1_024
_RATE = 3e-3
_MUON_RATE = 0.015
_WARM_UP = 100
# The service's defaults: the model must be sure enough to copy although what is copied is penalised.
_PENALTY = 1.18
_PENALISED = 64


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description="Train mayfly-nano and write it as GGUF.")
    parser.add_argument("out", type=Path, help="the model file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--width", type=int, default=Shape.width)
    parser.add_argument("--blocks", type=int, default=Shape.blocks)
    parser.add_argument("--heads", type=int, default=Shape.heads)
    parser.add_argument("--feed-forward", type=int, default=Shape.feed_forward)
    parser.add_argument("--record", type=Path, help="where to write the figures")
    parser.add_argument("--start", type=Path, help="a model file to go on from, instead of from nothing")
    parser.add_argument("--rate", type=float, default=1.0, help="a factor for the learning rates")
    parser.add_argument("--long", type=float, default=0.02, help="how likely a dialogue has a long text in it")
    arguments = parser.parse_args()
    earlier = None
    if arguments.start and arguments.record and arguments.record.exists():
        earlier = json.loads(arguments.record.read_text())
        if earlier["sha256"] != hashlib.sha256(arguments.start.read_bytes()).hexdigest():
            parser.error(f"{arguments.record} isn't the record of {arguments.start}")
    shape = Shape(_PIECES, arguments.width, arguments.blocks, arguments.heads, arguments.feed_forward)
    figures = train(arguments.out, shape, seed=arguments.seed, steps=arguments.steps, rate=arguments.rate,
                    start=arguments.start, long=arguments.long)
    if earlier:
        figures["start"] = earlier
    if arguments.record:
        arguments.record.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures), flush=True)


def train(out: Path, shape: Shape, *, seed: int, steps: int, rate: float = 1.0, start: Path | None = None,
          long: float = 0.0) -> dict[str, object]:
    """Train a model, write it to `out`, and return the figures.

    On one thread, so that additions have one order and the same seed makes the same file.

    Args:
        rate: a factor for the learning rates.
        start: a model file whose vocabulary, shape and weights to begin with; None begins with random ones.
        long: how likely a dialogue has a long text in it.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    if start is None:
        network = Network(shape)
        pieces = vocabulary.learn(
            (message.content for dialogue in itertools.islice(dialogues(seed), _VOCABULARY_DIALOGUES)
             for message in dialogue.messages), shape.vocabulary)
    else:
        network = restore.network(start)
        shape = network.shape
        pieces = restore.pieces(start)
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder(write(Path(folder) / "vocabulary.gguf", pieces, shape, None))
    optimizers = _optimizers(network, rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARM_UP, 1.0) * max(1.0 - step / steps, 0.01))
        for optimizer in optimizers]
    losses: list[float] = []
    curve: dict[str, float] = {}
    tokens = 0
    started = time.monotonic()
    words = replace(TRAINING, fragments=vocabulary.fragments(pieces))
    batches = _batches(encoder, dialogues(seed, words, long), seed, shape.vocabulary)
    for step, batch in enumerate(itertools.islice(batches, steps), start=1):
        loss, plain = _losses(network, *batch)
        network.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        losses.append(plain)
        tokens += batch[0].numel()
        if step % 100 == 0 or step == steps:
            curve[str(step)] = round(sum(losses[-100:]) / len(losses[-100:]), 5)
            print(f"step {step}  loss {curve[str(step)]:.4f}  {time.monotonic() - started:.0f} s", flush=True)
        if step % 500 == 0 and step < steps:
            write(out.with_suffix(f".{step}.part"), pieces, shape, network)
    partial = out.with_name(out.name + ".part")
    write(partial, pieces, shape, network)
    partial.replace(out)
    for left in out.parent.glob(f"{out.stem}.*.part"):
        left.unlink()
    return {
        "file": out.name, "sha256": hashlib.sha256(out.read_bytes()).hexdigest(), "bytes": out.stat().st_size,
        "seed": seed, "steps": steps, "rate": rate, "long": long, "shape": asdict(shape),
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "tokens": tokens, "seconds": round(time.monotonic() - started), "torch": torch.__version__,
        "loss": curve,
    }


def _optimizers(network: Network, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embeddings, the output and the norms."""
    matrices = [(weights, 3 if "qkv" in name else 2 if "gate_up" in name else 1)
                for name, weights in network.blocks.named_parameters() if weights.dim() == 2]
    taken = {id(weights) for weights, _ in matrices}
    rest = [weights for weights in network.parameters() if id(weights) not in taken]
    return [Muon(matrices, lr=rate * _MUON_RATE),
            torch.optim.AdamW(rest, lr=rate * _RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)]


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def _batches(encoder: Encoder, drawn: Iterator[Dialogue], seed: int, pieces: int) -> Iterator[Batch]:
    """Yield ids [batch, positions], the flat positions to learn at, the ids that follow them, and what precedes those.

    The last is [positions learnt, _PENALISED]; where a dialogue is younger than that, ids are `pieces`, one too many.
    """
    shuffle = np.random.default_rng(seed)
    source = (encoder.encode(dialogue) for dialogue in drawn)
    while True:
        pool = sorted((encoded for encoded in itertools.islice(source, _POOL) if len(encoded.ids) <= export.CONTEXT),
                      key=lambda encoded: len(encoded.ids))
        batches: list[list[Encoded]] = [[]]
        for encoded in pool:
            if (len(batches[-1]) + 1) * len(encoded.ids) > _BATCH_TOKENS:
                batches.append([])
            batches[-1].append(encoded)
        for at in shuffle.permutation(len(batches)):
            yield _tensors(batches[at], pieces)


def _tensors(batch: list[Encoded], pieces: int) -> Batch:
    positions = max(len(encoded.ids) for encoded in batch) - 1
    ids = np.zeros((len(batch), positions), dtype=np.int64)
    where, following, before = [], [], []
    for row, encoded in enumerate(batch):
        ids[row, :len(encoded.ids) - 1] = encoded.ids[:-1]
        padded = np.full(_PENALISED + len(encoded.ids), pieces, dtype=np.int64)
        padded[_PENALISED:] = encoded.ids
        for at in np.flatnonzero(encoded.learnt):
            where.append(row * positions + at - 1)
            following.append(encoded.ids[at])
            before.append(padded[at:at + _PENALISED])
    return torch.from_numpy(ids), torch.tensor(where), torch.tensor(following), torch.from_numpy(np.array(before))


def _losses(network: Network, ids: Tensor, where: Tensor, following: Tensor, before: Tensor) -> tuple[Tensor, float]:
    """Return the loss to learn from and, of it, the cross entropy without penalty, in nats a token."""
    logits = network(ids, where)
    plain = functional.cross_entropy(logits, following)
    repeated = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.bool).scatter_(1, before, True)[:, :-1]
    penalised = torch.where(repeated, torch.where(logits > 0, logits / _PENALTY, logits * _PENALTY), logits)
    return (plain + functional.cross_entropy(penalised, following)) / 2, plain.item()


def write(path: Path, pieces: list[vocabulary.Piece], shape: Shape, network: Network | None) -> Path:
    """Write a model file, or with None one that has only the vocabulary; return `path`."""
    tensors = {} if network is None else {
        name: weights.detach().numpy() for name, weights in _named(network).items()}
    return export.write(path, pieces, tensors, width=shape.width, blocks=shape.blocks, heads=shape.heads,
                        feed_forward=shape.feed_forward, rope_base=ROPE_BASE, epsilon=EPSILON)


def _named(network: Network) -> dict[str, Tensor]:
    """Return the weights by llama.cpp's names."""
    named = {"token_embd.weight": network.token_embd.weight}
    for number, block in enumerate(network.blocks):
        query, key, value = block.attn_qkv.weight.chunk(3)
        gate, up = block.ffn_gate_up.weight.chunk(2)
        named |= {f"blk.{number}.{name}.weight": weights for name, weights in (
            ("attn_norm", block.attn_norm.weight), ("attn_q", query), ("attn_k", key), ("attn_v", value),
            ("attn_output", block.attn_output.weight), ("ffn_norm", block.ffn_norm.weight), ("ffn_gate", gate),
            ("ffn_up", up), ("ffn_down", block.ffn_down.weight))}
    return named | {"output_norm.weight": network.output_norm.weight, "output.weight": network.output.weight}


if __name__ == "__main__":
    main()
