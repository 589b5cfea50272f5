"""A file's header is read truly, and a malformed file is one clear error that costs neither time nor memory."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_llama

from mayfly.errors import ModelUnavailable
from mayfly.models import gguf_stream
from mayfly.models.header import Header, read_contents, read_header

POSIX = os.name != "nt"


@pytest.fixture(scope="module")
def good(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


def small(path: Path, change: Callable[[gguf.GGUFWriter], object] = lambda writer: None) -> Path:
    """Write the least file that can be a model, with `change` applied before it is written."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {"context_length": 8, "embedding_length": 4, "block_count": 1}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_tensor("first", np.ones(5, dtype=np.float32))
    writer.add_tensor("second", np.ones(7, dtype=np.float32))
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refused(path: Path) -> str:
    """Return the reason for which `path` is refused."""
    with pytest.raises(ModelUnavailable) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(path.name) and "\n" not in message
    return message


def test_a_completion_model_says_what_it_is(tiny_model: Path) -> None:
    assert read_header(tiny_model) == Header(
        architecture="llama",
        name="tiny llama",
        context_length=2048,
        embedding_length=128,
        block_count=2,
        quantization="F32",
        parameter_count=552576,
        vocabulary_size=876,
        chat_template=tiny_llama.CHAT_TEMPLATE,
        bos_id=1,
        eos_id=2,
        eot_id=None,
        bos_token="<s>",
        eos_token="</s>",
        pooling=None,
        tensor_types=frozenset({"F32"}),
        head_count=4,
        head_count_kv=4,
    )


def test_it_agrees_with_the_gguf_package(tiny_model: Path) -> None:
    reader, header = gguf.GGUFReader(tiny_model), read_header(tiny_model)
    assert header.parameter_count == sum(int(tensor.n_elements) for tensor in reader.tensors)
    tokens = reader.get_field("tokenizer.ggml.tokens")
    assert tokens is not None and header.vocabulary_size == len(tokens.contents())


def test_the_table_of_tensor_types_is_that_of_the_gguf_package() -> None:
    for number, (name, weights, size) in gguf_stream.TENSOR_TYPES.items():
        if not name.startswith(("Q4_0_", "IQ4_NL_")):  # since removed from the format: arrangements for certain CPUs
            kind = gguf.GGMLQuantizationType(number)
            assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (weights, size))


def test_a_model_without_a_chat_template_has_none(tmp_path: Path) -> None:
    assert read_header(tiny_llama.make(tmp_path / "plain.gguf", chat_template=None)).chat_template is None


