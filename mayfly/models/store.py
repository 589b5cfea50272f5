"""Find model files by name.

A model's name is its path below MODEL_PATH, with "/" between the parts and with or without ".gguf". A model that is
split has the name of its first part, or that without "-00001-of-00003". Nothing outside MODEL_PATH has a name, whatever
links or dots are used to get there, with one exception: Hugging Face's cache keeps each file under its sum in a folder
`blobs`, and in `snapshots/<revision>` a link to it under the file's own name. So MODEL_PATH may be such a folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from mayfly import places
from mayfly.engines.backends import GGUF, suffix_of
from mayfly.errors import ModelUnavailable
from mayfly.models import parts

# Of Hugging Face's cache.
_BLOBS, _SNAPSHOTS = "blobs", "snapshots"
# A name travels in one write to a pipe, which holds 4,096 bytes; a character may take 6 of them.
_LONGEST_NAME = 500


class ModelAbsent(ModelUnavailable):
    """The name is a good one, but there is no such file."""


def find(model_path: Path, name: str) -> Path:
    """Return the file of the model `name` below `model_path`, by the name that it has there: links aren't resolved.

    Raises:
        ModelAbsent: there is no such file.
        ModelUnavailable: it isn't below `model_path` or isn't a file. The message says what to do.
    """
    relative = _relative(name)
    path = _locate(model_path, relative) or _beside(model_path, relative)
    if path is None:
        raise ModelAbsent(_absent(model_path, name))
    return path


def listing(model_path: Path) -> list[str]:
    """Return the names of the models below `model_path`, sorted, but for those that are `unlisted`.

    Those that `find` refuses are among them, such as links that lead away. Of a model that is split it is the first
    part's name, whether or not that one is there.
    """
    names = set()
    for name in _files(model_path):
        if not _objection(name):
            of = parts.part(PurePosixPath(name).name)
            names.add(PurePosixPath(name).with_name(of.name(1)).as_posix() if of else name)
    return sorted(names)


def unlisted(model_path: Path) -> list[tuple[bool, str]]:
    """Return for each file that would be a model but for its name whether it is hidden, on purpose or by a system
    (macOS puts `._NAME` beside files), and a sentence that says why it isn't listed."""
    return [(PurePosixPath(name).name.startswith("."), f"{quoted(name)} in MODEL_PATH isn't listed: {why}")
            for name in sorted(_files(model_path)) if (why := _objection(name))]


def folders(model_path: Path) -> dict[str, int]:
    """Return the folders that `listing` looks into, each with the time at which a name came or went there (ns)."""
    found = {}
    for folder, _, _ in _walk(model_path):
        with contextlib.suppress(OSError):
            found[folder] = os.stat(folder).st_mtime_ns
    return found


def unchanged(known: dict[str, int]) -> bool:
    """Tell whether no name has come or gone since `folders` returned this."""
    try:
        return all(os.stat(folder).st_mtime_ns == when for folder, when in known.items())
    except OSError:
        return False


def remove(model_path: Path, path: Path) -> None:
    """Delete the file that opens a model, and its other parts; of a link the link alone.

    Raises:
        ModelUnavailable: one of them is a link that leaves MODEL_PATH. Nothing is deleted then.
        OSError: the system refuses.
    """
    there = [file for file in parts.files(path) if os.path.lexists(file)]
    root = model_path.resolve()
    for file in there:
        try:
            inside = file.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise ModelUnavailable(f"{quoted(file.name)} is a link that leaves MODEL_PATH")
    for file in there:
        file.unlink(missing_ok=True)


def _files(model_path: Path) -> Iterator[str]:
    """Yield the paths of the files below `model_path` that end as models do."""
    for folder, _, files in _walk(model_path):
        for file in files:
            if suffix_of(file):
                yield Path(folder, file).relative_to(model_path).as_posix()


def _objection(name: str) -> str:
    """Return why a file of this name isn't listed, or ""."""
    if PurePosixPath(name).name.startswith("."):
        return "names that begin with a dot are hidden"
    if len(name) > _LONGEST_NAME:
        return f"its name has more than {_LONGEST_NAME} characters: rename it"
    return "" if is_name(name) else "its name has characters that can't be sent or shown everywhere: rename it"


