"""Memory that is mapped is in a process's page tables before it needs it, and memory that holds nothing isn't there."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from mayfly.compat.memory import map_pages, release_zeros

SIZE = 48 << 20
LINUX = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system tells nothing of its page tables")


def in_page_tables(file: Path) -> int:
    """Return how much of a mapped file is in this process's page tables, in kB."""
    told = Path("/proc/self/smaps").read_text().partition(f" {file}\n")[2]
    found = re.search(r"^Rss: +(\d+) kB$", told, re.MULTILINE)
    assert found is not None
    return int(found[1])


@LINUX
def test_the_pages_of_a_folders_files_are_mapped_until_told_to_stop(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    inside, outside = folder / "models" / "a b.gguf", folder / "other"
    inside.parent.mkdir()
    maps = []
    for file in (inside, outside):
        file.write_bytes(b"x" * SIZE)
        with file.open("rb") as opened:
            maps.append(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    assert not map_pages(inside.parent, lambda: False)
    assert in_page_tables(inside) == 0
    asked: list[None] = []
    assert map_pages(inside.parent, lambda: asked.append(None) is None)
    assert (in_page_tables(inside), in_page_tables(outside)) == (SIZE >> 10, 0)
    assert len(asked) == 2
    for memory in maps:
        memory.close()


@LINUX
def test_what_holds_zeros_alone_is_given_back_and_nothing_changes() -> None:
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(bytes(SIZE))
        memory[SIZE // 2] = 7
        content = bytes(memory)
        before = resident()
        release_zeros()
        assert resident() < before - 0.8 * SIZE
        assert bytes(memory) == content


def resident() -> int:
    """Return this process's memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
