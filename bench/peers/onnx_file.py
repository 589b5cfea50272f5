"""The embedding model as an ONNX file with ONNX Runtime's fused operators, made from the GGUF file's weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from mayfly.models.header import read_contents

_FUSED = "com.microsoft"


def make(path: Path) -> bytes:
    """Return the ONNX file: ids [texts, tokens] (int64) and mask (f32) -> vectors [texts, width] of norm 1."""
    contents = read_contents(path)
    raw = path.read_bytes()
    weights = {}
    for name, tensor in contents.tensors.items():
        kind = {"F16": "<f2", "F32": "<f4"}[tensor.kind]
        count = int(np.prod(tensor.shape))
        found = np.frombuffer(raw, kind, count, tensor.offset)
        weights[name] = found.reshape(tensor.shape).astype(np.float32)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, order="C"), f"c{len(constants)}"))
        return constants[-1].name

    def node(kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"n{len(nodes)}"], domain=domain, **attributes))
        return nodes[-1].output[0]

    def whole(*numbers: int) -> str:
        return constant(np.array(numbers, np.int64))

    def normalised(x: str, name: str) -> str:
        return node("LayerNormalization", x, constant(weights[f"{name}.weight"]), constant(weights[f"{name}.bias"]),
                    axis=-1, epsilon=contents.numbers["bert.attention.layer_norm_epsilon"])

    def product(x: str, name: str) -> str:
        return node("MatMul", x, constant(weights[f"{name}.weight"].T))

    length = node("Gather", node("Shape", "ids"), constant(np.int64(1)))
    places = node("Range", constant(np.int64(0)), length, constant(np.int64(1)))
    table = weights["position_embd.weight"] + weights["token_types.weight"][0]
    x = node("Add", node("Gather", constant(weights["token_embd.weight"]), "ids"),
             node("Gather", constant(table), places))
    x = normalised(x, "token_embd_norm")
    hidden = node("Cast", "mask", to=TensorProto.INT32)
    for block in range(contents.header.block_count):
        name = f"blk.{block}."
        joined = np.concatenate([weights[f"{name}attn_{part}.weight"].T for part in "qkv"], axis=1)
        biases = np.concatenate([weights[f"{name}attn_{part}.bias"] for part in "qkv"])
        seen = node("Attention", x, constant(joined), constant(biases), hidden, domain=_FUSED,
                    num_heads=contents.header.head_count)
        seen = node("Add", product(seen, f"{name}attn_output"), constant(weights[f"{name}attn_output.bias"]))
        x = normalised(node("Add", x, seen), f"{name}attn_output_norm")
        inner = node("BiasGelu", product(x, f"{name}ffn_up"), constant(weights[f"{name}ffn_up.bias"]), domain=_FUSED)
        inner = node("Add", product(inner, f"{name}ffn_down"), constant(weights[f"{name}ffn_down.bias"]))
        x = normalised(node("Add", x, inner), f"{name}layer_output_norm")
    pooled = node("ReduceSum", node("Mul", x, node("Unsqueeze", "mask", whole(2))), whole(1), keepdims=0)
    norm = node("Sqrt", node("ReduceSum", node("Mul", pooled, pooled), whole(1), keepdims=1))
    nodes.append(helper.make_node("Div", [pooled, norm], ["vectors"]))
    sizes = ["texts", "tokens"]
    graph = helper.make_graph(
        nodes, "bert", [helper.make_tensor_value_info("ids", TensorProto.INT64, sizes),
                        helper.make_tensor_value_info("mask", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", contents.header.embedding_length])],
        constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return made
