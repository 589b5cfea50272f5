"""A process's pages: what of its memory is there, and what it needs is there before it needs it (Linux alone).

After a fork a process has neither the page tables of what its parent has mapped nor pages of its own, and gets both
while it runs, page by page. A page of its own costs microseconds, and tens of them where a virtual machine's free
memory isn't the machine's: so what is going to be needed is taken in an idle moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# The last two are of Linux 5.14 and later; Python doesn't name them.
_MADV_DONTNEED, _MADV_NOHUGEPAGE, _MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 4, 15, 22, 23
_LARGE_PAGE = 2 << 20
_MAPPED_AT_ONCE = 32 << 20
# Of /proc/PID/pagemap: a page that is there, or is swapped, or is a file's.
_THERE, _SWAPPED, _FILES = 1 << 63, 1 << 62, 1 << 61
_COMPARED_AT_ONCE = 512
# Behind what was written comes what will be, where nothing has been yet: a window is filled token by token. In pages:
# a system may have them of 4, 16 or 64 kB.
_BEHIND = (256 << 10) // mmap.PAGESIZE

#: Where something of a process's memory is: its address and its length in bytes.
Span = tuple[int, int]


def release_zeros() -> None:
    """Give back what this process has written nothing but zeros to, where the system can; it stays zeros.

    An engine clears its window when it makes it, so all of it is in memory though nothing is in it. Its forks take what
    they fill, in small pages: of large ones the first token would take two megabytes in each layer.
    """
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None)
        zeros, length = ctypes.create_string_buffer(_LARGE_PAGE), ctypes.c_size_t(_LARGE_PAGE)
        for start, end, rights, name in _mappings():
            # Memory of its own, and neither a file's nor the stack or the small things of Python.
            if rights != "rw-p" or name:
                continue
            for at in range(-(-start // _LARGE_PAGE) * _LARGE_PAGE, end - _LARGE_PAGE + 1, _LARGE_PAGE):
                place = ctypes.c_void_p(at)
                if _in_memory(libc, at, _LARGE_PAGE) and not libc.memcmp(place, zeros, length):
                    libc.madvise(place, length, _MADV_NOHUGEPAGE)
                    libc.madvise(place, length, _MADV_DONTNEED)


def map_pages(folder: Path, go_on: Callable[[], bool]) -> bool:
    """Have the pages of the files that are mapped from a folder in this process's page tables, where the system can.

    A fork begins without them, and has them put there, some at a time, whenever it comes to one that isn't. What isn't
    in memory isn't read for this.

    Args:
        folder: without links in its path.
        go_on: called before each 32 MB; False ends it.

    Returns:
        Whether it came to its end.
    """
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None)
        for start, end, _, name in _mappings():
            if Path(name).parent != folder:
                continue
            for at in range(start, end, _MAPPED_AT_ONCE):
                if not go_on():
                    return False
                size = min(_MAPPED_AT_ONCE, end - at)
                if _in_memory(libc, at, size):
                    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _MADV_POPULATE_READ)
    return True


def written_by(work: Callable[[], None]) -> list[Span]:
    """Do something, and return what this process has written meanwhile of the memory that it alone can write, and what
    lies behind that; nothing where the system doesn't tell.

    Memory that the work has asked for itself isn't told: another process wouldn't find it at the same place.
    """
    before = {}
    with contextlib.suppress(OSError):
        before = {start: _pages(start, end) for start, end, rights, _ in _mappings()
                  if rights == "rw-p"}
    work()
    with contextlib.suppress(OSError):
        return [(start + mmap.PAGESIZE * first, mmap.PAGESIZE * (end - first)) for start, then in before.items()
                for first, end in _written(then, _pages(start, start + mmap.PAGESIZE * len(then)))]
    return []


def _written(before: array[int], after: array[int]) -> Iterator[tuple[int, int]]:
    """Yield where pages were written, as numbers of pages: the first, and the one behind the last."""
    blocks = (range(at, min(at + _COMPARED_AT_ONCE, len(after))) for at in range(0, len(after), _COMPARED_AT_ONCE))
    pages = [page for block in blocks if before[block.start:block.stop] != after[block.start:block.stop]
             for page in block
             if before[page] != after[page] and after[page] & _THERE and not after[page] & _FILES]
    # Neighbours are as far from one another in the list as in memory.
    for _, neighbours in itertools.groupby(enumerate(pages), lambda each: each[1] - each[0]):
        run = [page for _, page in neighbours]
        yield run[0], _behind(after, run[-1] + 1)


def _behind(pages: array[int], end: int) -> int:
    last = min(end + _BEHIND, len(pages))
    return next((page for page in range(end, last) if pages[page] & (_THERE | _SWAPPED)), last)


def take_pages(spans: Sequence[Span], go_on: Callable[[], bool]) -> bool:
    """Have pages of this process's own where it is going to write. What is in them doesn't change.

    Args:
        spans: as `written_by` returned them in a process with the same memory.
        go_on: called before each 2 MB; False ends it.

    Returns:
        Whether it came to its end.
    """
    libc = ctypes.CDLL(None)
    taken = _LARGE_PAGE
    for start, length in spans:
        for at in range(start, start + length, _LARGE_PAGE):
            if taken >= _LARGE_PAGE:
                if not go_on():
                    return False
                taken = 0
            size = min(_LARGE_PAGE, start + length - at)
            libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)
            taken += size
    return True


def _pages(start: int, end: int) -> array[int]:
    """Return what the system tells of a place's pages, a number for each.

    Raises:
        OSError: it doesn't tell.
    """
    with open("/proc/self/pagemap", "rb", buffering=0) as told:
        told.seek(start // mmap.PAGESIZE * 8)
        return array("Q", told.read((end - start) // mmap.PAGESIZE * 8))


def _mappings() -> Iterator[tuple[int, int, str, str]]:
    """Yield what this process has mapped: where it begins and ends, with what rights, and the file's name or "".

    Raises:
        OSError: this system doesn't tell.
    """
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        span, rights, _, _, _, *name = line.split(maxsplit=5)
        start, end = span.split("-")
        yield int(start, 16), int(end, 16), rights, "".join(name)


def _in_memory(libc: ctypes.CDLL, at: int, size: int) -> bool:
    """Tell whether all pages of a mapped place are in memory."""
    there = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    return libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), there) == 0 and 0 not in there.raw
