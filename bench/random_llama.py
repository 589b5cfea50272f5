"""Write a llama model with random weights and the shape of TinyLlama 1.1B, quantised to Q4_0 (620 MB).

It answers nonsense at the speed and the memory of a real model of that shape, which is what a benchmark needs.
The quantised blocks are drawn directly, one tensor at a time, so this takes seconds and little memory.

Run as a script: python bench/random_llama.py OUT [--seed N] [--blocks N] ...
"""

from __future__ import annotations

import argparse
import itertools
import string
from pathlib import Path

import gguf
import numpy as np

# A Q4_0 block holds 32 weights in 18 bytes: an f16 scale d, then 32 numbers n of 4 bits, each (n - 8) * d.
_WEIGHTS_A_BLOCK = 32
_BYTES_A_BLOCK = 18
# Standard deviation of n - 8 when n is drawn evenly from 1..15.
_SPREAD = 4.32


def write(
    path: Path,
    *,
    seed: int = 0,
    blocks: int = 22,
    embedding: int = 2048,
    heads: int = 32,
    kv_heads: int = 4,
    feed_forward: int = 5632,
    vocabulary: int = 32000,
    context: int = 2048,
    chat_template: str | None = None,
) -> Path:
    """Write the model to `path` and return `path`.

    Args:
        blocks, embedding, heads, kv_heads, feed_forward, context: llama's sizes; embedding and feed_forward are
            multiples of 32.
        vocabulary: number of pieces, 32000 at most.
        chat_template: put into the file, if given.
    """
    random = np.random.default_rng(seed)
    kv_width = embedding // heads * kv_heads
    # Name -> (rows, columns); a norm is a vector of ones.
    matrices = {"token_embd.weight": (vocabulary, embedding)}
    norms = []
    for block in range(blocks):
        matrices |= {
            f"blk.{block}.attn_q.weight": (embedding, embedding),
            f"blk.{block}.attn_k.weight": (kv_width, embedding),
            f"blk.{block}.attn_v.weight": (kv_width, embedding),
            f"blk.{block}.attn_output.weight": (embedding, embedding),
            f"blk.{block}.ffn_gate.weight": (feed_forward, embedding),
            f"blk.{block}.ffn_up.weight": (feed_forward, embedding),
            f"blk.{block}.ffn_down.weight": (embedding, feed_forward),
        }
        norms += [f"blk.{block}.attn_norm.weight", f"blk.{block}.ffn_norm.weight"]
    matrices["output.weight"] = (vocabulary, embedding)
    norms.append("output_norm.weight")

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("random llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(embedding // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    _add_vocabulary(writer, vocabulary)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, (rows, columns) in matrices.items():
        row_bytes = columns // _WEIGHTS_A_BLOCK * _BYTES_A_BLOCK
        # The writer derives the number of weights in a row from that of bytes.
        writer.add_tensor_info(
            name, (rows, row_bytes), np.dtype(np.uint8), rows * row_bytes, raw_dtype=gguf.GGMLQuantizationType.Q4_0
        )
    for name in norms:
        writer.add_tensor_info(name, (embedding,), np.dtype(np.float32), 4 * embedding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (rows, columns) in matrices.items():
        tensor = _random_blocks(random, rows, columns)
        if name == "output.weight":
            # The logit of control and byte tokens is 0, which is far from the largest: no early end, and no
            # byte sequence that isn't UTF-8.
            tensor.reshape(rows, -1)[: 3 + 256] = 0
        writer.write_tensor_data(tensor)
    for _ in norms:
        writer.write_tensor_data(np.ones(embedding, dtype=np.float32))
    writer.close()
    return path


def _random_blocks(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return a Q4_0 matrix as bytes, shape [rows * columns / 32, 18], whose weights have variance 1 / columns."""
    count = rows * columns // _WEIGHTS_A_BLOCK
    blocks = np.empty((count, _BYTES_A_BLOCK), dtype=np.uint8)
    scale = np.array([1.0 / (_SPREAD * np.sqrt(columns))], dtype="<f2")
    blocks[:, :2] = scale.view(np.uint8)
    pairs = np.frombuffer(random.bytes(count * 16), dtype=np.uint8)
    blocks[:, 2:] = _WITHOUT_ZERO[pairs].reshape(count, 16)
    return blocks


def _without_zero() -> np.ndarray:
    """Return a table from a byte to one whose halves are both 1..15: n - 8 is then even-handed around 0."""
    table = np.arange(256, dtype=np.uint8)
    table[table & 0x0F == 0] |= 0x08
    table[table & 0xF0 == 0] |= 0x80
    return table


_WITHOUT_ZERO = _without_zero()


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Write a SentencePiece vocabulary: control and byte tokens, printable ASCII, then short lower-case pieces."""
    kinds = gguf.TokenType
    letters = string.ascii_lowercase
    runs = ["".join(run) for length in (1, 2, 3) for run in itertools.product(letters, repeat=length)]
    signs = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in letters]
    normal = ["\u2581", *signs, *("\u2581" + run for run in runs), *runs]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = [*special, *normal][:size]
    if len(pieces) < size:
        raise ValueError(f"at most {len(pieces)} pieces, not {size}")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in pieces])
    writer.add_token_scores([0.0 if at < len(special) else float(len(piece)) for at, piece in enumerate(pieces)])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * (size - len(special))]
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main() -> None:
    """Write one model file as the command line says."""
    parser = argparse.ArgumentParser(description="Write a random-weight llama model of 1.1 B parameters as GGUF.")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=22, help="fewer make a smaller model of the same width")
    arguments = parser.parse_args()
    write(arguments.out, seed=arguments.seed, blocks=arguments.blocks)


if __name__ == "__main__":
    main()
