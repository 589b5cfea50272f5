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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV", "SIGILL"])
def test_a_process_ends_by_the_signal_that_ended_its_child(name: str) -> None:
    number = getattr(signal, name)
    done = subprocess.run([sys.executable, "-c", ENDED_BY.format(signal=int(number))], cwd=PROJECT, timeout=60,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
