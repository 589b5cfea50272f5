"""A copy of the program, for tests that change it or what lies beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from service import PROJECT


def clone(folder: Path, *more: str) -> Path:
    """Copy the package and more files of the project into a folder, which may be there; return that.

    What is compiled already comes along: each test would compile all of it anew. The unfinished files of processes that
    compile just now don't.
    """
    shutil.copytree(PROJECT / "mayfly", folder / "mayfly", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in more:
        shutil.copy(PROJECT / name, folder)
    return folder
