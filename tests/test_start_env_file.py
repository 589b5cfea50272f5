"""start.sh and .env: how it reads one, and how it makes the first."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import dotenv
import pytest
from start_tree import ROOT, Tree, load_start

from mayfly import listening, settings

pytest_plugins = ["start_fixtures"]

start = load_start()

LINES = [
    "A=1", "A = 1 ", "export A=1", "  A=1", "\tA\t=\t1", "A=", "A= ", "A=''", 'A=""', "A='a b'  # comment", 'A="a # b"',
    "A=a b c", "A=a#b", "A=a #b", "A=# b", "A = # b", "#A=1", " # A=1", "A='it\\'s'", r"A='a\nb'",
    r'A="a\nb\t\"c\" \\ \x"', r"A=a\nb", "A=${HOME}/x", "A=$A",
    "A='one\ntwo'\nB=3", "A=1\nA=2", "A=1\r\nB=2\r\n", "A=1\rB=2", "A", "A B=1", "=1",
    "A=ünï 猫", "A=b=c==", "A=http://h:1/p?q=r#s", "A=C:\\Users\\me", 'A="C:\\models"', "A=1 2 # 3 # 4",
    "\n\n\nA=1\n\n\nB=2", "a1_B=x", 'A="x" y', "A='x'y", "A='open",
    'A="', "A= 'x' # 'y'", "A='x'#y", "A='a\\\nb'", "A=1\n  # c\n\n  B=2  ",
]


@pytest.mark.parametrize("text", LINES)
def test_env_files_are_read_as_the_service_reads_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    expected = dotenv.dotenv_values(path, interpolate=False)
    assert start.read_env_file(str(path)) == {name: value for name, value in expected.items() if value is not None}


def test_a_mark_of_utf8_at_the_beginning_and_an_absent_file_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "marked").write_text("A=1\n", encoding="utf-8-sig")
    assert start.read_env_file(str(tmp_path / "marked")) == {"A": "1"}
    assert start.read_env_file(str(tmp_path / "absent")) == {}


def test_a_file_in_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("A=ü".encode("latin-1"))
    with pytest.raises(start.Refused, match="is not UTF-8"):
        start.read_env_file(str(tmp_path / ".env"))


def test_the_defaults_are_those_of_the_service() -> None:
    service = settings.parse({})
    relative = {name: str(getattr(service, name.lower())) for name in start.DEFAULTS if name != "API_KEYS"}
    relative["MODEL_PATH"] = os.path.relpath(relative["MODEL_PATH"], settings.PROJECT_FOLDER)
    assert {**relative, "API_KEYS": ""} == start.DEFAULTS


def test_the_environment_wins_and_nothing_means_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.env").write_text("LISTEN_PORT=1\nLISTEN_IP=\nEMBED_MODEL=a\nMODEL_PATH=b\n")
    for name in start.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAYFLY_ENV", str(tmp_path / "my.env"))
    monkeypatch.setenv("EMBED_MODEL", "c")
    monkeypatch.setenv("MODEL_PATH", " ")
    found = start.read_settings()
    assert {name: found[name] for name in ("LISTEN_PORT", "LISTEN_IP", "EMBED_MODEL", "MODEL_PATH")} == {
        "LISTEN_PORT": "1", "LISTEN_IP": "127.0.0.1", "EMBED_MODEL": "c", "MODEL_PATH": "b"}


def test_the_first_env_file_is_the_example_with_a_key_for_its_owner_alone(fresh_tree: Tree) -> None:
    first = load_start(fresh_tree.folder)
    first.write_first_env()
    written = (fresh_tree.folder / ".env").read_text(encoding="utf-8")
    key = re.search(r"(?m)^API_KEYS=([A-Za-z0-9_-]{43})$", written)
    assert key
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert written.replace(key[0], "API_KEYS=") == example
    assert settings.parse(first.read_env_file(str(fresh_tree.folder / ".env"))).api_keys == (key[1],)
    if os.name != "nt":
        assert stat.S_IMODE((fresh_tree.folder / ".env").stat().st_mode) == 0o600
    first.write_first_env()
    assert (fresh_tree.folder / ".env").read_text(encoding="utf-8") == written
    assert [path.name for path in fresh_tree.folder.iterdir() if ".part" in path.name] == []


def test_every_installation_gets_another_key(fresh_tree: Tree, tmp_path: Path) -> None:
    other = Tree.make(tmp_path / "other")
    keys = set()
    for tree in (fresh_tree, other):
        module = load_start(tree.folder)
        module.write_first_env()
        keys.add(module.read_env_file(str(tree.folder / ".env"))["API_KEYS"])
    assert len(keys) == 2


@pytest.mark.parametrize("example", ["", "# nothing\nPORT=1", "  # API_KEYS=\r\nA=1\r\n"])
def test_an_example_without_the_line_gets_one(example: str, fresh_tree: Tree) -> None:
    (fresh_tree.folder / ".env.example").write_bytes(example.encode())
    module = load_start(fresh_tree.folder)
    module.write_first_env()
    assert (fresh_tree.folder / ".env").read_bytes().startswith(example.encode())
    assert len(module.read_env_file(str(fresh_tree.folder / ".env"))["API_KEYS"]) == 43


@pytest.mark.parametrize("content", ["", "API_KEYS=\n", "API_KEYS=my-own-key\n"])
def test_an_env_file_that_is_there_is_left_as_it_is(content: str, fresh_tree: Tree) -> None:
    path = fresh_tree.write(".env", content)
    load_start(fresh_tree.folder).write_first_env()
    assert path.read_text() == content


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_in_the_place_of_the_env_file_is_not_followed(fresh_tree: Tree, tmp_path: Path) -> None:
    (fresh_tree.folder / ".env").symlink_to(tmp_path / "somewhere")
    load_start(fresh_tree.folder).write_first_env()
    assert not (tmp_path / "somewhere").exists()


def test_a_start_that_loses_the_race_for_the_first_env_file_keeps_the_winner_s(
    fresh_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_start(fresh_tree.folder)
    draft = fresh_tree.write("draft", "API_KEYS=loser\n")
    target = fresh_tree.write(".env", "API_KEYS=winner\n")
    module.publish(str(draft), str(target))
    assert target.read_text() == "API_KEYS=winner\n"


def test_no_env_file_is_made_where_mayfly_env_names_another(fresh_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_ENV", str(fresh_tree.folder / "mine.env"))
    load_start(fresh_tree.folder).write_first_env()
    assert not (fresh_tree.folder / ".env").exists()


def test_what_is_listened_on_together_is_what_the_service_listens_on() -> None:
    assert start.TOGETHER == listening._TOGETHER
