"""Work in a child, for a process that never computes: it ends as the child does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

ENDED_BY = """
import os
from mayfly.workers import forks
forks.see_through(lambda: os.kill(os.getpid(), {signal}))
print("it went on")
"""


WROTE = """
import ctypes, mmap
from mayfly.workers import forks
memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes(len(memory)))
spans = forks.see_through(lambda: memory.__setitem__(3 * mmap.PAGESIZE, 1))
page = ctypes.addressof(ctypes.c_char.from_buffer(memory, 3 * mmap.PAGESIZE))
print(memory[3 * mmap.PAGESIZE], (page, mmap.PAGESIZE) in spans, spans == sorted(spans, key=lambda span: -span[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="this system tells nothing of its page tables")
def test_what_a_child_has_written_is_told_and_written_in_the_child_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WROTE], cwd=PROJECT, timeout=60, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 True True\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV", "SIGILL"])
def test_a_process_ends_by_the_signal_that_ended_its_child(name: str) -> None:
    number = getattr(signal, name)
    done = subprocess.run([sys.executable, "-c", ENDED_BY.format(signal=int(number))], cwd=PROJECT, timeout=60,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
