"""What models there are, by their files' headers."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import scripts
import tiny_llama
from processes import resident_memory
from service import Service, until

from mayfly.engines import backends, choose
from mayfly.errors import ModelUnavailable
from mayfly.models.defaults import MINILM
from mayfly.models.inventory import Inventory
from mayfly.settings import available_cores, parse


def test_every_model_says_what_it_is(model_path: Path, tiny_model: Path) -> None:
    minilm, tiny = Inventory(model_path).models()
    assert (minilm.id, minilm.kind, minilm.architecture, minilm.quantization) == (
        "all-MiniLM-L6-v2", "embedding", "bert", "F16")
    assert (minilm.context_length, minilm.embedding_length, minilm.unusable) == (256, 384, "")
    assert (tiny.id, tiny.file, tiny.kind, tiny.architecture) == (
        "tiny-llama", "tiny-llama.gguf", "completion", "llama")
    assert tiny.size == tiny_model.stat().st_size
    assert [tiny.window(parse({"N_CTX": most})) for most in ("512", "1000000")] == [512, 2048]


def test_a_window_is_the_models_own_as_far_as_there_is_memory_for_it(model_path: Path) -> None:
    tiny = Inventory(model_path).require("tiny-llama")
    large = dataclasses.replace(tiny, context_length=32_768, cache_token_bytes=1 << 10)
    room = tiny.size + (10 << 20)  # for 5,120 tokens in two processes

    def window(most: int, limit: object) -> int:
        return large.window(parse({"N_CTX": str(most), "MEMORY_LIMIT": str(limit)}))

    assert [window(most, room) for most in (512, 4096, 8192, 1 << 20)] == [512, 4096, 4096, 4096]
    assert (large.window(parse({"MEMORY_LIMIT": "none"})), window(8192, 1 << 20)) == (8192, 2048)


def test_memory_is_the_file_and_a_cache_for_each_process(model_path: Path) -> None:
    tiny = Inventory(model_path).require("tiny-llama")
    # Keys and values, 2 blocks, 128 numbers of 2 bytes each a token.
    processes = parse({"N_CTX": "100", "CHAT_PROCESSES": "2"})  # and the template
    assert tiny.memory(processes) == tiny.size + 3 * 100 * 2 * 2 * 128 * 2


@pytest.mark.parametrize("threads", [1, 2])
def test_the_estimate_for_accelerated_embeddings_is_near_what_they_take(embedding_model: Path, tmp_path: Path,
                                                                       threads: int) -> None:
    pytest.importorskip("openvino", reason="OpenVINO isn't installed here")
    if threads > available_cores():
        pytest.skip("not so many cores here")
    service = Service(tmp_path, {"EMBED_MODEL": embedding_model.name, "MODEL_PATH": embedding_model.parent,
                                 "EMBED_ENGINE": "openvino", "THREADS": threads})
    try:
        service.wait_ready()
        model = Inventory(embedding_model.parent).require(embedding_model.name)
        estimated = model.backend("embedding", "openvino").memory(model.size, 0, threads)
        pid = service.lane("embedding")["pid"]
        # The form for a single thread is compiled when nothing is to be done.
        until(lambda: service.embed("a text") and 0.7 < resident_memory(pid) / estimated < 1.3, within=60,
              what="the memory that was estimated")
    finally:
        service.stop()


def test_a_model_is_found_by_its_id_and_by_its_files_name(model_path: Path) -> None:
    inventory = Inventory(model_path)
    for name in ("tiny-llama", "tiny-llama.gguf"):
        assert inventory.find(name) == inventory.require("tiny-llama")
    for name in ("all-MiniLM-L6-v2", MINILM.file_name, MINILM.file_name.removesuffix(".gguf")):
        assert inventory.require(name).file == MINILM.file_name
    for name in ("absent", "", "../tiny-llama", "/etc/passwd", "a\0b", "https://host/tiny-llama.gguf"):
        assert inventory.find(name) is None
    with pytest.raises(ModelUnavailable, match="absent"):
        inventory.require("absent")


def test_links_that_leave_the_folder_are_unusable_and_hidden_files_are_no_models(model_path: Path,
                                                                                tmp_path: Path) -> None:
    shutil.copy(model_path / "tiny-llama.gguf", tmp_path / "outside.gguf")
    (model_path / "link.gguf").symlink_to(tmp_path / "outside.gguf")
    (model_path / "gone.gguf").symlink_to(model_path / "nowhere")
    (model_path / ".hidden.gguf").write_bytes(b"")
    inventory = Inventory(model_path)
    assert [model.id for model in inventory.models()] == ["all-MiniLM-L6-v2", "gone", "link", "tiny-llama"]
    link, gone = inventory.find("link"), inventory.find("gone")
    assert link and link.unusable.startswith("the model 'link.gguf' is a link that leaves MODEL_PATH")
    assert gone and gone.unusable == "the model 'gone.gguf' is a link to a file that isn't there"
    assert (link.kind, link.size) == (None, 0)
    for name in ("link", "gone"):  # nor are they opened where they are configured
        with pytest.raises(ModelUnavailable, match="is a link"):
            inventory.require(name)


def test_a_link_is_the_model_that_it_leads_to_by_its_own_name(model_path: Path, tiny_model: Path) -> None:
    (model_path / "blobs").mkdir()
    os.replace(model_path / "tiny-llama.gguf", model_path / "blobs" / "5f2a")
    (model_path / "linked.gguf").symlink_to("blobs/5f2a")
    model = Inventory(model_path).require("linked")
    assert (model.id, model.path.name, model.unusable) == ("linked", "linked.gguf", "")
    assert model.size == tiny_model.stat().st_size


def test_a_model_that_is_split_is_one_entry_with_its_parts_sum(model_path: Path) -> None:
    tiny_llama.make(model_path / "large.gguf", tensors_a_part=8)
    parts = sorted(model_path.glob("large-*"))
    inventory = Inventory(model_path)
    assert [model.id for model in inventory.models()] == ["all-MiniLM-L6-v2", "large", "tiny-llama"]
    model = inventory.require("large")
    for name in ("large.gguf", "large-00001-of-00003", "large-00001-of-00003.gguf"):
        assert inventory.find(name) == inventory.require(name) == model
    assert (model.file, model.path, model.unusable) == (parts[0].name, parts[0], "")
    assert model.size == sum(part.stat().st_size for part in parts)
    assert model.parameter_count == Inventory(model_path).require("tiny-llama").parameter_count
    parts[2].unlink()
    lost = inventory.require("large")
    assert "its part 3 of 3, large-00003-of-00003.gguf, is missing" in lost.unusable
    parts[0].unlink()
    lost = inventory.find("large")
    assert lost and "its part 1 of 3, large-00001-of-00003.gguf, is missing" in lost.unusable
    # Another file that could have the name has it.
    tiny_llama.make(model_path / "large.gguf")
    assert inventory.require("large").file == "large.gguf"
    assert [model.id for model in inventory.models()] == [
        "all-MiniLM-L6-v2", "large", "large-00001-of-00003.gguf", "tiny-llama"]


def test_a_name_that_two_files_could_have_belongs_to_the_configured_one(model_path: Path) -> None:
    other = "all-MiniLM-L6-v2.gguf2.q8.gguf"
    os.link(model_path / MINILM.file_name, model_path / other)
    for first in (MINILM.file_name, other):
        inventory = Inventory(model_path, [first, ""])
        assert inventory.require("all-MiniLM-L6-v2").file == first
        files = {model.file for model in inventory.models()}
        assert files == {MINILM.file_name, other, "tiny-llama.gguf"}
        assert len({model.id for model in inventory.models()}) == 3


def test_an_ending_in_capital_letters_is_a_models_too(model_path: Path) -> None:
    os.replace(model_path / "tiny-llama.gguf", model_path / "Tiny.GGUF")
    inventory = Inventory(model_path)
    assert [model.id for model in inventory.models()] == ["Tiny", "all-MiniLM-L6-v2"]
    found = inventory.require("Tiny")
    assert (found.file, found.kind, found.unusable) == ("Tiny.GGUF", "completion", "")
    assert [inventory.require(name) for name in ("Tiny.GGUF", "Tiny.gguf")] == [found, found]
    with pytest.raises(ModelUnavailable, match=r"ends in \.GGUF: rename it to Tiny\.gguf"):
        choose.load_completions(found.path, 1, 8, "cpu", "Tiny", engine="gpt4all")
    if not (model_path / "tiny.gguf").exists():  # a system that tells them apart
        tiny_llama.make(model_path / "Tiny.gguf", seed=1)
        assert inventory.require("Tiny").file == "Tiny.gguf"
        assert {model.id for model in inventory.models()} == {"Tiny", "Tiny.GGUF", "all-MiniLM-L6-v2"}


@pytest.mark.parametrize("how", [how for how in tiny_llama.MALFORMATIONS if how != "impossible_header"])
def test_a_malformed_file_is_listed_as_unusable_with_the_reason(tmp_path: Path, how: str) -> None:
    tiny_llama.malformed(tmp_path / "broken.gguf", how)
    model = Inventory(tmp_path).require("broken")
    assert model.unusable.startswith("broken.gguf can't be used as a model: ")


def test_an_architecture_that_no_engine_runs_is_unusable(tmp_path: Path) -> None:
    path = tiny_llama.make(tmp_path / "bell.gguf")
    # The same length, so that the file stays what it is but for this name.
    path.write_bytes(path.read_bytes().replace(b"llama", b"chime"))
    model = Inventory(tmp_path).require("bell")
    assert model.architecture == "chime"
    assert model.unusable == ("bell.gguf has the architecture 'chime', which llama.cpp can't run; "
                              "bell.gguf has the architecture 'chime', which gpt4all 2.8.2 can't run")


def test_what_only_an_engine_runs_that_is_not_installed_is_unusable(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_llama.make(tmp_path / "bell.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"mamba"))
    assert Inventory(tmp_path).require("bell").unusable == ""
    monkeypatch.setattr(backends.LlamaCpp, "installed", lambda backend: False)
    assert "bell.gguf needs xllamacpp, which isn't installed" in Inventory(tmp_path).require("bell").unusable


def write_weights(path: Path, kind: gguf.GGMLQuantizationType, block: int) -> None:
    """Write a file that has weights of a type, two blocks of so many bytes, and nothing else of a llama."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, number in {"context_length": 8, "embedding_length": 8, "block_count": 1}.items():
        writer.add_uint32(f"llama.{name}", number)
    writer.add_tensor("weights", np.ones((2, block), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_of_a_type_that_llamacpp_has_removed_are_gpt4alls_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "old.gguf"
    write_weights(path, gguf.GGMLQuantizationType.Q4_0, 18)
    for number, name in ((31, "Q4_0_4_4"), (36, "IQ4_NL_4_4")):
        # Their blocks are as long as those that they arrange.
        old = re.sub(rb"(?<=weights\x02\0\0\0.{16})....", number.to_bytes(4, "little"), path.read_bytes(), flags=re.S)
        path.with_name(f"{name}.gguf").write_bytes(old)
    found = {model.id: model for model in Inventory(tmp_path).models()}
    assert found["Q4_0_4_4"].engines == ("gpt4all",)
    assert found["IQ4_NL_4_4"].unusable == (
        "IQ4_NL_4_4.gguf has weights of the type IQ4_NL_4_4, which llama.cpp has removed: get the model in IQ4_NL; "
        "IQ4_NL_4_4.gguf has weights of the type IQ4_NL_4_4, which gpt4all 2.8.2 doesn't know")


def test_weights_of_a_type_that_gpt4all_does_not_know_are_read_and_refused_by_its_name(tmp_path: Path) -> None:
    write_weights(tmp_path / "new.gguf", gguf.GGMLQuantizationType.MXFP4, 17)
    model = Inventory(tmp_path).require("new")
    assert (model.quantization, model.parameter_count) == ("MXFP4", 64)
    assert model.engines == ("llamacpp",)
    with pytest.raises(ModelUnavailable, match="has weights of the type MXFP4, which gpt4all"):
        choose.load_completions(tmp_path / "new.gguf", 1, 8, "cpu", "new", engine="gpt4all")


def test_a_header_is_read_again_only_when_its_file_has_changed(
        model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mayfly.models.inventory as module

    read: list[str] = []
    real = module.read_contents
    monkeypatch.setattr(module, "read_contents", lambda path: (read.append(path.name), real(path))[1])
    inventory = Inventory(model_path)
    assert inventory.models() == inventory.models()
    assert sorted(read) == sorted([MINILM.file_name, "tiny-llama.gguf"])
    tiny_llama.make(model_path / "new.gguf", seed=1)
    os.replace(model_path / "new.gguf", model_path / "tiny-llama.gguf")
    inventory.models()
    assert len(read) == 3


def test_scripts_say_what_they_stand_for(tmp_path: Path) -> None:
    scripts.write(tmp_path, name="chatty", context_length=64)
    scripts.write(tmp_path, name="vectors", kind="embedding")
    (tmp_path / "broken.script.json").write_text("{")
    found = {model.id: model for model in Inventory(tmp_path).models()}
    assert (found["chatty"].kind, found["chatty"].window(parse({}))) == ("completion", 64)
    assert found["vectors"].kind == "embedding"
    assert "no script" in found["broken"].unusable


def test_the_known_architectures_are_those_of_the_wheel() -> None:
    """The wheel's libraries say themselves which they support; every short text in them is asked about."""
    spec = importlib.util.find_spec("gpt4all")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "llmodel_DO_NOT_MODIFY" / "build"
    names = [path for path in folder.glob("libllamamodel-mainline-*.so") if "cuda" not in path.name]
    if not names:
        pytest.skip("this system's wheel has no library of that form")
    library = ctypes.CDLL(str(names[0]))
    library.is_arch_supported.argtypes = [ctypes.c_char_p]
    library.is_arch_supported.restype = ctypes.c_bool
    words = set(re.findall(rb"[a-z][a-z0-9-]{1,20}(?=\0)", names[0].read_bytes()))
    # Compilers merge the shortest constants into code.
    words |= {b"bert", b"mpt", b"mamba", b"grok", b"t5", b"bitnet", b"arctic"}
    supported = {word.decode() for word in words if library.is_arch_supported(word)}
    assert supported == frozenset().union(*backends.Gpt4All.architectures.values())
