"""The one way by which a model's files come from the network into a folder.

Each goes to "<name>.part", which is kept when the connection is lost, and continued by the next call. Only when all
files of the model are complete and have the right sums do they get their final names. While somebody downloads one, its
".part" is locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from mayfly.compat.files import lock_now
from mayfly.engines.backends import GGUF
from mayfly.errors import ModelUnavailable

if TYPE_CHECKING:  # loaded only when something is really downloaded
    import requests

Doing = Literal["downloading", "verifying"]
#: Called with what is being done to a model's files, the first one's name, bytes done, and bytes of all of them; what
#: it raises ends the download.
Report = Callable[[Doing, str, int, int], None]

# Seconds to connect, and between two pieces of an answer.
TIMEOUT = (10, 60)
_PIECE = 1 << 16
# A lost connection is taken up again at once, this often in a row without a byte of progress.
_TRIES = 3


@dataclass(frozen=True)
class File:
    """A file to be downloaded.

    Attributes:
        name: in the folder.
        size: in bytes.
        algorithm, sum: what its content has to come to, in hexadecimal.
        headers: sent with the request. Where that is led to another host, it goes on without `Authorization`.
    """

    name: str
    url: str
    size: int
    algorithm: Literal["md5", "sha256"]
    sum: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class NotOffered(ModelUnavailable):
    """Where the model was looked for there is none of that name."""


def is_plain(name: object) -> bool:
    """Tell whether a name from elsewhere is that of a model file in a folder, and leads nowhere else."""
    return (isinstance(name, str) and name.endswith(GGUF) and not name.startswith(".") and name.isprintable()
            and not set(name) & set('/\\:'))


def fetch(files: Sequence[File], folder: Path, report: Report | None = None) -> Path:
    """Download the files of a model into a folder, as far as they aren't there; return the first one's path.

    Args:
        report: told of the progress. Without it a progress bar goes to stderr, if that is a terminal.

    Raises:
        ModelUnavailable: the network or the disk fails, somebody else downloads the same file, a file isn't what it was
            said to be, or another one has its name. A partial download stays as "<name>.part"; one with a wrong sum is
            removed.
    """
    first = files[0].name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            show = _Shown(files, report or held.enter_context(_bar()))
            missing = [file for file in files if not _is_there(file, folder / file.name, show)]
            parts = {file.name: folder / f"{file.name}.part" for file in missing}
            _check_room(first, folder, sum(file.size - _size(parts[file.name]) for file in missing))
            for part in parts.values():
                held.enter_context(_locked(part))
            for file in missing:
                _download(file, parts[file.name], show)
            for file in missing:
                _check_sum(file, parts[file.name], show)
            # The first part of a model that is split comes last: by its name the model is asked for.
            for file in reversed(missing):
                os.replace(parts[file.name], folder / file.name)
    except OSError as exc:
        raise ModelUnavailable(f"{first} can't be written to MODEL_PATH: {exc.strerror or exc}") from exc
    return folder / first


def short(exc: Exception) -> str:
    """Return an exception's class and the innermost reason, without the objects that HTTP libraries print."""
    reason = exc
    while reason.args and isinstance(reason.args[0], Exception):
        reason = reason.args[0]
    text = getattr(reason, "reason", None) or (reason.args[0] if reason.args else reason)
    return f"{type(exc).__name__}: {text}"


class _Interrupted(Exception):
    """The connection was lost; the message says how."""


class _Shown:
    """How far the files of a model are together."""

    def __init__(self, files: Sequence[File], report: Report) -> None:
        self._first = files[0].name
        self._report = report
        self._before = {file.name: sum(one.size for one in files[:place]) for place, file in enumerate(files)}
        self._total = sum(file.size for file in files)

    def __call__(self, doing: Doing, file: File, done: int) -> None:
        self._report(doing, self._first, self._before[file.name] + done, self._total)


@contextlib.contextmanager
def _bar() -> Iterator[Report]:
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None) as bar:
        def show(doing: Doing, name: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(f"{name}: {doing}", refresh=False)
            bar.update(done - bar.n)

        yield show


def _is_there(file: File, final: Path, show: _Shown) -> bool:
    """Tell whether the file is there already; ModelUnavailable if another one has its name."""
    if not os.path.lexists(final):
        return False
    if _size(final) != file.size or _sum(file, final, show) != file.sum:
        raise ModelUnavailable(
            f"MODEL_PATH has another {file.name} already: delete that or move it away, and pull again")
    return True


def _check_room(name: str, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise ModelUnavailable(
            f"{name} needs {missing / 1e9:.1f} GB more in MODEL_PATH, where {free / 1e9:.1f} GB are free")


def _open(part: Path, mode: Literal["ab", "wb"]) -> BinaryIO:
    """Open `part` for writing; a link in its place isn't followed out of the folder."""
    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)

    return open(part, mode, opener=opener)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the lock of `part`; it must not be removed and made anew meanwhile. An empty one is removed at the end."""
    with _open(part, "ab") as stream:
        if not lock_now(stream):
            raise ModelUnavailable(f"{part.name.removesuffix('.part')} is being downloaded already")
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_size == 0:
                    part.unlink()


def _download(file: File, part: Path, show: _Shown) -> None:
    """Bring `part` to the file's size, from wherever it is now."""
    tries = _TRIES
    have = _size(part)
    if have > file.size:  # of another version of the file
        os.truncate(part, 0)
        have = 0
    best = have
    while have != file.size:
        try:
            _continue(file, part, have, show)
        except _Interrupted as exc:
            # Measured by the furthest point so far: a server that begins anew each time makes no progress.
            tries = _TRIES if _size(part) > best else tries - 1
            if tries == 0:
                raise ModelUnavailable(
                    f"the download of {file.name} broke off after {_size(part)} of {file.size} bytes "
                    f"({exc}): the same command continues it") from exc
        have = _size(part)
        best = max(best, have)


def _continue(file: File, part: Path, have: int, show: _Shown) -> None:
    """Append to `part` what the server sends from byte `have` on."""
    import requests

    # Not compressed: the sizes and the range are those of the file.
    headers = {**file.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # the server's file ends before `have`
                part.unlink()
                raise ModelUnavailable(
                    f"{file.name} isn't the file that was offered: it has less than {file.size} bytes")
            if answer.status_code not in (200, 206):
                raise ModelUnavailable(
                    f"{file.name} can't be downloaded: {file.url} answers {answer.status_code} {answer.reason}")
            continued = answer.status_code == 206 and _starts_at(answer, have)
            with _open(part, "ab" if continued else "wb") as stream:
                for piece in answer.iter_content(_PIECE):
                    show("downloading", file, stream.tell())
                    stream.write(piece)
                    if stream.tell() > file.size:
                        break
        if _size(part) < file.size:
            raise _Interrupted("the server sent less than the whole file")
        if _size(part) > file.size:
            part.unlink()
            raise ModelUnavailable(f"{file.name} isn't the file that was offered: it has more than {file.size} bytes")
    except requests.RequestException as exc:
        raise _Interrupted(short(exc)) from exc


def _starts_at(answer: requests.Response, have: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sum(file: File, path: Path, show: _Shown) -> str:
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            show("verifying", file, stream.tell())
            digest.update(block)
    return digest.hexdigest()


def _check_sum(file: File, part: Path, show: _Shown) -> None:
    """Check that `part` is the file, and have it on the disk."""
    found = _sum(file, part, show)
    if found != file.sum:
        part.unlink()
        raise ModelUnavailable(
            f"{file.name} was downloaded with {file.algorithm.upper()} {found} instead of {file.sum} and was removed: "
            "the same command starts anew")
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
