"""The sentinel file, and what odd things in its place do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mayfly.wire import sentinel
from mayfly.wire.sentinel import Sentinel


def test_a_sentinel_is_written_touched_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "completion-1.watchdog"
    mine = Sentinel(path)
    mine.write({"pid": 7})
    assert sentinel.read(path) == {"pid": 7}
    os.utime(path, ns=(0, 0))
    mine._last_beat = 0.0
    mine.beat()
    assert sentinel.touched(path) != 0
    mine.remove()
    assert sentinel.read(path) is None
    assert sentinel.touched(path) is None
    mine.remove()  # twice is no error
    assert list(tmp_path.iterdir()) == []


def test_what_a_sentinel_says_is_overwritten_in_place_and_put_back_where_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "embedding.watchdog"
    mine = Sentinel(path)
    mine.write({"pid": 7, "generation": 1})
    inode = path.stat().st_ino
    for facts in ({"pid": 7, "request": {"id": "a" * 100}}, {"pid": 7}, {"pid": 7, "request": {"id": "b" * 300}}):
        mine.write(facts)
        assert (sentinel.read(path), path.stat().st_ino) == (facts, inode)
    for harm in (lambda: path.unlink(), lambda: path.write_text("x"), lambda: os.replace(path, tmp_path / "elsewhere")):
        harm()
        mine.write({"pid": 7, "again": True})
        assert sentinel.read(path) == {"pid": 7, "again": True}
    mine.remove()
    mine.write({"pid": 7})
    assert sentinel.read(path) == {"pid": 7}


def test_a_beat_puts_back_a_sentinel_that_somebody_removed(tmp_path: Path) -> None:
    path = tmp_path / "completion.watchdog"
    mine = Sentinel(path)
    mine.write({"pid": 7})
    path.unlink()
    mine._last_beat = 0.0
    mine.beat()
    assert sentinel.read(path) == {"pid": 7}


def test_a_symlink_in_a_sentinels_place_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"pid": 1}')
    os.utime(secret, ns=(0, 0))
    path = tmp_path / "completion.watchdog"
    path.symlink_to(secret)
    assert sentinel.read(path) == {}
    mine = Sentinel(path)
    mine._last_beat = 0.0
    mine.beat()
    assert secret.stat().st_mtime_ns == 0
    mine.write({"pid": 2})
    assert not path.is_symlink()
    assert secret.read_text() == '{"pid": 1}'


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{" * 100_000, b"null", b'{"pid": '])
def test_garbage_reads_as_an_empty_sentinel(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "completion.watchdog"
    path.write_bytes(content)
    assert sentinel.read(path) == {}


def test_a_sweep_removes_what_an_earlier_run_left_and_nothing_else(tmp_path: Path) -> None:
    for name in ("completion.watchdog", "completion-9.watchdog", ".completion-9.watchdog.123", "watchdog.lock",
                 "state.json", "model2.sock"):
        (tmp_path / name).touch()
    (tmp_path / "embedding.watchdog").symlink_to("/nowhere")
    assert sentinel.sweep(tmp_path) == [".completion-9.watchdog.123", "completion-9.watchdog", "completion.watchdog",
                                        "embedding.watchdog", "model2.sock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "watchdog.lock"]
