"""The one full installation: everything of requirements.txt, from the package index, into an empty home.

It takes most of a minute and the network; without a network it is skipped.
"""

from __future__ import annotations

import os
import shutil

import pytest
from start_tree import ROOT, Tree

pytest_plugins = ["start_fixtures"]

MAYFLY = """\
import sys
def look_at(arguments):
    pass
if __name__ == "__main__":
    import dotenv, flask, gguf, gpt4all, jinja2, numpy, orjson, pydantic, requests, tqdm, waitress
    for module in (dotenv, flask, gguf, gpt4all, jinja2, numpy, orjson, pydantic, requests, tqdm, waitress):
        assert module.__file__.startswith(sys.prefix), module
    print("all there")
"""


def test_a_fresh_clone_in_an_empty_home_installs_everything(fresh_tree: Tree) -> None:
    shutil.copy(ROOT / "requirements.txt", fresh_tree.folder)
    fresh_tree.write("mayfly/__main__.py", MAYFLY)
    # Where the package index is, is the machine's own affair.
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
    # To compile all of it takes as long as all the rest; what is imported is compiled anyway. (To pip PIP_NO_COMPILE=1
    # would mean the opposite: the variable is the value of what the option turns off.)
    result = fresh_tree.run(**{"PIP_NO_INDEX": "0", "PIP_COMPILE": "0", **index})
    if "needs the network" in result.err:
        pytest.skip("no connection to a package index")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("all there\n")
