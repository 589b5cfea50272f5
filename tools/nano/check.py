"""Compares what gpt4all generates greedily from a model file with what torch makes of the same weights.

Run from the project's folder: python -m tools.nano.check models/mayfly-nano-demo.gguf
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gguf
import torch

from mayfly.engines.base import Segment
from mayfly.engines.gpt4all import Gpt4AllCompletions
from mayfly.lanes.calls import CompletionCall, Sampling
from tools.nano import vocabulary
from tools.nano.encoding import Encoder
from tools.nano.network import Network, Shape
from tools.nano.questions import questions

_MOST_TOKENS = 60


def main() -> int:
    """Compare as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare gpt4all's greedy answers with torch's.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=60, help="how many questions, of all kinds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, end = load(arguments.model)
    encoder = Encoder(arguments.model)
    engine = Gpt4AllCompletions(arguments.model, 1, 2048, "cpu", arguments.model.stem)
    asked = questions(3, 100)
    asked = asked[::max(1, len(asked) // arguments.count)]
    differing = 0
    for question in asked:
        segments = engine.prompt(CompletionCall(id="check", messages=question.messages))
        said = generate(engine, segments)
        ids = greedy(network, encoder.vocabulary.tokenize(list(segments)), end)
        text = decode(arguments.model, ids)
        if text != said:
            differing += 1
            print(f"{question.messages[-1].content!r}\n  gpt4all {said!r}\n  torch   {text!r}")
    print(f"{len(asked) - differing} of {len(asked)} answers are the same")
    return 1 if differing else 0


def load(path: Path) -> tuple[Network, int]:
    """Return the network with a file's weights, and the id of the token that ends an answer."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}

    def number(key: str) -> int:
        return int(reader.fields[key].contents())

    shape = Shape(vocabulary=number("llama.vocab_size"), width=number("llama.embedding_length"),
                  blocks=number("llama.block_count"), heads=number("llama.attention.head_count"),
                  feed_forward=number("llama.feed_forward_length"))
    state = {name: tensors[name] for name in ("token_embd.weight", "output_norm.weight", "output.weight")}
    for block in range(shape.blocks):
        parts = {name: tensors[f"blk.{block}.{name}.weight"] for name in (
            "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")}
        parts["attn_qkv"] = torch.cat([parts.pop(name) for name in ("attn_q", "attn_k", "attn_v")])
        parts["ffn_gate_up"] = torch.cat([parts.pop(name) for name in ("ffn_gate", "ffn_up")])
        state |= {f"blocks.{block}.{name}.weight": weights for name, weights in parts.items()}
    network = Network(shape)
    network.load_state_dict(state)
    return network.eval(), number("tokenizer.ggml.eos_token_id")


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


def decode(path: Path, ids: list[int]) -> bytes:
    """Return the bytes of some ids."""
    field = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
    pieces = [str(field.contents(at)) for at in ids]
    return b"".join(bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") and len(piece) == 6
                    else piece.replace(vocabulary.BLANK, " ").encode() for piece in pieces)


if __name__ == "__main__":
    sys.exit(main())
