"""Trees for tests of start.sh, as a plugin: `pytest_plugins = ["start_fixtures"]`."""

from __future__ import annotations

from pathlib import Path

import pytest
from start_tree import Result, Tree


@pytest.fixture
def fresh_tree(tmp_path: Path) -> Tree:
    """A tree that was never started; a blank in its path."""
    return Tree.make(tmp_path / "fresh clone")


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Result]:
    """A tree after its first start, and what that start said. Not to be changed: `ready_tree` is a copy of it."""
    tree = Tree.make(tmp_path_factory.mktemp("first start") / "my clone")
    return tree, tree.run()


@pytest.fixture
def ready_tree(first_start: tuple[Tree, Result], tmp_path: Path) -> Tree:
    """A tree that was started before."""
    return first_start[0].copy(tmp_path / "ready clone")
