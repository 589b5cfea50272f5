"""Download a model from gpt4all's published list.

The list names each file's size and MD5. A download goes to "<name>.part", which is kept when the connection is
lost and continued by the next call; only a complete file with the right sum gets the final name. While somebody
downloads it, the ".part" is locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple
from urllib.parse import urljoin

from mayfly.compat.files import lock_now
from mayfly.engines.backends import GGUF
from mayfly.errors import ModelUnavailable
from mayfly.models import nano, store

if TYPE_CHECKING:  # loaded only when something is really downloaded
    import requests

# In MODEL_PATH: the list as it was last read, so that an absent model's name is known without the network.
_KEPT_LIST = ".list.json"

#: Called with what is being done, bytes done, bytes of the whole; what it raises ends the download.
Report = Callable[[Literal["downloading", "verifying"], int, int], None]

# Seconds to connect, and between two pieces of an answer.
_TIMEOUT = (10, 60)
_PIECE = 1 << 16
# A lost connection is taken up again at once, this often in a row without a byte of progress.
_TRIES = 3


class Entry(NamedTuple):
    """A file of the list: its name, address, size in bytes and MD5 in hexadecimal."""

    filename: str
    url: str
    size: int
    md5: str


class NotListed(ModelUnavailable):
    """gpt4all's list has no model of that name."""


class _Interrupted(Exception):
    """The connection was lost; the message says how."""


def pull(name: str, model_path: Path, *, list_url: str, keep_list: bool = False,
         report: Report | None = None) -> Path:
    """Download the model `name` (with or without ".gguf") into `model_path`; nothing if it is there already.

    Args:
        list_url: where the list is.
        keep_list: also keep the list, for `listed`.
        report: told of the progress. Without it a progress bar goes to stderr, if that is a terminal.

    Raises:
        NotListed: the list doesn't have that name.
        ModelUnavailable: the network or the disk fails, somebody else downloads the same file, or the file isn't
            what the list says. A partial download stays as "<name>.part"; one with a wrong sum is removed.
    """
    with contextlib.suppress(ModelUnavailable):
        return store.find(model_path, name)
    if store.file_name(name) == nano.FILE_NAME:
        raise NotListed(nano.ORIGIN)
    models = _read_list(list_url)
    entry = _entry(name, models, list_url)
    final = model_path / entry.filename
    part = model_path / (entry.filename + ".part")
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        if keep_list:
            _keep(model_path, models)
        _check_room(part, entry)
        with _locked(part):
            _download(entry, part, report)
            _check_sum(entry, part, report)
            with part.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(part, final)
    except OSError as exc:
        raise ModelUnavailable(
            f"{entry.filename} can't be written to MODEL_PATH: {exc.strerror or exc}"
        ) from exc
    return final


