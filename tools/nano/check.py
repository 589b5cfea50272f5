"""Compares what gpt4all generates greedily from a model file with what torch makes of the same weights.

Run from the project's folder: python -m tools.nano.check models/mayfly-nano-demo.gguf
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mayfly.engines.gpt4all.completions import Gpt4AllCompletions
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import CompletionCall, Sampling
from tools.nano import restore, vocabulary
from tools.nano.encoding import Encoder
from tools.nano.network import Network
from tools.nano.questions import questions

_MOST_TOKENS = 60


def main() -> int:
    """Compare as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare gpt4all's greedy answers with torch's.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=60, help="how many questions, of all kinds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = restore.network(arguments.model).eval()
    encoder = Encoder(arguments.model)
    texts = [piece.text for piece in restore.pieces(arguments.model)]
    engine = Gpt4AllCompletions(arguments.model, 1, 2048, "cpu", arguments.model.stem)
    asked = questions(3, 100)
    asked = asked[::max(1, len(asked) // arguments.count)]
    differing = 0
    for question in asked:
        segments = engine.prompt(CompletionCall(id="check", messages=question.messages))
        said = generate(engine, segments)
        ids = greedy(network, encoder.vocabulary.tokenize(list(segments)), encoder.end)
        text = decode(texts, ids)
        if text != said:
            differing += 1
            print(f"{question.messages[-1].content!r}\n  gpt4all {said!r}\n  torch   {text!r}")
    print(f"{len(asked) - differing} of {len(asked)} answers are the same")
    return 1 if differing else 0


def generate(engine: Gpt4AllCompletions, segments: Sequence[Segment]) -> bytes:
    """Return gpt4all's greedy answer to a prompt."""
    made: list[bytes] = []
    engine.reseed()
    engine.generate(segments, Sampling(max_tokens=_MOST_TOKENS, temperature=0.0, repeat_penalty=1.0),
                    lambda: True, lambda piece: made.append(piece) is None)
    return b"".join(made)


@torch.no_grad()
def greedy(network: Network, prompt: list[int], end: int) -> list[int]:
    """Return the likeliest ids after a prompt, up to the one that ends the answer."""
    ids = list(prompt)
    while len(ids) < len(prompt) + _MOST_TOKENS:
        logits = network(torch.tensor([ids]), torch.tensor([len(ids) - 1]))
        best = int(logits.argmax())
        if best == end:
            break
        ids.append(best)
    return ids[len(prompt):]


def decode(texts: Sequence[str], ids: Sequence[int]) -> bytes:
    """Return the bytes of some ids."""
    pieces = [texts[at] for at in ids]
    return b"".join(bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") and len(piece) == 6
                    else piece.replace(vocabulary.BLANK, " ").encode() for piece in pieces)


if __name__ == "__main__":
    sys.exit(main())
