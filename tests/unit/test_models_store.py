"""Names of models lead to files in MODEL_PATH and to nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mayfly.errors import ModelUnavailable
from mayfly.models import store


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "more").mkdir(parents=True)
    for name in ("one.gguf", "two.Q4_0.gguf", "more/three.gguf", "fake.script.json", "notes.txt", ".hidden.gguf"):
        (folder / name).write_bytes(b"content")
    (tmp_path / "outside.gguf").write_bytes(b"secret")
    return folder


def link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system lets no ordinary user make links")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("one.gguf", "one.gguf"),
        ("one", "one.gguf"),
        ("two.Q4_0", "two.Q4_0.gguf"),
        ("more/three", "more/three.gguf"),
        ("fake.script.json", "fake.script.json"),
    ],
)
def test_a_name_leads_to_its_file_with_or_without_its_ending(models: Path, name: str, file: str) -> None:
    assert store.find(models, name) == models / file


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../outside.gguf", "../outside", "more/../../outside.gguf", "more/../one.gguf", "/etc/passwd",
        "\\one.gguf", "..\\outside.gguf", "C:\\one.gguf", "C:one.gguf", "\\\\host\\share\\one.gguf",
        "one.gguf\0", "one\0.gguf", "one\n.gguf", "\ud800.gguf", "~/one.gguf", "file:///one.gguf", "x" * 5000,
    ],
)  # fmt: skip
def test_a_name_that_leaves_the_folder_or_is_no_name_is_refused(models: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        store.find(models, name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_an_absolute_path_to_a_model_is_refused(models: Path) -> None:
    with pytest.raises(ModelUnavailable, match="isn't the name of a model"):
        store.find(models, str(models / "one.gguf"))


def test_files_of_another_kind_are_no_models(models: Path) -> None:
    with pytest.raises(store.ModelAbsent):
        store.find(models, "notes.txt")


def test_a_folder_is_no_model(models: Path) -> None:
    (models / "folder.gguf").mkdir()
    with pytest.raises(ModelUnavailable, match="isn't a file"):
        store.find(models, "folder")


def test_a_link_out_of_the_folder_is_refused(models: Path) -> None:
    link(models / "link.gguf", models.parent / "outside.gguf")
    with pytest.raises(ModelUnavailable, match="link that leaves MODEL_PATH"):
        store.find(models, "link.gguf")


def test_a_linked_folder_out_of_the_folder_is_refused(models: Path) -> None:
    link(models / "away", models.parent)
    with pytest.raises(ModelUnavailable, match="link that leaves MODEL_PATH"):
        store.find(models, "away/outside.gguf")


def test_links_in_a_circle_are_refused(models: Path) -> None:
    link(models / "circle.gguf", models / "circle.gguf")
    with pytest.raises(ModelUnavailable):
        store.find(models, "circle")


def test_a_link_inside_the_folder_is_opened_by_its_own_name(models: Path) -> None:
    (models / "blobs").mkdir()
    (models / "blobs" / "5f2a").write_bytes(b"content")
    (models / "snapshots" / "abc").mkdir(parents=True)
    link(models / "snapshots" / "abc" / "deep.gguf", Path("../../blobs/5f2a"))
    link(models / "default.gguf", models / "one.gguf")
    for name in ("default", "snapshots/abc/deep"):
        assert store.find(models, name) == models / f"{name}.gguf"
        assert f"{name}.gguf" in store.listing(models)


@pytest.mark.parametrize("inner", ["snapshots/abc", "snapshots/abc/Q4_0", "snapshots", "files"])
def test_a_folder_of_hugging_faces_cache_may_be_the_folder_of_models(tmp_path: Path, inner: str) -> None:
    cache = tmp_path / "models--owner--name"
    folder = cache / inner
    folder.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "5f2a").write_bytes(b"content")
    link(folder / "one.gguf", Path(os.path.relpath(cache / "blobs" / "5f2a", folder)))
    assert store.find(folder, "one") == folder / "one.gguf"
    assert store.listing(folder) == ["one.gguf"]


@pytest.mark.parametrize("target", ["../../../outside.gguf", "../../../other/blobs/5f2a", "../../blobs/more/5f2a",
                                    "../../refs/5f2a"])
def test_a_link_elsewhere_is_refused_in_hugging_faces_cache_too(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "models--owner--name" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    file = Path(os.path.normpath(folder / target))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"content")
    link(folder / "one.gguf", Path(target))
    with pytest.raises(ModelUnavailable, match="link that leaves MODEL_PATH"):
        store.find(folder, "one")


def split(folder: Path, *numbers: int, model: str = "large", count: int = 3) -> None:
    for number in numbers:
        (folder / f"{model}-{number:05d}-of-{count:05d}.gguf").write_bytes(b"content")


@pytest.mark.parametrize("name", ["large", "large.gguf", "large-00001-of-00003", "large-00001-of-00003.gguf"])
def test_a_model_that_is_split_has_the_name_of_its_first_part_or_that_without_the_number(models: Path, name: str
                                                                                        ) -> None:
    split(models / "more", 1, 2, 3)
    assert store.find(models, f"more/{name}") == models / "more" / "large-00001-of-00003.gguf"
    with pytest.raises(store.ModelAbsent):
        store.find(models, name)


def test_a_model_that_is_split_is_listed_once_even_without_its_first_part(models: Path) -> None:
    split(models, 1, 2, 3)
    split(models, 2, model="lost", count=2)
    assert [name for name in store.listing(models) if "-of-" in name] == [
        "large-00001-of-00003.gguf", "lost-00001-of-00002.gguf"]
    for name in ("lost", "lost-00001-of-00002"):
        with pytest.raises(ModelUnavailable, match=r"its part 1 of 2, lost-00001-of-00002\.gguf, is missing"):
            store.find(models, name)


@pytest.mark.parametrize("name", ["a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf",
                                  "-00001-of-00002x"])
def test_a_name_that_is_no_parts_name_is_a_whole_files(models: Path, name: str) -> None:
    file = store.file_name(name)
    (models / file).write_bytes(b"content")
    assert file in store.listing(models)
    assert store.find(models, name) == models / file


def test_an_ending_is_one_however_it_is_spelt(models: Path) -> None:
    (models / "more" / "LOUD.GGUF").write_bytes(b"content")
    (models / "odd.Script.JSON").write_bytes(b"content")
    assert {"more/LOUD.GGUF", "odd.Script.JSON"} < set(store.listing(models))
    for name in ("more/LOUD", "more/LOUD.GGUF", "more/LOUD.gguf"):
        assert store.find(models, name).samefile(models / "more" / "LOUD.GGUF")
    with pytest.raises(store.ModelAbsent):
        store.find(models, "odd")  # .gguf is what a name without an ending means
    (models / "more" / "LOUD.gguf").write_bytes(b"another")
    assert store.find(models, "more/LOUD").read_bytes() == b"another"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="files can't be called so there")
def test_a_file_that_no_name_leads_to_is_told_with_the_reason(models: Path) -> None:
    for name in (b"bad\xff.gguf", b"two\nlines.gguf", b"C:drive.GGUF", b".hidden.gguf", b"._one.gguf", b"fine.gguf"):
        Path(os.fsdecode(os.fsencode(models) + b"/" + name)).write_bytes(b"content")
    (models / ("d" * 250) / ("e" * 250)).mkdir(parents=True)
    (models / ("d" * 250) / ("e" * 250) / "far.gguf").write_bytes(b"content")
    told = store.unlisted(models)
    assert {line.split(" in MODEL_PATH")[0]: hidden for hidden, line in told} == {
        r"'bad\udcff.gguf'": False, r"'two\nlines.gguf'": False, "'C:drive.GGUF'": False, "'.hidden.gguf'": True,
        "'._one.gguf'": True, "'" + "d" * 97 + "...'": False}
    assert all(line.isprintable() and line.isascii() and ("rename it" in line) != hidden for hidden, line in told)
    assert "fine.gguf" in store.listing(models) and len(store.listing(models)) == 5


def test_the_folder_itself_may_be_a_link(models: Path, tmp_path: Path) -> None:
    link(tmp_path / "elsewhere", models)
    assert store.find(tmp_path / "elsewhere", "one").read_bytes() == b"content"


def test_the_message_for_a_missing_model_tells_what_is_there_and_what_to_do(models: Path) -> None:
    with pytest.raises(store.ModelAbsent) as caught:
        store.find(models, "mistral")
    message = str(caught.value)
    assert "one.gguf" in message and "MODEL_PATH" in message and "mistral" in message and "pull" in message


def test_the_message_for_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(store.ModelAbsent, match="MODEL_PATH"):
        store.find(tmp_path / "nowhere", "one")


def test_the_listing_holds_what_can_be_found(models: Path) -> None:
    assert store.listing(models) == ["fake.script.json", "more/three.gguf", "one.gguf", "two.Q4_0.gguf"]
    for name in store.listing(models):
        assert store.find(models, name).is_file()


@pytest.mark.parametrize(("target", "reason"), [
    ("../outside.gguf", "leaves MODEL_PATH"), ("none.gguf", "a link to a file that isn't there"),
    ("bad.gguf", "can't be opened")])
def test_a_link_that_can_not_be_used_is_listed_and_its_reason_told(models: Path, target: str, reason: str) -> None:
    link(models / "bad.gguf", Path(target))
    assert "bad.gguf" in store.listing(models)
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        store.find(models, "bad")
    assert not isinstance(caught.value, store.ModelAbsent) and str(models.parent) not in str(caught.value)


def test_the_listing_of_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert store.listing(tmp_path / "nowhere") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_no_model(models: Path) -> None:
    os.mkfifo(models / "pipe.gguf")
    with pytest.raises(ModelUnavailable, match="isn't a file"):
        store.find(models, "pipe")
