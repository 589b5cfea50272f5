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
from mayfly.models import header as header_module
from mayfly.models.header import Header, read_header

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
        file_type=0,
        quantization="F32",
        parameter_count=552576,
        vocabulary_size=876,
        chat_template=tiny_llama.CHAT_TEMPLATE,
        bos_id=1,
        eos_id=2,
        eot_id=None,
        bos_token="<s>",
        eos_token="</s>",
        eot_token=None,
        pooling=None,
        size=tiny_model.stat().st_size,
        head_count=4,
        head_count_kv=4,
    )


def test_it_agrees_with_the_gguf_package(tiny_model: Path) -> None:
    reader, header = gguf.GGUFReader(tiny_model), read_header(tiny_model)
    assert header.parameter_count == sum(int(tensor.n_elements) for tensor in reader.tensors)
    tokens = reader.get_field("tokenizer.ggml.tokens")
    assert tokens is not None and header.vocabulary_size == len(tokens.contents())


def test_the_table_of_tensor_types_is_that_of_the_gguf_package() -> None:
    for number, (name, weights, size) in header_module._TENSOR_TYPES.items():
        if number not in (31, 32, 33):  # since removed from the format: arrangements of Q4_0 for certain CPUs
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
    assert (header.bos_token, header.eos_token, header.eot_id, header.eot_token) == ("begin", "end", 99, None)


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
        ("corrupted_header", "has a type (number 30583) that gpt4all 2.8.2 doesn't know"),
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
        ("general.name", 5, "general.name isn't a text"),
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


def test_random_corruption_never_costs_more_than_an_error(tmp_path: Path, good: bytes) -> None:
    """1,000 files with a few wrong bytes in the header, or a whole length or count replaced by an extreme one."""
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(good)
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
    assert read_header(path).name == "tiny llama"


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
        assert read_header(path).name == "tiny llama"
