"""What `embed-file` reads and writes: a file of texts, and one of as many vectors, which can be gone on with."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from mayfly.compat.files import lock_file, replace_file
from mayfly.errors import SettingError

#: Texts that are computed at once, at most: Ray's work is for each row of them.
ROW_TEXTS = 4096
#: What a vector is made of.
FLOAT = np.dtype("<f4")


class Texts:
    """The texts of a file: a line each, or of a .jsonl file a JSON string each, or the "text" of an object.

    Attributes:
        count: how many there are.
        digest: of the file.

    Raises:
        SettingError: it can't be read, or a line of it is no text.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count = 0
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                for self.count, line in enumerate(file, 1):
                    digest.update(line)
                    self._text(line, self.count)
        except OSError as exc:
            raise SettingError(f"{path} can't be read ({exc.strerror})") from exc
        self.digest = digest.hexdigest()

    def after(self, done: int, size: int, characters: int) -> Iterator[list[str]]:
        """Yield the texts but for the first `done`, at most `size` at a time, and fewer as soon as they are so long."""
        with self._path.open("rb") as file:
            found, length = [], 0
            for number, line in enumerate(itertools.islice(file, done, None), done + 1):
                found.append(self._text(line, number))
                length += len(found[-1])
                if len(found) == size or length >= characters:
                    yield found
                    found, length = [], 0
            if found:
                yield found

    def _text(self, line: bytes, number: int) -> str:
        """Raises:
            SettingError: it is none.
        """
        try:
            if self._path.suffix not in (".jsonl", ".ndjson"):
                return line.decode().rstrip("\r\n")
            read = orjson.loads(line)
        except ValueError as exc:
            form = "UTF-8" if isinstance(exc, UnicodeDecodeError) else "JSON"
            raise SettingError(f"line {number} of {self._path} is not {form}") from exc
        text = read.get("text") if isinstance(read, dict) else read
        if not isinstance(text, str):
            raise SettingError(f'line {number} of {self._path} is neither a string nor an object with a "text"')
        return text


class Vectors:
    """A file for numpy (.npy): float32, a row for each text in their order. Until it is whole it has another name, and
    beside it is a file that says what it is of. To be closed.

    Attributes:
        done: rows that are there.
        dimensions: numbers a row; 0 until that is known.

    Raises:
        SettingError: it can't be written, is there already, or was begun with other texts or another model.
    """

    def __init__(self, path: Path, texts: Texts, model: str) -> None:
        self._path = path
        self._part, self._about = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        self._of = {"texts": texts.count, "digest": texts.digest, "model": model}
        self.done = self.dimensions = 0
        try:
            if path.exists():
                raise SettingError(f"{path} is there already")
            lock = lock_file(path.with_name(f".{path.name}.lock"))
            if lock is None:
                raise SettingError(f"{path} is being written by another process")
            self._lock = lock
            self._file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            if self._about.exists():
                self._go_on()
        except OSError as exc:
            raise SettingError(f"{path} can't be written ({exc.strerror})") from exc

    def add(self, vectors: bytes, dimensions: int) -> None:
        """Add rows.

        Raises:
            OSError: they can't be written.
        """
        if not self.dimensions:
            self.dimensions = dimensions
            self._file.truncate(0)
            self._file.write(self._head())
            replace_file(self._about, json.dumps({**self._of, "dimensions": dimensions}))
        self._file.write(vectors)
        self.done += len(vectors) // (FLOAT.itemsize * self.dimensions)

    def finish(self) -> None:
        """Give it its name.

        Raises:
            OSError: it can't be written.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._part, self._path)
        self._about.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is there."""
        self._file.close()
        self._path.with_name(f".{self._path.name}.lock").unlink(missing_ok=True)
        self._lock.close()

    def _go_on(self) -> None:
        """Keep the rows that are whole."""
        about = json.loads(self._about.read_text())
        self.dimensions = about.pop("dimensions")
        if about != self._of:
            raise SettingError(f"{self._part} was begun with other texts or another model: remove it, or take another "
                               "name")
        head, row = len(self._head()), FLOAT.itemsize * self.dimensions
        self.done = max(0, os.path.getsize(self._part) - head) // row
        self._file.truncate(head + self.done * row)
        self._file.seek(0)
        self._file.write(self._head())
        self._file.seek(0, os.SEEK_END)

    def _head(self) -> bytes:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": FLOAT.str, "fortran_order": False,
                                                    "shape": (self._of["texts"], self.dimensions)})
        return head.getvalue()
