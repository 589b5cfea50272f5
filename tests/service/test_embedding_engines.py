"""Both embedding engines give the same tokens, counts and vectors, and the service says which one serves."""

from __future__ import annotations

import collections
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from embedded import embed, joined, parts
from fidelity.texts import FOLDER, alike, different
from gpt4all import Embed4All
from random_texts import random_texts
from service import PROJECT, Service

from mayfly.engines import choose
from mayfly.engines.bert_tokens import BertTokens
from mayfly.engines.gpt4all.embeddings import Gpt4AllEmbeddings
from mayfly.engines.gpt4all.vocabulary import open_tokenizer
from mayfly.errors import ModelUnavailable
from mayfly.models.header import read_header

openvino = pytest.importorskip("mayfly.engines.openvino", reason="openvino isn't installed here")

ODD = ["", " ", "\n\t ", "😀", "👩‍👩‍👧 家族", "[CLS] [SEP] ▁", "x" * 1500, "a\x0bb\x85c\x1cd", "\u0301", "ﬀ ½ İ",
       "1e400 NaN", "hello world " * 127, "hello world " * 128]


@pytest.fixture(scope="module")
def fast(embedding_model: Path) -> openvino.OpenVinoEmbeddings:
    return openvino.OpenVinoEmbeddings(embedding_model, 1, "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def plain(embedding_model: Path) -> Gpt4AllEmbeddings:
    return Gpt4AllEmbeddings(embedding_model, 1, "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def ids(embedding_model: Path) -> Callable[[str], list[int]]:
    """The ids that the service counts, for a whole text at once."""
    tokenize = open_tokenizer(embedding_model, "embedding", read_header(embedding_model).vocabulary_size)
    return lambda text: [token for ids in tokenize(text) for token in ids]


def vector(made: bytes) -> np.ndarray:
    return np.frombuffer(made, "<f4")


def test_the_ids_of_2000_random_texts_are_those_of_the_vocabulary(
        fast: openvino.OpenVinoEmbeddings, ids: Callable[[str], list[int]]) -> None:
    texts = random_texts(2000)
    assert len({len(text) for text in texts}) > 500
    for text in [*texts, *ODD, *(sample.text for sample in [*alike(), *different()])]:
        made = parts(fast, text)
        if len(made) > 1:
            assert len(text.encode()) > 10_000  # a test of its own is below
            continue
        expected = ids(text)
        chunks, count = made[0].chunks, made[0].count
        if len(expected) == 2:  # gpt4all embeds a fixed text in the place of nothing
            assert parts(fast, "24df574ea1c998de59d5be15e769658e") == made
            continue
        assert all(len(chunk) <= 256 for chunk in chunks)
        joined = [*chunks[0][:-1], *(number for chunk in chunks[1:] for number in chunk[9:-1]), chunks[-1][-1]]
        assert joined == expected
        assert count == len(expected) - 2 + 8 * (len(chunks) - 1)
        assert [part.chunks for part in parts(fast, text, "truncate")] == [[chunks[0]]]


@pytest.mark.parametrize("long_text", ["mean", "truncate"])
def test_vectors_and_counts_are_those_of_gpt4all(
        fast: openvino.OpenVinoEmbeddings, plain: Gpt4AllEmbeddings, long_text: str) -> None:
    # bench/fidelity.py compares 2,000. A text that fits the window is the same in both modes.
    long = [text for text in ODD if len(text) > 1000]
    texts = long if long_text == "truncate" else [
        *ODD, *(sample.text for sample in alike()[::3] if len(sample.text) < 1000),
        *(text for text in random_texts(60, seed=2) if len(text) < 300)]
    least = 1.0
    for text in texts:
        made, count = embed(fast, text, long_text)
        expected, expected_count = embed(plain, text, long_text)
        assert count == expected_count
        least = min(least, float(vector(made) @ vector(expected)))
    print(f"{len(texts)} texts, least cosine to gpt4all {least:.6f}")
    assert least >= 0.9999


def test_vectors_of_a_batch_are_those_of_single_texts_and_of_sentence_transformers(
        fast: openvino.OpenVinoEmbeddings) -> None:
    reference = np.load(FOLDER / "reference.npy")
    chunks = [parts(fast, sample.text, "truncate")[0].chunks[0] for sample in alike()]
    rows = []
    for start in range(0, len(chunks), 16):  # of any lengths side by side
        rows.append(fast.compute(chunks[start:start + 16]))
    made = np.concatenate(rows)
    cosines = np.sum(made * reference[:len(made)], axis=1)
    print(f"{len(made)} texts, least cosine to sentence-transformers {cosines.min():.6f}")
    assert cosines.min() >= 0.9999
    for row in (0, 7, len(made) - 1):
        assert float(fast.compute([chunks[row]])[0] @ made[row]) > 0.99999


def test_texts_of_all_lengths_have_few_shapes_and_are_hardly_padded(fast: openvino.OpenVinoEmbeddings,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime keeps memory for each shape, so there are no more than it is told to keep."""
    widths: dict[int, int] = {}

    class Noted:
        def compute(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            assert ids.shape == mask.shape
            widths[int(mask[0].sum())] = ids.shape[1]
            return np.ones((len(ids), fast.dimensions), np.float32)

    monkeypatch.setattr(fast, "_current", Noted)
    for tokens in range(2, 257):
        fast.compute([[101] * tokens])
    assert sorted(widths) == list(range(2, 257))
    assert all(tokens <= width <= min(256, tokens * 33 / 32) for tokens, width in widths.items())
    assert all(width == tokens for tokens, width in widths.items() if tokens <= 64)
    assert len(set(widths.values())) <= 128


@pytest.mark.parametrize("tokens", [65, 97, 129, 141, 253])
def test_padding_changes_no_vector(fast: openvino.OpenVinoEmbeddings, tokens: int) -> None:
    chunk = [101, *range(2000, 1998 + tokens), 102]
    bare = fast._current().compute(np.array([chunk], np.int32), np.ones((1, tokens), np.float32))[0]
    alone, beside = fast.compute([chunk])[0], fast.compute([chunk, [101, 2000, 102]])[0]
    # A sum of other lengths is rounded otherwise, in bf16 to 8 bits.
    least = 0.99999 if fast.facts["precision"] == "bf16" else 0.999999
    assert min(float(bare @ alone), float(bare @ beside)) >= least


def test_a_models_window_bounds_the_padding(fast: openvino.OpenVinoEmbeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no positions beyond it."""
    monkeypatch.setattr(fast, "_window", 71)
    shapes = []
    monkeypatch.setattr(fast, "_current", lambda: SimpleNamespace(compute=lambda ids, mask: shapes.append(ids.shape)))
    for tokens in (70, 71):
        fast.compute([[101] * tokens])
    assert shapes == [(1, 70), (1, 71)]


@pytest.fixture(scope="module")
def content(embedding_model: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(embedding_model)  # takes it a second


def renamed(content: gguf.GGUFReader, target: Path, name: str) -> Path:
    """Write a model file anew as that of a model with another name."""
    writer = gguf.GGUFWriter(target, "bert")
    for field in content.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.name"):
            writer.add_key_value(field.name, field.contents(), field.types[0],
                                 sub_type=field.types[-1] if len(field.types) > 1 else None)
    writer.add_name(name)
    for tensor in content.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "nomic-embed-text-v1.5", "nomic-embed-text-v1", "e5-small-v2",
                                  "multilingual-e5-small", "llm-embedder", "bge-small-en"])
def test_vectors_are_those_of_gpt4alls_own_call_whatever_it_knows_of_the_model(
        content: gguf.GGUFReader, tmp_path: Path, name: str) -> None:
    """It puts words before the texts of some models, and moves the vectors of one."""
    path = renamed(content, tmp_path / "model.gguf", name)
    engine = Gpt4AllEmbeddings(path, 1, "m")
    own = Embed4All(path.name, model_path=path.parent, allow_download=False, n_threads=1, device="cpu", n_ctx=256)
    for text in ("the light", "the keeper of the lighthouse walks down to the harbour " * 40):
        for long_text in ("mean", "truncate"):
            made, count = embed(engine, text, long_text)
            expected = own.embed(text, long_text_mode=long_text, return_dict=True)
            assert count == expected["n_prompt_tokens"]
            assert float(vector(made) @ np.array(expected["embeddings"], np.float32)) >= 0.99999


def test_a_model_that_gpt4all_does_not_know_is_embedded_without_a_prefix(
        content: gguf.GGUFReader, tmp_path: Path, plain: Gpt4AllEmbeddings) -> None:
    engine = Gpt4AllEmbeddings(renamed(content, tmp_path / "model.gguf", "of my own"), 1, "m")
    assert embed(engine, "the light") == embed(plain, "the light")


def test_texts_that_are_computed_together_have_the_vectors_that_they_have_alone(plain: Gpt4AllEmbeddings) -> None:
    chunks = [parts(plain, text)[0].chunks[0] for text in ("one", "the light of the harbour", "two words", "x y z")]
    together = plain.compute(chunks)
    for row, chunk in zip(together, chunks, strict=True):
        assert float(plain.compute([chunk])[0] @ row) >= 0.99999


def test_a_very_long_text_is_cut_where_gpt4alls_engine_cuts_it(
        fast: openvino.OpenVinoEmbeddings, plain: Gpt4AllEmbeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mayfly.engines.long_texts.LONGEST_PART", 2_000)
    text = " ".join(random_texts(60, seed=3))[:3_000]
    assert len(parts(fast, text)) > 2
    made, count = embed(fast, text)
    expected, expected_count = embed(plain, text)
    assert count == expected_count
    assert float(vector(made) @ vector(expected)) >= 0.9999


def test_100_000_words_are_tokens_and_chunks_that_fit(fast: openvino.OpenVinoEmbeddings) -> None:
    made = parts(fast, "lighthouse " * 100_000)
    assert len(made) > 50
    assert sum(part.count for part in made) >= 100_000
    chunks = [chunk for part in made for chunk in part.chunks]
    assert max(map(len, chunks)) == 256
    # All words are the same, so all vectors would be: one stands for them.
    row = fast.compute(chunks[:1])[0]
    assert float(vector(joined(made, [row] * len(chunks))) @ row) > 0.9999
    assert [len(part.chunks[0]) for part in parts(fast, "lighthouse " * 100_000, "truncate")] == [256]


@pytest.mark.parametrize("text", [
    "x" * 1_000_000, " " * 200_000 + "the cat " * 200_000, "灯塔" * 300_000, "é" * 500_000],
    ids=["a word", "blanks", "Chinese", "accents"])
@pytest.mark.parametrize("long_text", ["mean", "truncate"])
def test_a_very_long_text_is_taken_in_small_steps(fast: openvino.OpenVinoEmbeddings, text: str, long_text: str) -> None:
    made = parts(fast, text, long_text)
    steps = list(fast.plan(text, long_text))
    if long_text == "truncate":
        assert len(steps) == len(made) == len(made[0].chunks) == 1 and len(made[0].chunks[0]) == 256
    else:
        assert len(steps) > len(text.encode()) // 20_000
        assert max(part.count for part in made) < 20_000
        assert [part.left == 0 for part in made] == [False] * (len(made) - 1) + [True]


def test_more_words_than_are_remembered_are_the_same_tokens(ids: Callable[[str], list[int]],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mayfly.engines.bert_tokens._MOST_WORDS", 10)
    tokens = BertTokens(ids, 256)
    for text in random_texts(50, seed=4):
        (part,) = tokens.plan(text, "truncate")
        assert [*part.chunks[0]][1:-1] == ids(text)[1:-1][:254]


def test_the_number_of_threads_may_change_between_two_texts(embedding_model: Path) -> None:
    engine = openvino.OpenVinoEmbeddings(embedding_model, 4, "all-MiniLM-L6-v2")
    before = vector(embed(engine, "The cat sat on the mat.")[0])
    for threads in (3, 1, 2, 9, 4, 1):
        engine.set_threads(threads)
        after = vector(embed(engine, "The cat sat on the mat.")[0])
        assert float(before @ after) > 0.99999


def test_a_file_that_the_fast_engine_cannot_compute_is_refused_with_the_reason(tiny_model: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"computes the architecture bert, and that of .* is llama"):
        openvino.OpenVinoEmbeddings(tiny_model, 1, "tiny")
    with pytest.raises(ModelUnavailable, match="EMBED_ENGINE=auto"):
        choose.load_embeddings(tiny_model, 1, "tiny", engine="openvino")


def test_auto_goes_back_to_the_next_engine_with_a_line_for_the_log(embedding_model: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("openvino", "llamacpp.embeddings"):
        monkeypatch.setitem(sys.modules, f"mayfly.engines.{engine}", None)  # as where there is no wheel
    said: list[str] = []
    loaded = choose.load_embeddings(embedding_model, 1, "m", engine="auto", note=said.append)
    assert loaded.facts["engine"] == "gpt4all"
    [line] = said
    assert line.startswith("embeddings are computed by gpt4all: openvino isn't installed, ")
    assert "; llamacpp isn't installed, " in line
    with pytest.raises(ModelUnavailable, match="openvino isn't installed"):
        choose.load_embeddings(embedding_model, 1, "m", engine="openvino")


def test_a_library_that_dies_while_it_loads_is_done_without(embedding_model: Path, tmp_path: Path) -> None:
    # A package in the place of the real one, which ends as on a processor that lacks an instruction.
    package = tmp_path / "other" / "openvino"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    service = Service(tmp_path, {"EMBED_MODEL": embedding_model.name, "MODEL_PATH": embedding_model.parent,
                                 "EMBED_ENGINE": "auto", "PYTHONPATH": tmp_path / "other"})
    try:
        service.wait_ready()
        assert len(service.embed("a text")[0]) == 384
        assert service.lane("embedding")["engine"] == "gpt4all"
        assert len(service.reports()) == 1
    finally:
        service.stop()


def test_nothing_is_loaded_that_reports_to_its_makers() -> None:
    code = ("import sys, mayfly.engines.openvino\n"
            "print([name for name, module in sys.modules.items()\n"
            "       if module and name.startswith(('openvino_telemetry', 'openvino.tools'))])")
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True,
                           env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("engine", ["gpt4all", "openvino"])
def test_health_and_models_say_which_engine_serves_and_in_which_precision(
        start: Callable[..., Service], engine: str) -> None:
    service = start(EMBED_ENGINE=engine, MODEL_NAME="")
    lane = service.lane("embedding")
    assert (lane["engine"], lane["precision"]) == (
        engine, "f16" if engine == "gpt4all" else lane["precision"])
    assert lane["precision"] in ("f16", "f32", "bf16")
    listed = service.session.get(service.url + "/v1/models", timeout=120).json()["data"]
    shown = next(model for model in listed if model["id"] == "all-MiniLM-L6-v2")
    assert (shown["engine"], shown["precision"]) == (lane["engine"], lane["precision"])
    assert len(service.embed(["a", ""])) == 2


def test_the_runtime_is_told_how_many_shapes_to_keep(fast: openvino.OpenVinoEmbeddings) -> None:
    """Unless it is, it keeps memory for every shape that ever came."""
    told: list[dict[str, object]] = []

    class Core:
        def compile_model(self, network: object, device: str, settings: dict[str, object]) -> object:
            told.append(settings)
            return fast._core.compile_model(network, device, settings)

    watched = copy.copy(fast)
    watched._core, watched._most_threads, watched._compiled = Core(), 2, collections.OrderedDict()
    for threads in (2, 1):
        watched.set_threads(threads)
        watched.compute([[101, 2000, 102]])
    kept = [settings["CPU_RUNTIME_CACHE_CAPACITY"] for settings in told]
    assert [settings["INFERENCE_NUM_THREADS"] for settings in told] == [2, 1]
    assert kept == [512, 128]