def test_ids_may_come_before_the_vocabulary_and_point_nowhere(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(0)
        writer.add_eot_token_id(99)
        writer.add_token_list(["end", "x" * 5000, "begin"])

    header = read_header(small(tmp_path / "small.gguf", change))
    assert (header.bos_token, header.eos_token, header.eot_id) == ("begin", "end", 99)


def test_the_template_for_conversations_is_taken_of_several(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    several = small(tmp_path / "a.gguf", lambda writer: writer.add_chat_template(templates))
    assert read_header(several).chat_template == "D"
    named = small(tmp_path / "b.gguf", lambda writer: writer.add_string("tokenizer.chat_template.default", "N"))
    assert read_header(named).chat_template == "N"
    other = small(tmp_path / "c.gguf", lambda writer: writer.add_chat_template(templates[:1]))
    assert read_header(other).chat_template is None


def test_end_tokens_and_the_pieces_that_tell_a_models_prompts_are_found(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(["a", "<|im_end|>", "<|im_start|", "<|im_start|>", "<|im_end|>", "x" * 5000, "<|end|>"])
        writer.add_uint32("tokenizer.ggml.eom_token_id", 6)
        writer.add_token_merges(["<|eot_id|>"])

    header = read_header(small(tmp_path / "small.gguf", change))
    assert header.pieces == {"<|im_end|>": 1, "<|im_start|>": 3, "<|end|>": 6}
    assert header.eom_id == 6


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_weights_are_looked_for_where_the_alignment_says(tmp_path: Path, alignment: int) -> None:
    path = small(tmp_path / "small.gguf", lambda writer: writer.add_custom_alignment(alignment))
    content = path.read_bytes()
    end = max(int(tensor.data_offset + tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)
    path.write_bytes(content[:end])
    assert read_header(path).parameter_count == 12
    path.write_bytes(content[: end - 1])
    assert f"cut short: 1 of {end} bytes" in refused(path)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("empty", "the file is empty"),
        ("text", "isn't a GGUF file"),
        ("truncated_header", "ends inside its header"),
        ("corrupted_header", "has a type (number 30583) that isn't known"),
        ("truncated_data", "cut short"),
    ],
)
def test_a_malformed_file_is_refused_with_the_reason(tmp_path: Path, how: str, reason: str) -> None:
    assert reason in refused(tiny_llama.malformed(tmp_path / "bad.gguf", how))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("llama.context_length", 0, "says no llama.context_length"),
        ("llama.block_count", 2.5, "llama.block_count isn't a whole number"),
        ("llama.embedding_length", "four", "says no llama.embedding_length"),
        ("llama.block_count", 3, "llama.block_count is 3, which the rest of the file allows to be 2 at most"),
        ("llama.block_count", (1 << 32) - 1, "allows to be 2 at most"),
        ("llama.embedding_length", (1 << 32) - 1, "allows to be 7 at most"),
        ("general.alignment", 3, "alignment is 3"),
        ("general.alignment", 0, "alignment is 0"),
        ("tokenizer.chat_template", 5, "tokenizer.chat_template isn't a text"),
    ],
)
def test_an_odd_value_is_refused_with_its_key(tmp_path: Path, key: str, value: object, reason: str) -> None:
    types = gguf.GGUFValueType
    kind = {str: types.STRING, float: types.FLOAT32, int: types.UINT32}[type(value)]

    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0][key] = gguf.GGUFValue(value, kind)

    assert reason in refused(small(tmp_path / "odd.gguf", change))


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "twice.gguf", lambda writer: writer.add_uint32("llama.block_counX", 1))
    path.write_bytes(path.read_bytes().replace(b"llama.block_counX", b"llama.block_count"))
    assert "the key 'llama.block_count' twice" in refused(path)


def test_a_claim_of_which_memory_is_reckoned_is_held_against_all_parts_of_a_model(tmp_path: Path) -> None:
    several = tiny_llama.make(tmp_path / "large.gguf", blocks=6, tensors_a_part=3)
    assert not several.exists()
    assert read_header(tmp_path / "large-00001-of-00019.gguf").block_count == 6
    shared = tiny_llama.make(tmp_path / "shared.gguf", numbers={"llama.attention.head_count_kv": (1 << 32) - 1})
    assert "llama.attention.head_count_kv is 4294967295, which the rest of the file allows to be 4 at most" in (
        refused(shared))


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(["a", "b"])
        writer.add_array("tokenizer.ggml.tokenX", ["a", "c"])

    path = small(tmp_path / "twice.gguf", change)
    path.write_bytes(path.read_bytes().replace(b"tokenizer.ggml.tokenX", b"tokenizer.ggml.tokens"))
    assert "the key 'tokenizer.ggml.tokens' twice" in refused(path)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "twice.gguf", lambda writer: writer.add_tensor("secone", np.ones(7, dtype=np.float32)))
    path.write_bytes(path.read_bytes().replace(b"secone", b"second"))
    assert "the tensor 'second' twice" in refused(path)


@pytest.mark.parametrize(("architecture", "entries", "kind"), [
    ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "an adapter (LoRA)"),
    ("llama", {"adapter.type": "lora"}, "an adapter (LoRA)"),
    ("clip", {"general.type": "mmproj"}, "a projector (mmproj)"),
    ("clip", {"clip.projector_type": "mlp"}, "a projector (mmproj)"),
    ("qwen2vl", {"clip.projector_type": "mlp"}, "a projector (mmproj)"),
    ("", {"general.type": "imatrix"}, "an importance matrix"),
    ("", {"imatrix.datasets": "a.txt"}, "an importance matrix"),
    ("controlvector", {"controlvector.model_hint": "llama"}, "a control vector"),
])
def test_what_lies_beside_models_is_named_for_what_it_is(tmp_path: Path, architecture: str, entries: dict[str, str],
                                                         kind: str) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    if not architecture:
        writer.kv_data[0].pop("general.architecture", None)
    for key, value in entries.items():
        writer.add_string(key, value)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert f"it is {kind}" in refused(path)


