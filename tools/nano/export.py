"""Writes the model file: GGUF with the vocabulary, the chat template, the licence and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tools.nano import vocabulary
from tools.nano.vocabulary import Piece

NAME = "mayfly-nano demonstration model"
DESCRIPTION = ("A tiny chat model for demonstrations and tests, trained on generated dialogues: it answers questions "
               "about a persona, adds digits, repeats words, and says so when it does not know. It knows nothing else.")
#: Tokens that training dialogues are at most long.
CONTEXT = 1024


def write(path: Path, pieces: Sequence[Piece], weights: Mapping[str, NDArray[np.float32]], *, width: int, blocks: int,
          heads: int, feed_forward: int, rope_base: float, epsilon: float) -> Path:
    """Write the model to `path` and return `path`; the same arguments make the same bytes.

    Args:
        weights: by llama.cpp's names; matrices become f16, vectors stay f32. Without any, only the vocabulary is
            written, which is enough to tokenise with.
        width, blocks, heads, feed_forward, rope_base, epsilon: llama's sizes and constants.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(NAME)
    writer.add_author("mayfly")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_size_label("2M")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(rope_base)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_vocab_size(len(pieces))
    _add_vocabulary(writer, pieces)
    for name, values in weights.items():
        writer.add_tensor(name, values.astype(np.float16 if values.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: Sequence[Piece]) -> None:
    ids = {piece.text: at for at, piece in enumerate(pieces)}
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text.encode() for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.kind) for piece in pieces])
    writer.add_unk_token_id(ids[vocabulary.UNKNOWN])
    writer.add_bos_token_id(ids[vocabulary.BEGIN])
    writer.add_eos_token_id(ids[vocabulary.END])
    writer.add_eot_token_id(ids[vocabulary.END])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # An answer would otherwise begin with a blank.
    writer.add_add_space_prefix(False)
    writer.add_chat_template(vocabulary.CHAT_TEMPLATE)
