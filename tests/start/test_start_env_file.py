"""VENV_NAME, the one setting that start.sh reads itself, before there is anything else that could."""

from __future__ import annotations

from pathlib import Path

import dotenv
import pytest
from start_tree import ROOT, Tree, load_start

from mayfly import settings

start = load_start()
pytest_plugins = ["start_fixtures"]

LINES = [
    "A=x", "A = x ", "export A=x", "  A=x", "\tA\t=\tx", "export \t A=x", "A=", "A= ", "A=''", 'A=""',
    "A='a b'  # comment", 'A="a # b"', "A=a b c", "A=a#b", "A=a #b", "A=a\t#b", "A=# b", "A = # b", "#A=1", " # A=1",
    "A='one'\nB=3", "A=1\nA=2", "A=1\nA=", "A=1\r\nB=2\r\n", "\r\nA='x y'\r\n", "A=1\rB=2", "A", "A B=1", "A1=x",
    "xA=1", "A=ünï 猫", "A=b=c==", "A=C:\\Users\\me", "A=1 2 # 3 # 4", "\n\n\nA=1\n\n\nB=2", 'A="x" y', "A='x'y",
    "A='open", 'A="', "A= 'x' # 'y'", "A='x'#y", "A=1\n  # c\n\n  B=2  ", "A=$HOME/x", "A=\n# c\nB=1", "B='A=1'",
    "A=it's", "\ufeffA=x", "\ufeff# c\nA='x'",
]


@pytest.mark.parametrize("text", LINES)
def test_it_is_read_as_the_service_reads_settings(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ACTIVE", False)
    monkeypatch.delenv("VENV_NAME", raising=False)
    path = tmp_path / ".env"
    path.write_bytes(text.replace("A", "VENV_NAME").encode())
    monkeypatch.setenv("MAYFLY_ENV", str(path))
    written = (dotenv.dotenv_values(path, interpolate=False, encoding="utf-8-sig").get("VENV_NAME") or "").strip()
    assert start.environment_folder() == str(ROOT / (written or settings.parse({}).venv_name))


def test_the_environment_wins_and_nothing_means_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ACTIVE", False)
    monkeypatch.setenv("MAYFLY_ENV", str(tmp_path / "my.env"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, folder in (("other", ROOT / "other"), (" ", ROOT / ".venv"),
                         (str(tmp_path), tmp_path), ("~/venv", tmp_path / "venv")):
        monkeypatch.setenv("VENV_NAME", name)
        assert start.environment_folder() == str(folder)  # the file isn't there
    (tmp_path / "my.env").write_text("VENV_NAME=written\n")
    assert start.environment_folder() == str(tmp_path / "venv")
    monkeypatch.setenv("VENV_NAME", " ")
    assert start.environment_folder() == str(ROOT / "written")


def test_a_file_in_another_encoding_is_left_to_the_service_to_refuse(ready_tree: Tree) -> None:
    (ready_tree.folder / ".env").write_bytes("MODEL_NAME=ü\nVENV_NAME=.venv\n".encode("latin-1"))
    assert ready_tree.run().code == 7


def test_it_names_the_environment_from_a_file_beside_start_sh_or_from_mayfly_env(fresh_tree: Tree) -> None:
    fresh_tree.write(".env", "VENV_NAME='my environment'\nLISTEN_PORT=0\n")
    assert f"{fresh_tree.folder / 'my environment'}: there is none yet\n" in fresh_tree.run("doctor").out
    assert f"{fresh_tree.folder / 'other'}: there is none yet\n" in fresh_tree.run("doctor", VENV_NAME="other").out
    (fresh_tree.folder.parent / "mine.env").write_text("VENV_NAME=third\n")  # a path from where the person is
    assert f"{fresh_tree.folder / 'third'}: there is none yet\n" in fresh_tree.run("doctor", MAYFLY_ENV="mine.env").out