def test_a_vocabulary_without_weights_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "it holds no weights, only a vocabulary" in refused(path)


@pytest.mark.parametrize(("beginning", "kind"), [
    (b"\0" * 300, "its download"), (b"\0" * 10, "its download"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS"),
    (b"\n<!DOCTYPE html><html>", "a web page"), (b"<html lang=en><head></head>", "a web page"),
    (b"PK\x03\x04" + b"x" * 30, "an archive"), (b"tjgg\x03\0\0\0" + b"x" * 30, "the form before GGUF"),
    (b"lmgg" + b"x" * 30, "the form before GGUF"), (b"algg" + b"x" * 30, "an adapter"),
    (b"\x10\0\0\0\0\0\0\0{\"__metadata__\":{}}", "safetensors"),
])
def test_what_comes_instead_of_a_model_is_named_for_what_it_is(tmp_path: Path, beginning: bytes, kind: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(beginning)
    reason = refused(path)
    assert "it isn't a GGUF file but " in reason and kind in reason


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Return the first part of a model of three."""
    tiny_llama.make(tmp_path / "large.gguf", tensors_a_part=8)
    return tmp_path / "large-00001-of-00003.gguf"


def part(first: Path, number: int) -> Path:
    return first.with_name(first.name.replace("-00001-", f"-{number:05d}-"))


def test_the_parts_of_a_model_are_read_as_one(split: Path, tiny_model: Path) -> None:
    whole, parts = read_contents(tiny_model), read_contents(split)
    assert parts.header == whole.header
    assert set(parts.tensors) == set(whole.tensors)
    for name, tensor in parts.tensors.items():
        stored = [at.file.read_bytes()[at.offset:at.offset + at.size] for at in (tensor, whole.tensors[name])]
        assert stored[0] == stored[1]


def test_a_missing_part_is_named(split: Path) -> None:
    part(split, 2).unlink()
    assert "its part 2 of 3, large-00002-of-00003.gguf, is missing" in refused(split)


def test_a_part_that_is_cut_or_no_part_is_named(split: Path, tiny_model: Path) -> None:
    second = part(split, 2)
    good = second.read_bytes()
    for content, reason in ((good[:-100], "cut short"), (b"", "the file is empty"), (b"text" * 99, "isn't a GGUF file"),
                            (part(split, 3).read_bytes(), "another part"), (tiny_model.read_bytes(), "another part")):
        second.write_bytes(content)
        message = refused(split)
        assert "its part 2 of 3, large-00002-of-00003.gguf: " in message and reason in message
    second.write_bytes(good)
    read_header(split)


def test_parts_of_different_models_are_refused(split: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    tiny_llama.make(tmp_path / "other" / "large.gguf", tensors_a_part=9)
    part(split, 3).write_bytes((tmp_path / "other" / part(split, 3).name).read_bytes())
    assert "its parts are of different models" in refused(split)


def test_a_part_by_itself_says_that_it_is_one(split: Path) -> None:
    assert "part 2 of 3" in refused(part(split, 2))
    for number in (1, 2):
        renamed = split.with_name(f"renamed-{number}.gguf")
        renamed.write_bytes(part(split, number).read_bytes())
        assert "one of the 3 parts" in refused(renamed)


def test_other_versions_and_byte_orders_are_named(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "other.gguf"
    for version, reason in ((1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")):
        path.write_bytes(good[:4] + struct.pack("<I", version) + good[8:])
        assert reason in refused(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.gguf")
    assert "a folder" in refused(tmp_path)
    with pytest.raises(ModelUnavailable):
        read_header(tmp_path / "nul\0.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "regular file" in refused(tmp_path / "pipe.gguf")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "cut.gguf"
    cut = random.Random(1)
    for length in [*range(200), *(cut.randrange(len(good)) for _ in range(300))]:
        path.write_bytes(good[:length])
        refused(path)


def few_words(writer: gguf.GGUFWriter) -> None:
    """Add a vocabulary so small that what is corrupted is a length, a count or a kind as often as a word."""
    words = [f"word {number}" for number in range(20)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")


def test_random_corruption_never_costs_more_than_an_error(tmp_path: Path) -> None:
    """1,000 files with a few wrong bytes in the header, or a whole length or count replaced by an extreme one."""
    path = small(tmp_path / "fuzzed.gguf", few_words)
    good = path.read_bytes()
    header_end = int(gguf.GGUFReader(path).data_offset)
    chance = random.Random(2)
    extremes = [0, 1, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    outcomes = {True: 0, False: 0}
    tracemalloc.start()
    try:
        with path.open("rb+") as stream:
            for _ in range(1000):
                changes = []
                for _ in range(chance.randrange(1, 4)):
                    at = chance.randrange(header_end - 8)
                    width = chance.choice((1, 1, 4, 8))
                    number = chance.choice(extremes) if width > 1 else chance.randrange(256)
                    changes.append((at, (number & (1 << 8 * width) - 1).to_bytes(width, "little")))
                for at, new in changes:
                    stream.seek(at)
                    stream.write(new)
                stream.flush()
                try:
                    read_header(path)
                    outcomes[True] += 1
                except ModelUnavailable:
                    outcomes[False] += 1
                for at, new in changes:
                    stream.seek(at)
                    stream.write(good[at : at + len(new)])
                stream.flush()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcomes[False] > 250 and outcomes[True] > 50
    assert peak < 4 << 20
    assert read_header(path).architecture == "llama"


@pytest.mark.parametrize("kind", ["entries", "tensors", "key", "strings", "numbers", "text", "vocabulary string"])
def test_a_huge_claim_in_a_huge_file_is_not_believed(tmp_path: Path, kind: str) -> None:
    """The file is really as large as the claim needs (a sparse one), so that its size alone gives nothing away."""

    def start(tensors: int, entries: int) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)

    def key(name: str, *rest: int) -> bytes:
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<" + "IIQ"[: len(rest)], *rest)

    huge = 1 << 33
    content = {
        "entries": start(1, huge >> 4),
        "tensors": start(huge >> 6, 0),
        "key": start(1, 1) + struct.pack("<Q", huge >> 1),
        "strings": start(1, 1) + key("tokenizer.ggml.tokens", 9, 8, huge >> 4),
        "numbers": start(1, 1) + key("tokenizer.ggml.scores", 9, 6, huge >> 3),
        "text": start(1, 1) + key("general.name", 8) + struct.pack("<Q", huge >> 1),
        "vocabulary string": start(1, 1) + key("tokenizer.ggml.tokens", 9, 8, 1) + struct.pack("<Q", huge >> 1),
    }[kind]
    path = tmp_path / "huge.gguf"
    path.write_bytes(content)
    try:
        os.truncate(path, huge)
    except OSError:
        pytest.skip("no file of 8 GiB can be made here")
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not POSIX, reason="an abort has another exit code there")
@pytest.mark.parametrize("how", ["corrupted_header", "impossible_header"])
def test_gpt4all_aborts_on_headers_that_need_not_be_malformed(tmp_path: Path, how: str) -> None:
    """What the reading of headers is for, and what it can't foresee: a model is loaded in a process of its own."""
    path = tiny_llama.malformed(tmp_path / "bad.gguf", how)
    script = "from gpt4all import GPT4All; GPT4All('bad.gguf', model_path='.', allow_download=False)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, errors="replace"
    )
    assert result.returncode == -6
    assert "GGML_ASSERT" in result.stderr
    if how == "impossible_header":
        assert read_header(path).architecture == "llama"
