"""Reads a model file back: its weights into the network, its vocabulary into pieces."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

from tools.nano.network import Network, Shape
from tools.nano.vocabulary import Piece


def pieces(path: Path) -> list[Piece]:
    """Return the vocabulary of a model file."""
    fields = gguf.GGUFReader(path).fields
    texts, scores, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
    return [Piece(str(text), float(score), int(kind)) for text, score, kind in zip(texts, scores, kinds, strict=True)]


def network(path: Path) -> Network:
    """Return the network with a model file's weights."""
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
    restored = Network(shape)
    restored.load_state_dict(state)
    return restored
