"""Names of models lead to files in MODEL_PATH and to nothing else."""

from __future__ import annotations

import os
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
    assert store.find(models, name) == (models / file).resolve()


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


def test_a_link_inside_the_folder_is_followed(models: Path) -> None:
    link(models / "default.gguf", models / "one.gguf")
    assert store.find(models, "default").name == "one.gguf"


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


def test_the_listing_leaves_out_links_that_lead_away(models: Path) -> None:
    link(models / "away.gguf", models.parent / "outside.gguf")
    link(models / "nowhere.gguf", models / "none.gguf")
    assert not {"away.gguf", "nowhere.gguf"} & set(store.listing(models))


def test_the_listing_of_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert store.listing(tmp_path / "nowhere") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_no_model(models: Path) -> None:
    os.mkfifo(models / "pipe.gguf")
    with pytest.raises(ModelUnavailable, match="isn't a file"):
        store.find(models, "pipe")
