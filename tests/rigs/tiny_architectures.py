"""Tiny models with random weights of architectures that came after llama, each by what it has that llama hasn't."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tiny_llama
from tiny_llama import Tensor

_WIDTH, _HEADS, _EXPERTS = 128, 4, 4
_HEAD = _WIDTH // _HEADS


@dataclass(frozen=True)
class Architecture:
    """What one has beside llama's tensors, or instead of them.

    Attributes:
        vectors: more tensors of each block with one dimension, and their lengths: norms, and biases.
        matrices: more tensors of each block, with their shapes.
        without: of llama's tensors of each block, those that it lacks.
        keys: more entries for the header.
    """

    vectors: Mapping[str, int] = field(default_factory=dict)
    matrices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    without: Sequence[str] = ()
    keys: Mapping[str, int | float] = field(default_factory=dict)


_HEAD_NORMS = {"attn_q_norm.weight": _HEAD, "attn_k_norm.weight": _HEAD}
_FEED_FORWARD = ("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")
_MIXTURE = {"ffn_gate_inp.weight": (_EXPERTS, _WIDTH), "ffn_gate_exps.weight": (_EXPERTS, 64, _WIDTH),
            "ffn_up_exps.weight": (_EXPERTS, 64, _WIDTH), "ffn_down_exps.weight": (_EXPERTS, _WIDTH, 64)}
_EXPERT_KEYS = {"expert_count": _EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": 64}
_STATE = {"conv_kernel": 4, "inner_size": 2 * _WIDTH, "state_size": 16, "time_step_rank": 8}

ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": Architecture({f"attn_{part}.bias": _WIDTH for part in "qkv"}),
    "qwen3": Architecture(_HEAD_NORMS),
    "qwen3moe": Architecture(_HEAD_NORMS, _MIXTURE, _FEED_FORWARD, _EXPERT_KEYS),
    "gemma3": Architecture({**_HEAD_NORMS, "post_attention_norm.weight": _WIDTH, "post_ffw_norm.weight": _WIDTH},
                           keys={"attention.sliding_window": 64, "attention.key_length": _HEAD,
                                 "attention.value_length": _HEAD}),
    "phi3": Architecture(matrices={"attn_qkv.weight": (3 * _WIDTH, _WIDTH), "ffn_up.weight": (4 * _WIDTH, _WIDTH)},
                         without=("attn_q.weight", "attn_k.weight", "attn_v.weight", *_FEED_FORWARD[:2]),
                         keys={"attention.sliding_window": 64}),
    "granite": Architecture(keys={"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0,
                                  "attention.scale": _HEAD ** -0.5}),
    "olmo2": Architecture({"attn_q_norm.weight": _WIDTH, "attn_k_norm.weight": _WIDTH,
                           "post_attention_norm.weight": _WIDTH, "post_ffw_norm.weight": _WIDTH},
                          without=("attn_norm.weight", "ffn_norm.weight")),
    "smollm3": Architecture(),
    "mamba": Architecture(
        {"ssm_conv1d.bias": 2 * _WIDTH, "ssm_dt.bias": 2 * _WIDTH, "ssm_d": 2 * _WIDTH},
        {"ssm_in.weight": (4 * _WIDTH, _WIDTH), "ssm_conv1d.weight": (2 * _WIDTH, 4),
         "ssm_x.weight": (8 + 2 * 16, 2 * _WIDTH), "ssm_dt.weight": (2 * _WIDTH, 8), "ssm_a": (2 * _WIDTH, 16),
         "ssm_out.weight": (_WIDTH, 2 * _WIDTH)},
        ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight", "ffn_norm.weight", *_FEED_FORWARD),
        {f"ssm.{name}": number for name, number in _STATE.items()}),
}


def make(path: Path, name: str, numbers: Mapping[str, int] | None = None) -> Path:
    """Write a model of an architecture of `ARCHITECTURES` to `path`, with more entries in its header; return `path`."""
    made = ARCHITECTURES[name]
    random = np.random.default_rng(1)

    def changed(tensors: list[Tensor]) -> list[Tensor]:
        blocks = sorted({found[0] for tensor, _ in tensors if (found := re.match(r"blk\.\d+\.", tensor))})
        kept = [(tensor, values) for tensor, values in tensors
                if re.sub(r"^blk\.\d+\.", "", tensor) not in made.without]
        for block in blocks:
            kept += [(block + tensor, np.zeros(length, np.float32) if "bias" in tensor
                      else np.ones(length, np.float32)) for tensor, length in made.vectors.items()]
            kept += [(block + tensor, _matrix(random, tensor, shape)) for tensor, shape in made.matrices.items()]
        return kept

    keys = {f"{name}.{key}": number for key, number in made.keys.items()} | dict(numbers or {})
    return tiny_llama.make(path, architecture=name, embedding=_WIDTH, heads=_HEADS, numbers=keys, changed=changed)


def _matrix(random: np.random.Generator, name: str, shape: Sequence[int]) -> np.ndarray:
    values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    # What a state keeps decays.
    return -np.abs(values) if name == "ssm_a" else values
