"""What pyproject.toml can't say: a file that lies at the top of the clone, for people, is in the package where mayfly
is installed (mayfly/places.py). It is one file in the repository, which MANIFEST.in names too.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ".env.example"


class BuildPackage(build_py):
    """Build the package with this file in it. An editable installation is the clone, which has it."""

    def run(self) -> None:
        """See build_py."""
        # What an earlier build left there would be installed, modules that are gone since included.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            self.copy_file(SHIPPED, str(Path(self.build_lib, "mayfly", SHIPPED)))


setup(cmdclass={"build_py": BuildPackage})
