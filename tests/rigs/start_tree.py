"""A copy of the project's start files in a folder of its own, for tests of start.sh.

Everything that start.sh does itself is real there; small stand-ins take the place of what it starts: a mayfly command
line that prints its arguments, and requirements of one tiny wheel, so that nothing needs the network. start_fixtures.py
has them as fixtures.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from clone import clone

ROOT = Path(__file__).resolve().parents[2]
# Not the interpreter of these tests: within its virtual environment start.sh would use that one.
if os.name == "nt":
    BASE_PYTHON: str = sys._base_executable
else:
    BASE_PYTHON = os.path.join(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")

MAYFLY = """\
import os, sys
def look_at(arguments):
    pass
if __name__ == "__main__":
    import tiny_package
    print("mayfly", tiny_package.VERSION, sys.prefix, os.getcwd(), sys.argv[1:])
    sys.exit(7)
"""


# ensurepip takes eight seconds of a core, to unpack and compile a pip that is always the same. Where an environment is
# made, this puts a copy of one there instead; `python -m venv` does the rest as ever.
LENT_PIP = """\
import os, shutil, sys
def lend(self, context):
    packages = os.path.join(context.env_dir, {relative!r})
    for name in {names!r}:
        shutil.copytree(os.path.join({lender!r}, name), os.path.join(packages, name))
if "venv" in sys.orig_argv:
    import venv
    assert venv.EnvBuilder._setup_pip
    venv.EnvBuilder._setup_pip = lend
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Tree:
    """One copy, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path) -> Tree:
        """Return a fresh tree, as a clone of the repository would be before its first start."""
        folder.mkdir(parents=True)
        for name in ("start.sh", ".env.example"):
            shutil.copy(ROOT / name, folder)
        tree = cls(folder)
        tree.write("mayfly/__main__.py", MAYFLY)
        tree.require("1.0")
        return tree

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def require(self, version: str, requirements: str = "requirements.txt") -> None:
        """Make the tiny package in this version what the requirements ask for."""
        wheel = self.folder / f"tiny_package-{version}-py3-none-any.whl"
        information = f"tiny_package-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tiny_package.py", f"VERSION = {version!r}\n")
            file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n")
            file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{information}/RECORD", "")
        self.write(requirements, f"# one tiny wheel\n./{wheel.name}\n")

    def take_the_real_command_line(self) -> None:
        """Put mayfly's own in the place of the stand-in."""
        clone(self.folder)

    @property
    def environment_python(self) -> Path:
        return self.folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def surroundings(self, **extra: str) -> dict[str, str]:
        """Return an almost empty environment: no home, no package index."""
        kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP") if name in os.environ}
        return {**kept, "PATH": os.defpath, "HOME": str(self.folder / "no-home"), "PIP_NO_INDEX": "1",
                "PIP_CONFIG_FILE": os.devnull, "PYTEST_XDIST_AUTO_NUM_WORKERS": "1",
                "PYTHONPATH": str(self.folder.parent / "lent"),
                # What else is installed beside pytest isn't what start.sh is about, and takes a second to load.
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin", **extra}

    def command(self, *arguments: str, python: str = BASE_PYTHON) -> list[str]:
        return [python, str(self.folder / "start.sh"), *arguments]

    def run(self, *arguments: str, python: str = BASE_PYTHON, **extra: str) -> Result:
        return self.run_command(self.command(*arguments, python=python), **extra)

    def run_command(self, command: list[str], cwd: Path | None = None, **extra: str) -> Result:
        done = subprocess.run(command, cwd=cwd or self.folder.parent, env=self.surroundings(**extra), timeout=300,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), cwd=self.folder.parent, env=self.surroundings(**extra),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=os.name != "nt")

    def copy(self, folder: Path) -> Tree:
        """Return a copy; an environment's Python is a link or a copy of the base, so it runs there too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Tree(folder)

    def borrow_pip(self, lender: Tree) -> None:
        """Let the environment that is made here have the pip of another tree's."""
        [packages] = (lender.folder / ".venv").glob("**/site-packages")
        (self.folder.parent / "lent").mkdir(exist_ok=True)
        (self.folder.parent / "lent" / "sitecustomize.py").write_text(LENT_PIP.format(
            lender=str(packages), relative=str(packages.relative_to(lender.folder / ".venv")),
            names=[path.name for path in packages.glob("pip*")]))

    def lend_packages(self) -> None:
        """Let the tree's environment also see the packages that these tests run with, such as pytest."""
        import dotenv

        [packages] = (self.folder / ".venv").glob("**/site-packages")
        # One that venv put there may be older than what a lent package asks for, and would come before the lent one.
        for own in packages.glob("setuptools*"):
            shutil.rmtree(own)
        (packages / "lent.pth").write_text(str(Path(dotenv.__file__).parent.parent) + "\n")


def load_start(folder: Path = ROOT) -> ModuleType:
    """Return start.sh as a module, without starting anything."""
    loader = importlib.machinery.SourceFileLoader("start_sh", str(folder / "start.sh"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module