def _walk(model_path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for folder, inside, files in os.walk(model_path):
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield folder, inside, files


def _locate(model_path: Path, relative: str) -> Path | None:
    """Return the file at `relative` below `model_path`, or None if there is nothing."""
    path = model_path / relative
    try:
        file, root = path.resolve(strict=True), model_path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError) as exc:
        if path.is_symlink():
            raise ModelUnavailable(f"the model {quoted(relative)} is a link to a file that isn't there") from exc
        return None
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(exc, "strerror", None) or "its links go in a circle"
        raise ModelUnavailable(f"the model {quoted(relative)} can't be opened: {reason}") from exc
    if not (file.is_relative_to(root) or file.parent in _blob_folders(root)):
        raise ModelUnavailable(
            f"the model {quoted(relative)} is a link that leaves MODEL_PATH: put the file itself there, "
            "or set MODEL_PATH to its folder"
        )
    if not file.is_file():
        raise ModelUnavailable(f"the model {quoted(relative)} isn't a file")
    return path


def _beside(model_path: Path, relative: str) -> Path | None:
    """Return the first part of a model that is split, whether it is named with its number or without, or else the file
    whose ending is spelt in another way (.GGUF); None if neither is there."""
    name = PurePosixPath(relative)
    try:
        beside = sorted(os.listdir((model_path / relative).parent))
    except (OSError, ValueError):
        return None
    for of in filter(None, map(parts.part, beside)):
        if name.name in (of.name(1), of.model + GGUF):
            first = name.with_name(of.name(1)).as_posix()
            path = _locate(model_path, first)
            if path is None:
                raise ModelUnavailable(f"the model {quoted(relative)} can't be used: its part 1 of {of.count}, "
                                       f"{of.name(1)[:200]}, is missing")
            return path
    suffix = suffix_of(name.name)
    same = (each for each in beside if each.removesuffix(suffix_of(each)) == name.name.removesuffix(suffix)
            and suffix_of(each).lower() == suffix.lower())
    other = next(same, None)
    return None if other is None else _locate(model_path, name.with_name(other).as_posix())


def _blob_folders(root: Path) -> list[Path]:
    """Return where links may lead out of MODEL_PATH: to the files that Hugging Face's cache keeps for this folder."""
    beside = [root.parent]
    if _SNAPSHOTS in root.parts:
        beside += [folder.parent for folder in (root, *root.parents) if folder.name == _SNAPSHOTS][:1]
    return [folder / _BLOBS for folder in beside]


def is_name(name: str) -> bool:
    """Tell whether a name is one that a model can have: that of a file below a folder."""
    try:
        return bool(_relative(name))
    except ModelUnavailable:
        return False


def _relative(name: str) -> str:
    """Return the relative path that `name` means; ModelUnavailable if it can't be a model's name."""
    if not name.strip():
        raise ModelUnavailable("no model is named: set MODEL_NAME or EMBED_MODEL to a file in MODEL_PATH")
    # Judged by both systems' rules, so that a name means the same on each.
    windows = PureWindowsPath(name)
    outside = name.startswith(("/", "\\")) or windows.drive or ".." in windows.parts
    if outside or not name.isprintable() or not PurePosixPath(name).name:
        raise ModelUnavailable(f"{quoted(name)} isn't the name of a model: it has to be a file in MODEL_PATH")
    return file_name(name)


def file_name(name: str) -> str:
    """Return a model's name with its ending."""
    return name if suffix_of(name) else name + GGUF


def _absent(model_path: Path, name: str) -> str:
    if not model_path.is_dir():
        return f"there is no model {quoted(name)}, for the folder of models doesn't exist: check MODEL_PATH"
    names = listing(model_path)
    # An odd name isn't to stand in a command that somebody copies.
    pulled = name if is_plain(name) else "NAME"
    there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    return (
        f"there is no model {quoted(name)} in MODEL_PATH, which holds {there}: "
        f"put the file there or fetch it with '{places.COMMAND} pull {pulled}'"
    )


def is_plain(name: str) -> bool:
    """Tell whether a name that may come from a client can stand in a command."""
    return re.fullmatch(r"[A-Za-z0-9._/:@+-]{1,100}", name) is not None


def quoted(name: str) -> str:
    """Return `name` for a message: quoted and of a bounded length, for it may come from a client."""
    return repr(name if len(name) <= 100 else name[:97] + "...")
