"""Find model files by name.

A model's name is its path below MODEL_PATH, with "/" between the parts and with or without ".gguf". Nothing
outside MODEL_PATH has a name, whatever links or dots are used to get there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from mayfly.errors import ModelUnavailable

GGUF = ".gguf"
# A script drives the scripted engine instead of a network.
SCRIPT = ".script.json"


class ModelAbsent(ModelUnavailable):
    """The name is a good one, but there is no such file."""


def find(model_path: Path, name: str) -> Path:
    """Return the file of the model `name` below `model_path`, with links resolved.

    Raises:
        ModelAbsent: there is no such file.
        ModelUnavailable: it isn't below `model_path` or isn't a file. The message says what to do.
    """
    path = _locate(model_path, _relative(name))
    if path is None:
        raise ModelAbsent(_absent(model_path, name))
    return path


def listing(model_path: Path) -> list[str]:
    """Return the names of the files below `model_path` that `find` accepts, sorted; hidden ones are left out."""
    names = []
    for folder, folders, files in os.walk(model_path):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for file in files:
            if not file.startswith(".") and file.endswith((GGUF, SCRIPT)):
                name = Path(folder, file).relative_to(model_path).as_posix()
                with contextlib.suppress(ModelUnavailable):  # a link that leads away
                    if _locate(model_path, _relative(name)):
                        names.append(name)
    return sorted(names)


def _locate(model_path: Path, relative: str) -> Path | None:
    """Return the file at `relative` below `model_path`, or None if there is nothing."""
    try:
        path = (model_path / relative).resolve(strict=True)
        root = model_path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(exc, "strerror", None) or "its links go in a circle"
        raise ModelUnavailable(f"the model {_shown(relative)} can't be opened: {reason}") from exc
    if not path.is_relative_to(root):
        raise ModelUnavailable(
            f"the model {_shown(relative)} is a link that leaves MODEL_PATH: put the file itself there, "
            "or set MODEL_PATH to its folder"
        )
    if not path.is_file():
        raise ModelUnavailable(f"the model {_shown(relative)} isn't a file")
    return path


def _relative(name: str) -> str:
    """Return the relative path that `name` means; ModelUnavailable if it can't be a model's name."""
    if not name:
        raise ModelUnavailable("no model is named: set MODEL_NAME or EMBED_MODEL to a file in MODEL_PATH")
    # Judged by both systems' rules, so that a name means the same on each.
    windows = PureWindowsPath(name)
    outside = name.startswith(("/", "\\")) or windows.drive or ".." in windows.parts
    if outside or not name.isprintable() or not PurePosixPath(name).name:
        raise ModelUnavailable(f"{_shown(name)} isn't the name of a model: it has to be a file in MODEL_PATH")
    return file_name(name)


def file_name(name: str) -> str:
    """Return a model's name with its ending."""
    return name if name.endswith((GGUF, SCRIPT)) else name + GGUF


def _absent(model_path: Path, name: str) -> str:
    if not model_path.is_dir():
        return f"there is no model {_shown(name)}, for the folder {model_path} doesn't exist: check MODEL_PATH"
    names = listing(model_path)
    there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    return (
        f"there is no model {_shown(name)} in MODEL_PATH, which holds {there}: "
        f"put the file there or fetch it with 'python -m mayfly.models pull NAME'"
    )


def _shown(name: str) -> str:
    """Return `name` for a message: quoted and of a bounded length, for it may come from a client."""
    return repr(name if len(name) <= 100 else name[:97] + "...")
