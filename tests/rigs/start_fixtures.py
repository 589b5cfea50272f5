"""Trees for tests of start.sh, as a plugin: `pytest_plugins = ["start_fixtures"]`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from start_tree import Result, Tree

from mayfly.compat.files import folder_lock


@pytest.fixture(scope="session")
def first_start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Result]:
    """A tree after its first start, and what that start said. Not to be changed: `ready_tree` is a copy of it. The
    workers of one run of the tests share it, for it takes ten seconds of a core."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "first start"
    folder.mkdir(exist_ok=True)
    tree, said = Tree(folder / "my clone"), folder / "said.json"
    with folder_lock(folder):
        if not said.exists():
            Tree.make(tree.folder)
            said.write_text(json.dumps(tree.run()))
    return tree, Result(*json.loads(said.read_text()))


@pytest.fixture
def fresh_tree(first_start: tuple[Tree, Result], tmp_path: Path) -> Tree:
    """A tree that was never started; a blank in its path. Its environment will get its pip at once."""
    tree = Tree.make(tmp_path / "fresh clone")
    tree.borrow_pip(first_start[0])
    return tree


@pytest.fixture
def ready_tree(first_start: tuple[Tree, Result], tmp_path: Path) -> Tree:
    """A tree that was started before. Another environment would get its pip at once."""
    tree = first_start[0].copy(tmp_path / "ready clone")
    tree.borrow_pip(first_start[0])
    return tree
