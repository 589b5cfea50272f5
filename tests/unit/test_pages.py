"""Memory that is going to be used is in a process's page tables before it needs it, and memory that holds nothing isn't
there."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mayfly.compat.pages import map_pages, release_zeros, take_pages, written_by

resource = pytest.importorskip("resource")

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


@LINUX
def test_what_was_written_is_told_with_the_empty_pages_behind_it() -> None:
    with pages(200) as (memory, start):
        for page in (10, 150):
            memory[page * mmap.PAGESIZE] = 1

        def work() -> None:
            for page in (20, 100, 101, 102, 180):
                memory[page * mmap.PAGESIZE] = 2

        end = start + len(memory)
        spans = [((at - start) // mmap.PAGESIZE, size // mmap.PAGESIZE) for at, size in written_by(work)
                 if start <= at < end]
        behind = (256 << 10) // mmap.PAGESIZE
        assert spans == [(20, 1 + behind), (100, 3 + min(47, behind)), (180, 1 + min(19, behind))]


@LINUX
def test_what_was_taken_is_there_unchanged_until_told_to_stop() -> None:
    with pages(1500) as (memory, start):
        memory[0] = 7
        assert not take_pages([(start, len(memory))], lambda: False)
        assert written(memory, range(1, 100)) == 99
        asked: list[None] = []
        assert take_pages([(start, len(memory))], lambda: asked.append(None) is None)
        assert len(asked) == -(-len(memory) // (2 << 20))
        assert (memory[0], any(memory[100 * mmap.PAGESIZE:])) == (7, False)
        assert written(memory, range(100, 1500)) < 100


@contextlib.contextmanager
def pages(count: int) -> Iterator[tuple[mmap.mmap, int]]:
    """Yield memory of so many small pages, none of which is there yet, and its address."""
    with mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        yield memory, start


def written(memory: mmap.mmap, numbers: range) -> int:
    """Write to pages; return how many faults that took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for page in numbers:
        memory[page * mmap.PAGESIZE] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Return this process's memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
