"""llama.cpp as an engine: its library, the ids that it is given, and models of many architectures."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import real_models
import tiny_architectures
import tiny_llama
from fidelity.texts import FOLDER, alike
from random_texts import random_texts
from service import PROJECT, Service

from mayfly.engines import backends, choose
from mayfly.engines.base import EmbeddingEngine
from mayfly.engines.gpt4all.vocabulary import open_vocabulary
from mayfly.errors import ContextLengthExceeded, ModelUnavailable
from mayfly.models import gguf_stream
from mayfly.models.header import read_header
from mayfly.prompts.segments import Segment
from mayfly.settings import available_cores
from mayfly.wire.calls import CompletionCall, Message, Sampling

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")

from mayfly.engines.llamacpp import library
from mayfly.engines.llamacpp.completions import LlamaCompletions
from mayfly.engines.llamacpp.vocabulary import Opened

GREEDY = Sampling(max_tokens=12, temperature=0.0)
ASKED = CompletionCall("test", (Message("system", "Be brief."), Message("user", "Who are you?")))


@pytest.fixture
def anew() -> Iterator[None]:
    """The library is looked for again."""
    library.open_library.cache_clear()
    yield
    library.open_library.cache_clear()


def answer(engine: LlamaCompletions, sampling: Sampling = GREEDY, call: CompletionCall = ASKED) -> bytes:
    taken: list[bytes] = []
    engine.generate(engine.prompt(call), sampling, lambda: True, lambda piece: taken.append(piece) is None)
    return b"".join(taken)


def wheel() -> Path:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "xllamacpp.abi3.so"


# -- the library ----------------------------------------------------------------------------------------------------


def test_a_build_of_ones_own_is_found_by_its_file_or_its_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, anew: None) -> None:
    (tmp_path / "libllama.so").symlink_to(wheel())
    for place in (tmp_path, tmp_path / "libllama.so"):
        monkeypatch.setenv(library.LIBRARY, str(place))
        library.open_library.cache_clear()
        assert answer(LlamaCompletions(tiny_model, 1, 256, "cpu", "m"))


def test_what_is_no_library_of_the_known_version_is_refused_by_its_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: None) -> None:
    spec = importlib.util.find_spec("gpt4all")
    assert spec is not None and spec.submodule_search_locations
    older = next(Path(spec.submodule_search_locations[0]).rglob("libllamamodel-mainline-kompute.so"))
    (tmp_path / "text.so").write_text("no library")
    for place, message in ((older, "is no library of llama.cpp's version"), (tmp_path, "there is no library"),
                           (tmp_path / "text.so", "can't be loaded"), (tmp_path / "absent", "there is no library")):
        monkeypatch.setenv(library.LIBRARY, str(place))
        with pytest.raises(ModelUnavailable, match=message):
            library.open_library()


@pytest.mark.parametrize("known", ["_MODEL_DEFAULTS", "_CONTEXT_DEFAULTS"])
def test_each_field_of_both_structs_is_compared_with_what_is_known(
        monkeypatch: pytest.MonkeyPatch, known: str, anew: None) -> None:
    struct_ = library.ModelParams if known == "_MODEL_DEFAULTS" else library.ContextParams
    for name, _ in struct_._fields_[:-1]:
        monkeypatch.setattr(library, known, {**getattr(library, known), name: 77})
        with pytest.raises(ModelUnavailable, match=rf"in which {name} of llama_\w+_params is .*xllamacpp \d"):
            library.open_library()
        monkeypatch.undo()


def test_the_known_architectures_are_those_of_the_library(tmp_path: Path) -> None:
    """It says of a file what it doesn't know; every short text in it is asked about, and gguf's own list."""
    words = {word.decode() for word in re.findall(rb"(?<=\0)[a-z][a-z0-9._-]{2,24}(?=\0)", wheel().read_bytes())}
    # Compilers merge the shortest constants into code. Most that has no digit and no dash is a word of a message.
    words = {word for word in words if re.search(r"[0-9-]|mo?e$|embed", word)} | set(gguf.MODEL_ARCH_NAMES.values())
    code = ("import sys; from pathlib import Path; from mayfly.engines.llamacpp import library\n"
            "from mayfly.errors import ModelUnavailable\n"
            "library._note.__globals__['print'] = lambda *a, **k: None\n"
            "file = Path(sys.argv[1])\n"
            "for word in sys.stdin.read().split():\n"
            "    text = word.encode(); key = b'general.architecture'\n"
            "    file.write_bytes(b'GGUF' + (3).to_bytes(4, 'little') + bytes(8) + (1).to_bytes(8, 'little')\n"
            "        + len(key).to_bytes(8, 'little') + key + (8).to_bytes(4, 'little')\n"
            "        + len(text).to_bytes(8, 'little') + text + bytes(64))\n"
            "    try: library.load_model(file)\n"
            "    except ModelUnavailable as exc:\n"
            "        if 'unknown model architecture' not in str(exc): print(word)\n")
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a.gguf"], input=" ".join(words), cwd=PROJECT,
                           capture_output=True, text=True, check=True, env={**os.environ, "PATH": os.devnull})
    known = frozenset().union(*backends.LlamaCpp.architectures.values())
    found = set(ended.stdout.split())
    # What it has beside these neither completes a text nor makes one vector of it.
    assert found - known == {"clip", "wavtokenizer-dec", "t5", "t5encoder", "qwen3tts", "llada-moe", "rnd1",
                             "gemma4-assistant", "dream", "llada"}
    assert {word for word in known if word in words} <= found


def test_the_removed_types_of_weights_are_those_of_the_library() -> None:
    class Traits(ctypes.Structure):
        # ggml_type_traits of ggml.h, of which this is the beginning
        _fields_ = (("name", ctypes.c_char_p), ("block_size", ctypes.c_int64))

    ggml = ctypes.CDLL(str(wheel()))
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    removed = {}
    for number, (name, *_) in gguf_stream.TENSOR_TYPES.items():
        traits = ggml.ggml_get_type_traits(number).contents
        if not traits.block_size:
            removed[name] = re.search("use (\\w+)", traits.name.decode())[1]
    assert removed == backends.LlamaCpp.removed_types


def test_a_file_that_it_refuses_is_refused_in_its_own_words(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_model.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_r.weight"))
    tiny_llama.make(tmp_path / "newer.gguf", pre="of-tomorrow")
    for name, said in (("cut", "'blk.1.attn_q.weight' not found"), ("newer", "pre-tokenizer type: 'of-tomorrow'")):
        with pytest.raises(ModelUnavailable) as caught:
            choose.load_completions(tmp_path / f"{name}.gguf", 1, 256, "cpu", "other", engine="llamacpp")
        assert f"llama.cpp can't load {name}.gguf: " in str(caught.value) and said in str(caught.value)


def test_a_device_that_the_library_has_not_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"DEVICE is 'gpu'.*LLAMA_LIBRARY"):
        LlamaCompletions(tiny_model, 1, 256, "gpu", "m")


def test_a_device_that_no_engine_has_is_one_reason_with_those_that_there_are_and_no_engine_goes_back(
        tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(ModelUnavailable) as caught:
        choose.load_completions(tiny_model, 1, 256, "nope", "m", note=said.append)
    reason = str(caught.value)
    assert reason.startswith("DEVICE is 'nope', and there is no such device: this llama.cpp has cpu alone (")
    assert "; gpt4all has cpu" in reason and reason.count("nope") == 1 and said == []
    # A library for graphics cards names what it finds: here the processor, as it calls it.
    monkeypatch.setattr(library.open_library(), "llama_supports_gpu_offload", lambda: True)
    with pytest.raises(ModelUnavailable, match=r"^DEVICE is 'nope'.*: llama\.cpp has cpu, CPU, and gpu, all "):
        LlamaCompletions(tiny_model, 1, 256, "nope", "m")


def test_auto_is_llamacpp_and_goes_back_to_gpt4all_with_a_line_for_the_log(
        tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: None) -> None:
    said: list[str] = []
    assert choose.load_completions(tiny_model, 1, 256, "cpu", "m", note=said.append).facts == {"engine": "llamacpp"}
    assert said == []
    library.open_library.cache_clear()
    monkeypatch.setenv(library.LIBRARY, str(tmp_path))
    assert choose.load_completions(tiny_model, 1, 256, "cpu", "m", note=said.append).facts == {"engine": "gpt4all"}
    assert len(said) == 1 and said[0].startswith("completions are computed by gpt4all: there is no library")
    with pytest.raises(ModelUnavailable, match=r"there is no library.*CHAT_ENGINE=auto goes back to gpt4all"):
        choose.load_completions(tiny_model, 1, 256, "cpu", "m", engine="llamacpp")


# -- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", ["", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("blanks", [0, 1])
def test_the_ids_of_a_prompt_in_segments_are_those_that_gpt4all_evaluates(
        tmp_path: Path, pre: str, blanks: int) -> None:
    path = tiny_llama.make(tmp_path / "m.gguf", pre=pre, control={"<|im_end|>": -30.0}, add_bos=True)
    content = path.read_bytes()
    assert b"add_space_prefix" not in content
    ours = Opened(library.load_model(path, vocabulary_only=True))
    theirs = open_vocabulary(path, read_header(path).vocabulary_size)
    texts = ["Hi there", " the light", "\n\nthe", "", "</s> is text", "<|im_end|>", "the  end ", "\x01x"]
    texts += random_texts(40, seed=blanks, longest=20)
    for text in texts:
        segments = [Segment("<|im_end|>the\n" if blanks else "the", special=True), Segment(text, special=False),
                    Segment("<|im_end|>", special=True), Segment(text, special=False)]
        assert ours.tokenize(segments) == theirs.tokenize(segments), text


# -- embeddings ---------------------------------------------------------------------------------------------------


def of_texts(engine: EmbeddingEngine, texts: Sequence[str]) -> np.ndarray:
    """Return the vectors of texts that fit the window, one a row."""
    parts = [part for text in texts for part in engine.plan(text, "truncate") if part]
    return np.stack([engine.compute(part.chunks)[0] for part in parts])


def test_the_vectors_of_the_reference_are_those_of_sentence_transformers(embedding_model: Path) -> None:
    engine = choose.load_embeddings(embedding_model, 1, "m", engine="llamacpp")
    assert engine.facts == {"engine": "llamacpp", "precision": "f16"}
    texts = [sample.text for sample in alike()]
    reference = np.load(FOLDER / "reference.npy")[:len(texts)]
    assert float(np.sum(of_texts(engine, texts) * reference, axis=1).min()) > 0.9999
    # Several at once are what they are one by one.
    chunks = [part.chunks[0] for text in texts[:6] for part in engine.plan(text, "truncate") if part]
    few = [chunk for chunk in chunks if len(chunk) < 20][:4]
    together, apart = engine.compute(few), np.concatenate([engine.compute([chunk]) for chunk in few])
    assert float(np.sum(together * apart, axis=1).min()) > 0.99999


@pytest.mark.parametrize("pooling", [gguf.PoolingType.MEAN, gguf.PoolingType.LAST])
def test_a_decoder_whose_file_says_how_it_pools_makes_vectors(
        start: Callable[..., Service], model_path: Path, pooling: gguf.PoolingType) -> None:
    tiny_architectures.make(model_path / "vectors.gguf", "qwen3", {"qwen3.pooling_type": int(pooling)})
    service = start(EMBED_MODEL="vectors.gguf", MODEL_NAME="none", N_CTX=256)
    (listed,) = [model for model in service.session.get(service.url + "/v1/models").json()["data"]
                 if model["id"] == "vectors"]
    assert (listed["kind"], listed["engine"], listed["architecture"]) == ("embedding", "llamacpp", "qwen3")
    texts = ["the river", "the hill", "the river", "", "the light " * 3000]
    vectors = np.array(service.embed(texts))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[2] > 0.9999 > vectors[0] @ vectors[1]
    counted = service.post("/v1/tokenize", {"model": "vectors", "input": "the river"}).json()["data"][0]["tokens"]
    assert len(counted) == 2


# -- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_architectures.ARCHITECTURES)
def test_a_model_of_an_architecture_that_came_after_llama_is_loaded_and_answers(tmp_path: Path, name: str) -> None:
    path = tiny_architectures.make(tmp_path / "m.gguf", name)
    assert backends.LlamaCpp().objection("completion", name, frozenset({"F32"})) == ""
    engine = LlamaCompletions(path, 1, 256, "cpu", "m")
    engine.self_test()
    first = answer(engine)
    assert len(first.split()) >= 6
    # Nothing of a call is left for the next one.
    assert answer(engine, call=CompletionCall("other", text="the river and the hill")) != first
    assert answer(engine) == first


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_real_models_know_what_is_known(request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue(name) if name == "smollm2" else real_models.gemma()
    engine = LlamaCompletions(path, 2, 512, "cpu", "m")
    engine.self_test()
    told = Sampling(max_tokens=8, temperature=0.0, repeat_penalty=1.0)
    text = answer(engine, told, CompletionCall("test", text="Paris is the capital of France. Berlin is the capital of"))
    assert b"Germany" in text


def test_the_same_seed_draws_the_same_and_others_draw_others(tiny_model: Path) -> None:
    engine = LlamaCompletions(tiny_model, 1, 256, "cpu", "m")
    seeded = [answer(engine, Sampling(20, temperature=1.5, top_p=1.0, seed=seed)) for seed in (1, 2, 1, -1, -1)]
    assert seeded[0] == seeded[2] != seeded[1] and seeded[3] == seeded[4] != seeded[0]
    assert len({answer(engine, Sampling(20, temperature=1.5, top_p=1.0)) for _ in range(6)}) == 6


def test_a_long_window_gives_the_same_bits_with_any_share_of_the_threads(tmp_path: Path) -> None:
    engine = LlamaCompletions(tiny_llama.make(tmp_path / "m.gguf", embedding=64, heads=2), 2, 1024, "cpu", "m")
    prompt = engine.prompt(CompletionCall("test", text=" ".join(random.Random(1).choices(tiny_llama.WORDS, k=600))))

    def likelihoods(share: int, steady: int | None) -> list[float | None]:
        found: list[float | None] = []
        engine.set_threads(share)
        engine.generate(prompt, Sampling(16, 0.0, logprobs=0), lambda: True,
                        lambda piece, *scores: found.extend(score.logprob for score in scores) is None, steady=steady)
        return found

    alone = likelihoods(2, 2)
    assert likelihoods(1, 2) == alone == likelihoods(2, None) and len(alone) == 16
    assert likelihoods(1, None) != alone  # or nothing would have to be kept steady


SLEEPS = """
import random, resource, sys
from pathlib import Path
from mayfly.engines.llamacpp.completions import LlamaCompletions
from mayfly.wire.calls import CompletionCall, Sampling
engine = LlamaCompletions(Path(sys.argv[1]), 2, 1024, "cpu", "m")
prompt = engine.prompt(CompletionCall("test", text=" ".join(random.Random(1).choices(sys.argv[2].split(), k=300))))
said = []
for share in (2, 1, 2):
    engine.set_threads(share)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    engine.generate(prompt, Sampling(16, 0.0), lambda: True, lambda piece: said.append(piece) is None, steady=2)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
