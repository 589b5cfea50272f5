"""Find model files by name.

A model's name is its path below MODEL_PATH, with "/" between the parts and with or without ".gguf". Nothing
outside MODEL_PATH has a name, whatever links or dots are used to get there.
"""

from __future__ import annotations

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
    for candidate in _candidates(name):
        path = model_path / candidate
        try:
            resolved = path.resolve(strict=True)
            root = model_path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
            raise ModelUnavailable(f"the model {name!r} can't be opened: {exc}") from exc
        if not resolved.is_relative_to(root):
            raise ModelUnavailable(
                f"the model {name!r} is a link that leaves MODEL_PATH: put the file itself there, "
                "or set MODEL_PATH to its folder"
            )
        if not resolved.is_file():
            raise ModelUnavailable(f"the model {name!r} isn't a file")
        return resolved
    raise ModelAbsent(_absent(model_path, name))


def listing(model_path: Path) -> list[str]:
    """Return the names of the files below `model_path` that `find` accepts, sorted; hidden ones are left out."""
    names = []
    for folder, folders, files in os.walk(model_path):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for file in files:
            if not file.startswith(".") and file.endswith((GGUF, SCRIPT)):
                name = Path(folder, file).relative_to(model_path).as_posix()
                try:
                    find(model_path, name)
                except ModelUnavailable:  # a link that leads nowhere or away
                    continue
                names.append(name)
    return sorted(names)


def _candidates(name: str) -> list[str]:
    """Return the relative paths that `name` may mean; ModelUnavailable if it can't be a model's name."""
    if not name:
        raise ModelUnavailable("no model is named: set MODEL_NAME or EMBED_MODEL to a file in MODEL_PATH")
    # Judged by both systems' rules, so that a name means the same on each.
    windows = PureWindowsPath(name)
    outside = name.startswith(("/", "\\")) or windows.drive or ".." in windows.parts
    if outside or not name.isprintable() or not PurePosixPath(name).name:
        raise ModelUnavailable(f"{name!r} isn't the name of a model: it has to be a file in MODEL_PATH")
    return [name] if name.endswith((GGUF, SCRIPT)) else [name + GGUF]


def _absent(model_path: Path, name: str) -> str:
    if not model_path.is_dir():
        return f"there is no model {name!r}, for the folder {model_path} doesn't exist: check MODEL_PATH"
    names = listing(model_path)
    there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    return (
        f"there is no model {name!r} in MODEL_PATH, which holds {there}: "
        f"put the file there or fetch it with 'python -m mayfly.models pull {name}'"
    )
