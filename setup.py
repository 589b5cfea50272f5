"""What pyproject.toml can't say: files that lie at the top of the clone, for people, are in the package where mayfly is
installed (mayfly/places.py). Each is one file in the repository, which MANIFEST.in names too.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (".env.example", "models/mayfly-nano-demo.gguf")


class BuildPackage(build_py):
    """Build the package with these files in it. An editable installation is the clone, which has them."""

    def run(self) -> None:
        """See build_py."""
        # What an earlier build left there would be installed, modules that are gone since included.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for name in () if self.editable_mode else SHIPPED:
            target = Path(self.build_lib, "mayfly", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))


setup(cmdclass={"build_py": BuildPackage})