print(said[:16] == said[16:32] == said[32:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or available_cores() < 2,
                    reason="other systems have another OpenMP, and on one core two threads sleep anyhow")
def test_threads_that_are_more_than_their_share_sleep_while_they_wait_and_others_do_not(tmp_path: Path) -> None:
    # Left to themselves these threads never sleep within an evaluation, however busy the machine is.
    done = subprocess.run(
        [sys.executable, "-c", SLEEPS, tiny_llama.make(tmp_path / "m.gguf", embedding=64, heads=2), " ".join(
            tiny_llama.WORDS)], cwd=PROJECT, timeout=300, capture_output=True, text=True,
        env={**os.environ, "GOMP_SPINCOUNT": "30000000000"})
    *slept, same = done.stdout.split()
    alone, crowded, again = map(int, slept)
    assert same == "True" and crowded > 100 > max(alone, again), (done.stdout, done.stderr)


def test_a_prompt_that_leaves_no_room_is_refused_and_one_that_leaves_some_fills_it(tiny_model: Path) -> None:
    engine = LlamaCompletions(tiny_model, 1, 64, "cpu", "m")
    with pytest.raises(ContextLengthExceeded, match="the prompt has 64 tokens"):
        answer(engine, call=CompletionCall("test", text="the " * 62 + "the"))
    made = engine.generate([Segment("the " * 39 + "the", special=False)], Sampling(None, temperature=0.0),
                           lambda: True, lambda piece: True)
    assert (made.reason, made.prompt_tokens, made.completion_tokens) == ("limit", 41, 23)


def test_a_batch_is_ended_between_two_of_its_steps_and_what_ends_it_is_told(
        tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_llama.make(tmp_path / "m.gguf", embedding=512, blocks=8, heads=8)
    engine = LlamaCompletions(path, 1, 2048, "cpu", "m")
    segments = [Segment("the light " * 200, special=False)]  # one batch
    asked = [0]

    def refuse() -> bool:
        asked[0] += 1
        return asked[0] < 6

    capfd.readouterr()
    assert engine.generate(segments, GREEDY, refuse, lambda piece: True).reason == "refused"
    assert asked[0] == 6
    # To llama.cpp that is an error; in a report of another failure it would mislead.
    assert capfd.readouterr().err == ""

    def fail() -> bool:
        asked[0] += 1
        if asked[0] == 12:
            raise KeyError("the caller is gone")
        return True

    with pytest.raises(KeyError, match="the caller is gone"):
        engine.generate(segments, GREEDY, fail, lambda piece: True)
    assert answer(engine) == answer(LlamaCompletions(path, 1, 2048, "cpu", "m"))
