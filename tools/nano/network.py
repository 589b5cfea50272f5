"""The network in torch: llama's, computed as llama.cpp computes it.

Rotary position embeddings turn neighbouring pairs of dimensions (llama.cpp's "normal" rope), so that the matrices go
into the file as they are, without the permutation that converted models need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROPE_BASE = 10000.0
EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """Sizes: pieces, dimensions of the residual stream, blocks, attention heads, inner width of a feed-forward."""

    vocabulary: int
    width: int = 160
    blocks: int = 5
    heads: int = 10
    feed_forward: int = 448


class Block(nn.Module):
    """Attention, then a gated feed-forward, each added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attn_norm = nn.RMSNorm(shape.width, eps=EPSILON)
        self.attn_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=EPSILON)
        self.ffn_gate_up = nn.Linear(shape.width, 2 * shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, stream: Tensor, turns: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the stream.

        Args:
            stream: [batch, positions, width].
            turns: complex numbers of size 1, [positions, width of a head / 2].
            wanted: indices into the flattened positions, where nothing else is needed of this block.

        Returns:
            [batch, positions, width], or [wanted, width].
        """
        batch, positions, width = stream.shape
        qkv = self.attn_qkv(self.attn_norm(stream)).view(batch, positions, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            _turn(query, turns), _turn(key, turns), value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, positions, width)
        if wanted is not None:
            stream, mixed = stream.reshape(-1, width)[wanted], mixed.reshape(-1, width)[wanted]
        stream = stream + self.attn_output(mixed)
        gate, up = self.ffn_gate_up(self.ffn_norm(stream)).chunk(2, dim=-1)
        return stream + self.ffn_down(functional.silu(gate) * up)


class Network(nn.Module):
    """Token ids to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.output_norm = nn.RMSNorm(shape.width, eps=EPSILON)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for name, weights in self.named_parameters():
            if weights.dim() == 2:
                spread = 0.02 if "embd" in name else weights.shape[1] ** -0.5
                into_stream = "attn_output" in name or "ffn_down" in name
                nn.init.normal_(weights, std=spread / (2 * shape.blocks) ** 0.5 if into_stream else spread)

    def forward(self, ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return logits.

        Args:
            ids: [batch, positions].
            wanted: indices into the flattened positions; None for all.

        Returns:
            [wanted or batch * positions, vocabulary]
        """
        if wanted is None:
            wanted = torch.arange(ids.numel())
        turns = _turns(ids.shape[1], self.shape.width // self.shape.heads)
        stream = self.token_embd(ids)
        *earlier, last = self.blocks
        for block in earlier:
            stream = block(stream, turns)
        return self.output(self.output_norm(last(stream, turns, wanted)))


def _turns(positions: int, width: int) -> Tensor:
    frequencies = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def _turn(vectors: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)
