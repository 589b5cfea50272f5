"""The first .env file: the example with a key of its own in it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from service import PROJECT

from mayfly import settings
from mayfly.errors import SettingError
from mayfly.keys import env_file

EXAMPLE = (PROJECT / ".env.example").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a fresh clone is."""
    (tmp_path / ".env.example").write_bytes(EXAMPLE)
    return tmp_path


def test_it_is_the_example_with_a_key_for_its_owner_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env_file.make(folder / ".env", folder / ".env.example")
    assert capsys.readouterr() == ("", f"mayfly: made {folder / '.env'} with a new API key in it\n")
    written = (folder / ".env").read_bytes()
    key = re.search(rb"(?m)^API_KEYS=([A-Za-z0-9_-]{43})$", written)
    assert key
    assert written.replace(key[0], b"API_KEYS=") == EXAMPLE
    assert settings.load_settings({"MAYFLY_ENV": str(folder / ".env")}).api_keys == (key[1].decode(),)
    if os.name != "nt":
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    env_file.make(folder / ".env", folder / ".env.example")
    assert capsys.readouterr() == ("", "")
    assert (folder / ".env").read_bytes() == written
    assert sorted(path.name for path in folder.iterdir()) == [".env", ".env.example"]


def test_every_installation_gets_another_key(folder: Path) -> None:
    keys = set()
    for _ in range(2):
        env_file.make(folder / ".env", folder / ".env.example")
        keys.update(env_file.entries(folder / ".env"))
        (folder / ".env").unlink()
    assert len(keys) == 2


@pytest.mark.parametrize("example", ["", "# nothing\nPORT=1", "  # API_KEYS=\r\nA=1\r\n"])
def test_an_example_without_the_line_gets_one(example: str, folder: Path) -> None:
    (folder / ".env.example").write_bytes(example.encode())
    env_file.make(folder / ".env", folder / ".env.example")
    assert (folder / ".env").read_bytes().startswith(example.encode())
    (key,) = env_file.entries(folder / ".env")
    assert len(key) == 43


@pytest.mark.parametrize("content", ["", "API_KEYS=\n", "API_KEYS=my-own-key\n"])
def test_a_file_that_is_there_is_left_as_it_is(content: str, folder: Path) -> None:
    (folder / ".env").write_text(content)
    env_file.make(folder / ".env", folder / ".env.example")
    assert (folder / ".env").read_text() == content


def test_a_file_that_is_no_text_is_told_with_its_line_and_left_as_it_is(folder: Path) -> None:
    content = "API_KEYS=\n# f\xfcr mich\n".encode("latin-1")
    (folder / ".env").write_bytes(content)
    for ask in (env_file.entries, lambda path: env_file.change(path, lambda entries: entries)):
        with pytest.raises(SettingError, match=r"\.env can't be read: line 2 isn't UTF-8"):
            ask(folder / ".env")
    assert (folder / ".env").read_bytes() == content


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_in_its_place_is_not_followed(folder: Path) -> None:
    (folder / ".env").symlink_to(folder / "somewhere")
    env_file.make(folder / ".env", folder / ".env.example")
    assert not (folder / "somewhere").exists()


def test_a_start_that_loses_the_race_keeps_the_winner_s(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    looked = os.path.lexists

    def lexists(path: Path) -> bool:
        """Look, and let another start be first in the very moment."""
        found = looked(path)
        (folder / ".env").write_text("API_KEYS=winner-s-key\n")
        return found

    monkeypatch.setattr(os.path, "lexists", lexists)
    env_file.make(folder / ".env", folder / ".env.example")
    assert (folder / ".env").read_text() == "API_KEYS=winner-s-key\n"
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == [".env", ".env.example"]


def test_none_is_made_where_there_is_no_example(folder: Path) -> None:
    (folder / ".env.example").unlink()
    env_file.make(folder / ".env", folder / ".env.example")
    assert list(folder.iterdir()) == []


def test_a_folder_that_takes_none_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingError, match=r"\.env can't be made: No space left on device"):
        env_file.make(folder / ".env", folder / ".env.example")
    assert [path.name for path in folder.iterdir()] == [".env.example"]