def listed(name: str, model_path: Path) -> int | None:
    """Return the size in bytes of a model in the list that was kept by an earlier `pull`.

    Returns:
        None if it isn't in there; 0 if no list was kept.
    """
    try:
        models = json.loads((model_path / _KEPT_LIST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return 0
    entry = _entries(models, "").get(store.file_name(name))
    return entry.size if entry is not None else None


def _keep(model_path: Path, models: Any) -> None:
    temporary = model_path / f"{_KEPT_LIST}.{os.getpid()}"
    temporary.write_text(json.dumps(models))
    os.replace(temporary, model_path / _KEPT_LIST)


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


def _read_list(list_url: str) -> Any:
    import requests

    try:
        answer = requests.get(list_url, timeout=_TIMEOUT)
        answer.raise_for_status()
        return answer.json()
    except (requests.RequestException, ValueError) as exc:
        raise ModelUnavailable(f"gpt4all's list of models can't be read: {_short(exc)}") from exc


def _entries(models: Any, list_url: str) -> dict[str, Entry]:
    found = [_parse(model, list_url) for model in (models if isinstance(models, list) else [])]
    return {entry.filename: entry for entry in found if entry is not None}


def _entry(name: str, models: Any, list_url: str) -> Entry:
    """Look `name` up in the list that came from `list_url`."""
    known = _entries(models, list_url)
    if store.file_name(name) not in known:
        names = ", ".join(sorted(known)) or "nothing"
        raise NotListed(f"gpt4all's list has no model {name[:100]!r}, it has: {names}")
    return known[store.file_name(name)]


def _parse(model: Any, list_url: str) -> Entry | None:
    """Return an entry of the list, or None for one that can't be downloaded safely."""
    try:
        filename, md5, size = model["filename"], model["md5sum"], int(model["filesize"])
        url = model.get("url") or urljoin(list_url, "gguf/" + filename)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if not all(isinstance(text, str) for text in (filename, md5, url)):
        return None
    plain = filename.endswith(GGUF) and not set(filename) & set('/\\:\0') and not filename.startswith(".")
    return Entry(filename, url, size, md5.lower()) if plain and size > 0 else None


def _check_room(part: Path, entry: Entry) -> None:
    missing = entry.size - _size(part)
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise ModelUnavailable(
            f"{entry.filename} needs {missing / 1e9:.1f} GB more in MODEL_PATH, where {free / 1e9:.1f} GB are free"
        )


def _download(entry: Entry, part: Path, report: Report | None) -> None:
    """Bring `part` to the entry's size, from wherever it is now."""
    from tqdm import tqdm

    tries = _TRIES
    have = _size(part)
    if have > entry.size:  # of another version of the file
        os.truncate(part, 0)
        have = 0
    best = have
    with tqdm(total=entry.size, unit="B", unit_scale=True, desc=entry.filename,
              disable=True if report else None) as progress:
        while have != entry.size:
            try:
                _continue(entry, part, have, progress, report)
            except _Interrupted as exc:
                # Measured by the furthest point so far: a server that begins anew each time makes no progress.
                tries = _TRIES if _size(part) > best else tries - 1
                if tries == 0:
                    raise ModelUnavailable(
                        f"the download of {entry.filename} broke off after {_size(part)} of {entry.size} bytes "
                        f"({exc}): the same command continues it"
                    ) from exc
            have = _size(part)
            best = max(best, have)


def _continue(entry: Entry, part: Path, have: int, progress: Any, report: Report | None) -> None:
    """Append to `part` what the server sends from byte `have` on."""
    import requests

    # Not compressed: the sizes and the range are those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(entry.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416:  # the server's file ends before `have`
                part.unlink()
                raise ModelUnavailable(
                    f"{entry.filename} isn't the file of the list: it has less than {entry.size} bytes"
                )
            if answer.status_code not in (200, 206):
                raise ModelUnavailable(
                    f"{entry.filename} can't be downloaded: {entry.url} answers {answer.status_code} {answer.reason}"
                )
            continued = answer.status_code == 206 and _starts_at(answer, have)
            with _open(part, "ab" if continued else "wb") as stream:
                progress.n = have if continued else 0
                for piece in answer.iter_content(_PIECE):
                    if report:
                        report("downloading", stream.tell(), entry.size)
                    stream.write(piece)
                    progress.update(len(piece))
                    if stream.tell() > entry.size:
                        break
        if _size(part) < entry.size:
            raise _Interrupted("the server sent less than the whole file")
        if _size(part) > entry.size:
            part.unlink()
            raise ModelUnavailable(f"{entry.filename} isn't the file of the list: it has more than {entry.size} bytes")
    except requests.RequestException as exc:
        raise _Interrupted(_short(exc)) from exc


def _starts_at(answer: requests.Response, have: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check_sum(entry: Entry, part: Path, report: Report | None) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("rb") as stream:
        while block := stream.read(1 << 20):
            if report:
                report("verifying", stream.tell(), entry.size)
            digest.update(block)
    if digest.hexdigest() != entry.md5:
        part.unlink()
        raise ModelUnavailable(
            f"{entry.filename} was downloaded with MD5 {digest.hexdigest()} instead of {entry.md5} and was removed: "
            "the same command starts anew"
        )


def _short(exc: Exception) -> str:
    """Return an exception's class and the innermost reason, without the objects that requests prints."""
    reason = exc
    while reason.args and isinstance(reason.args[0], Exception):
        reason = reason.args[0]
    text = getattr(reason, "reason", None) or (reason.args[0] if reason.args else reason)
    return f"{type(exc).__name__}: {text}"
