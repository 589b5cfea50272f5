"""What `embed-file` reads and writes; that all of a file's texts get vectors is in tests/service/test_on_ray.py."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mayfly.errors import SettingError
from mayfly.on_ray.files import Texts, Vectors


def rows(*numbers: float) -> bytes:
    return np.array([[number] * 3 for number in numbers], "<f4").tobytes()


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"a\nb\n\nd\r\ne")
    return Texts(path)


def test_a_line_is_a_text(texts: Texts) -> None:
    assert texts.count == 5
    assert list(texts.after(1, 3, 9)) == [["b", "", "d"], ["e"]]
    assert list(texts.after(0, 3, 2)) == [["a", "b"], ["", "d", "e"]]
    assert list(texts.after(5, 3, 9)) == []


@pytest.mark.parametrize(("line", "fault"), [("{}", 'with a "text"'), ("7", "neither a string"), ("{", "not JSON")])
def test_a_line_of_json_that_is_no_text_is_named(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(f'"a"\n{{"text": "b"}}\n{line}\n')
    with pytest.raises(SettingError, match=rf"line 3 of .*{fault}"):
        Texts(path)


def test_what_is_whole_is_kept_and_nothing_else(texts: Texts, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    with contextlib.closing(Vectors(output, texts, "model")) as vectors:
        assert vectors.done == 0
        vectors.add(rows(0, 1), 3)
        vectors.add(rows(2)[:7], 3)  # as if it had been killed
    with contextlib.closing(Vectors(output, texts, "model")) as vectors:
        assert vectors.done == 2
        with pytest.raises(SettingError, match="another process"):
            Vectors(output, texts, "model")
        vectors.add(rows(2, 3, 4), 3)
        vectors.finish()
    assert np.load(output).tolist() == [[number] * 3 for number in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "vectors.npy"]
    with pytest.raises(SettingError, match="there already"):
        Vectors(output, texts, "model")


def test_other_texts_and_another_model_are_not_gone_on_with(texts: Texts, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    with contextlib.closing(Vectors(output, texts, "model")) as vectors:
        vectors.add(rows(0), 3)
    with pytest.raises(SettingError, match="begun with other texts"):
        Vectors(output, texts, "another")
    (tmp_path / "texts.txt").write_text("a\nb\n\nd\nf")
    with pytest.raises(SettingError, match="begun with other texts"):
        Vectors(output, Texts(tmp_path / "texts.txt"), "model")


def test_without_ray_it_says_how_to_get_it(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['ray'] = None; from mayfly.__main__ import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "texts.txt").touch()
    said = subprocess.run([sys.executable, "-c", hidden, "embed-file", tmp_path / "texts.txt", tmp_path / "out.npy"],
                          capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 1 and said.stderr.startswith("mayfly: embed-file needs Ray"), said.stderr
