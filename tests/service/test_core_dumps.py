"""Keys and prompts are in the processes' memory: when one crashes, no file with it is left, unless DEBUG is set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scripts
from processes import runs
from service import PROJECT, Service, until

resource = pytest.importorskip("resource")
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="the system doesn't show limits"),
    pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)]


@pytest.fixture(autouse=True)
def _dumps_allowed() -> Iterator[None]:
    """Let this process, and with it what it starts, write as much of a dump as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("the system allows no core dumps")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _limits(service: Service) -> dict[int, str]:
    """Return the size of a core dump that each process of a service may leave."""
    found = {}
    for pid in [service.process.pid, *service.family()]:
        (line,) = (line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in line)
        found[pid] = line.split()[4]
    return found


def test_no_process_may_leave_a_core_dump_unless_debug(start: Callable[..., Service]) -> None:
    usual, debugged = start(), start(folder="debugged", DEBUG="true")
    for service in (usual, debugged):
        # The watchdog, the web process, both models' processes and a generation.
        until(lambda service=service: len(service.family()) >= 4, what="all processes")
    assert set(_limits(usual).values()) == {"0"}
    assert "0" not in _limits(debugged).values()
    if os.getuid():
        # The kernel takes the files of a process that may not be dumped away from its user.
        assert {os.stat(f"/proc/{pid}/mem").st_uid for pid in _limits(usual)} == {0}


@pytest.mark.skipif(not Path("/proc/sys/kernel/core_pattern").read_text().startswith("core"),
                    reason="the system puts dumps elsewhere")
def test_a_crash_leaves_no_file_where_the_project_is(start: Callable[..., Service]) -> None:
    service = start()
    before = set(PROJECT.iterdir())
    for name in ("completion", "embedding", "app"):
        pid = service.pid(name)
        os.kill(pid, signal.SIGSEGV)
        until(lambda pid=pid: not runs(pid), what="its end")
        until(lambda pid=pid, name=name: service.sentinel(name).get("pid", pid) != pid, what=f"the next {name}")
    os.kill(service.process.pid, signal.SIGSEGV)
    service.process.wait(120)
    left = set(PROJECT.iterdir()) - before
    for path in left:
        if path.name.startswith("core"):
            path.unlink()
    assert left == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the flag is Linux's")
def test_a_process_and_its_forks_can_neither_be_dumped_nor_looked_into() -> None:
    code = """
import ctypes, os
from mayfly.compat.process import forbid_core_dumps
def dumpable():
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print(dumpable(), flush=True)
forbid_core_dumps()
print(dumpable(), flush=True)
if os.fork() == 0:
    print(dumpable(), flush=True)
    os._exit(0)
os.wait()
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1", "0", "0"]
