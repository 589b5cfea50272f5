"""Downloads from the hub: what a name means there, and only what the hub told of, whole and with the right sum."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from models_rig import FileServer
from played_hub import REPOSITORY, REVISION, TOKEN, PlayedHub

from mayfly.errors import ModelUnavailable
from mayfly.models import pull
from mayfly.models.download import NotOffered
from mayfly.settings import parse

PROJECT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(1).randbytes(600_000)
NAME = "Some-Model-Q4_K_M.gguf"
WHOLE = f"hf:{REPOSITORY}/{NAME}"
SPLIT = [f"Some-Model-Q8_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture
def hub() -> Iterator[PlayedHub]:
    hub = PlayedHub()
    hub.add(NAME, CONTENT)
    yield hub
    hub.close()


@pytest.fixture
def elsewhere() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def fetch(hub: PlayedHub, models: Path, name: str = WHOLE, token: str = "") -> Path:
    return pull.pull(name, parse({"MODEL_PATH": str(models), "HF_ENDPOINT": hub.url + "/", "HF_TOKEN": token}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("name", [
    WHOLE, f"hf:{REPOSITORY}", f"hf:{REPOSITORY}:Q4_K_M", f"hf:{REPOSITORY}:q4_k_m"])
def test_a_file_is_named_itself_or_by_its_quantization(hub: PlayedHub, models: Path, name: str) -> None:
    for other in ("Some-Model-Q4_K_S.gguf", "Some-Model-IQ4_K_M.gguf", "Some-Model-Q4_K_M_L.gguf", "README.md",
                  "mmproj-Q4_K_M.gguf"):
        hub.add(other, b"another")
    assert fetch(hub, models, name).read_bytes() == CONTENT
    assert names(models) == [NAME]
    assert [path for path, _ in hub.requests] == [hub.api, hub.address(NAME)]


def test_a_file_in_a_folder_of_the_repository_comes_without_the_folder(hub: PlayedHub, models: Path) -> None:
    hub.add("deep er/inner/Other-Q6_K.gguf", b"inner")
    for name in (f"hf:{REPOSITORY}:Q6_K", f"hf:{REPOSITORY}/deep er/inner/Other-Q6_K.gguf"):
        hub.files[hub.address("deep%20er/inner/Other-Q6_K.gguf")] = b"inner"
        assert fetch(hub, models, name) == models / "Other-Q6_K.gguf"


@pytest.mark.parametrize(("name", "message"), [
    (f"hf:{REPOSITORY}:Q5_K_M", r"has no model in Q5_K_M, but Some-Model-Q4_K_M\.gguf"),
    (f"hf:{REPOSITORY}/absent.gguf", r"has no absent\.gguf, but Some-Model"),
    (f"hf:{REPOSITORY}/../{NAME}", "has no "),
    (f"hf:{REPOSITORY}:Q2_K", "has more than one model in Q2_K, but a/X-Q2_K.gguf, b/X-Q2_K.gguf: name one"),
    ("hf:nobody/nothing", "the hub has no repository nobody/nothing; if it is a private one, a token in HF_TOKEN"),
    ("hf:no--body/nothing", "can't be the name of a repository"),
    ("hf:nobody", "isn't a name of the hub"), ("hf:a/b/c/d", "isn't a name of the hub")])
def test_what_the_hub_does_not_have_is_not_offered(hub: PlayedHub, models: Path, name: str, message: str) -> None:
    hub.refused["/api/models/nobody/nothing?blobs=true"] = (401, "RepoNotFound")
    hub.add("a/X-Q2_K.gguf", b"a")
    hub.add("b/X-Q2_K.gguf", b"b")
    with pytest.raises(NotOffered, match=message):
        fetch(hub, models, name)
    assert names(models) == []


@pytest.mark.parametrize("path", ["..\\evil.gguf", ".hidden.gguf", "C:evil.gguf", "a\nb.gguf"])
def test_a_repository_whose_names_lead_elsewhere_is_not_followed(hub: PlayedHub, models: Path, path: str) -> None:
    hub.add(path.replace(".gguf", "-Q3_K.gguf"), b"evil")
    with pytest.raises(NotOffered):
        fetch(hub, models, f"hf:{REPOSITORY}:Q3_K")


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: PlayedHub, models: Path) -> None:
    hub.cut += [hub.address(NAME)] * 2
    assert fetch(hub, models).read_bytes() == CONTENT
    first, *later = hub.ranges(NAME)
    assert first is None and len(later) == 2 and all(later)


def test_what_an_earlier_call_has_begun_is_continued(hub: PlayedHub, models: Path) -> None:
    models.mkdir()
    (models / f"{NAME}.part").write_bytes(CONTENT[:400_000])
    assert fetch(hub, models).read_bytes() == CONTENT
    assert hub.ranges(NAME) == ["bytes=400000-"] and names(models) == [NAME]


def test_a_wrong_hash_leaves_nothing(hub: PlayedHub, models: Path) -> None:
    hub.add(NAME, CONTENT, sha256="0" * 64)
    with pytest.raises(ModelUnavailable, match=r"SHA256 \w{64} instead of 0{64} and was removed"):
        fetch(hub, models)
    assert names(models) == []


def test_a_file_that_is_there_is_checked_and_not_fetched_again(hub: PlayedHub, models: Path) -> None:
    fetch(hub, models)
    assert fetch(hub, models).read_bytes() == CONTENT
    assert len(hub.ranges(NAME)) == 1


@pytest.mark.parametrize("mine", [b"mine", CONTENT[:-1] + b"?"])
def test_another_file_of_that_name_is_told_of_and_left_alone(hub: PlayedHub, models: Path, mine: bytes) -> None:
    models.mkdir()
    (models / NAME).write_bytes(mine)
    with pytest.raises(ModelUnavailable, match=r"has another Some-Model-Q4_K_M\.gguf already"):
        fetch(hub, models)
    assert (models / NAME).read_bytes() == mine and names(models) == [NAME]


def split(hub: PlayedHub) -> list[bytes]:
    contents = [random.Random(number).randbytes(200_000) for number in range(3)]
    for path, content in zip(SPLIT, contents, strict=True):
        hub.add(path, content)
    return contents


@pytest.mark.parametrize("name", [
    f"hf:{REPOSITORY}:Q8_0", f"hf:{REPOSITORY}/{SPLIT[0]}", f"hf:{REPOSITORY}/{SPLIT[2]}"])
def test_a_model_in_parts_is_fetched_whole(hub: PlayedHub, models: Path, name: str) -> None:
    contents = split(hub)
    hub.cut.append(hub.address(SPLIT[1]))
    told: list[tuple[str, str, int, int]] = []
    settings = parse({"MODEL_PATH": str(models), "HF_ENDPOINT": hub.url})
    assert pull.pull(name, settings, lambda *progress: told.append(progress)) == models / SPLIT[0]
    assert [(models / path).read_bytes() for path in SPLIT] == contents and names(models) == SPLIT
    # One download, of all parts together.
    assert {(file, total) for _, file, _, total in told} == {(SPLIT[0], 600_000)}
    done = [done for doing, _, done, _ in told if doing == "downloading"]
    assert done == sorted(done) and done[0] == 0 and done[-1] > 500_000


def test_of_a_model_in_parts_nothing_is_placed_before_all_parts_are_right(hub: PlayedHub, models: Path) -> None:
    contents = split(hub)
    hub.add(SPLIT[2], contents[2], sha256="1" * 64)
    with pytest.raises(ModelUnavailable, match="SHA256"):
        fetch(hub, models, f"hf:{REPOSITORY}:Q8_0")
    assert names(models) == [f"{path}.part" for path in SPLIT[:2]]
    hub.add(SPLIT[2], contents[2])
    fetch(hub, models, f"hf:{REPOSITORY}:Q8_0")
    assert names(models) == SPLIT and [len(hub.ranges(path)) for path in SPLIT] == [1, 1, 2]


def test_a_repository_that_lacks_a_part_is_refused_before_anything_is_fetched(hub: PlayedHub, models: Path) -> None:
    hub.add(SPLIT[0], b"1")
    hub.add(SPLIT[2], b"3")
    with pytest.raises(ModelUnavailable, match=f"lacks a part of the model: {SPLIT[1]}"):
        fetch(hub, models, f"hf:{REPOSITORY}:Q8_0")
    assert names(models) == []


def test_the_token_is_sent_to_the_hub_and_to_no_other_host(
        hub: PlayedHub, elsewhere: FileServer, models: Path) -> None:
    away = elsewhere.url.replace("127.0.0.1", "localhost")
    hub.led_away[hub.address(NAME)] = f"{away}/signed?for=us"
    elsewhere.files["/signed?for=us"] = CONTENT
    elsewhere.cut.append("/signed?for=us")
    assert fetch(hub, models, token=TOKEN).read_bytes() == CONTENT
    assert hub.tokens == [f"Bearer {TOKEN}"] * 3
    assert elsewhere.tokens == [None, None]
    # What tells of the repository may be led away too.
    elsewhere.files["/api"] = hub.files[hub.api]
    hub.led_away[hub.api] = f"{away}/api"
    fetch(hub, models, token=TOKEN)
    assert elsewhere.tokens == [None] * 3


def test_without_a_token_none_is_sent_not_even_one_that_lies_on_the_machine(
        hub: PlayedHub, models: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    environ = {**os.environ, "HF_HOME": str(tmp_path), "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_ENDPOINT": hub.url,
               "MODEL_PATH": str(models), "MAYFLY_ENV": str(tmp_path / "empty.env")}
    environ.pop("HF_TOKEN", None)
    (tmp_path / "empty.env").touch()
    done = subprocess.run([sys.executable, "-m", "mayfly", "pull", WHOLE], cwd=PROJECT, env=environ, check=True,
                          capture_output=True, text=True)
    assert done.stdout == f"{models / NAME}\n" and hub.tokens == [None, None]
    # In a process of its own, which has asked nothing before: nothing else is asked or told.
    assert [path for path, _ in hub.requests] == [hub.api, hub.address(NAME)]


@pytest.mark.parametrize(("refusal", "message"), [
    ((401, ""), "answers 401 Unauthorized; another token in HF_TOKEN may be needed"),
    ((401, "RepoNotFound"), "no repository"),
    ((403, "GatedRepo"), "is gated"), ((403, ""), "answers 403"), ((404, "RepoNotFound"), "no repository"),
    ((404, ""), "answers 404"), ((500, ""), "answers 500"), ((429, ""), "answers 429")])
@pytest.mark.parametrize("of", ["the repository", "the file"])
def test_a_refusal_is_one_sentence_and_never_shows_the_token(
        hub: PlayedHub, models: Path, refusal: tuple[int, str], message: str, of: str,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hub.refused[hub.api if of == "the repository" else hub.address(NAME)] = refusal
    with pytest.raises(ModelUnavailable) as caught:
        fetch(hub, models, token=TOKEN)
    said = str(caught.value)
    if of == "the repository":
        caught.match(message)
    else:
        assert f"answers {refusal[0]}" in said and REVISION in said
    assert "\n" not in said and TOKEN not in said + caplog.text
    assert names(models) == []


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"5", b"null", b'{"siblings": [{}]}', b'{"siblings": 5}',
                                    b"{}", b"\xff"])
def test_a_hub_that_is_none_is_one_clear_error(hub: PlayedHub, models: Path, answer: bytes) -> None:
    hub.files[hub.api] = answer
    with pytest.raises(ModelUnavailable) as caught:
        fetch(hub, models)
    assert "\n" not in str(caught.value) and names(models) == []


@pytest.mark.parametrize("lfs", [None, {"size": "9", "sha256": "0" * 64, "pointerSize": 1},
                                 {"size": 9, "sha256": "../..", "pointerSize": 1}])
def test_a_file_without_a_hash_is_not_fetched(hub: PlayedHub, models: Path, lfs: object) -> None:
    told = json.loads(hub.files[hub.api])
    told["siblings"][0]["lfs"] = lfs
    hub.files[hub.api] = json.dumps(told).encode()
    with pytest.raises(ModelUnavailable, match="doesn't tell size and SHA-256"):
        fetch(hub, models)
    assert hub.ranges(NAME) == []


def test_a_hub_that_cannot_be_reached_is_one_clear_error(hub: PlayedHub, models: Path) -> None:
    settings = parse({"MODEL_PATH": str(models), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN})
    with pytest.raises(ModelUnavailable, match=r"the hub can't be reached: .*HF_ENDPOINT") as caught:
        pull.pull(WHOLE, settings)
    assert TOKEN not in str(caught.value)
