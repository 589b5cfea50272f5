"""Where benchmarks keep their last figures: one section of RESULTS.md each, with the machine's description."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Results

The last run of each benchmark. Ratios hold where times don't: what is compared ran in turn in one run.
"""


def machine() -> str:
    """Describe this machine in a line."""
    model = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    except OSError:
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python "
            f"{platform.python_version()}, load before {load:.1f}")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return `median (min to max)`."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def keep(name: str, described: str, body: str) -> None:
    """Print a section and put it into RESULTS.md in place of its last one."""
    section = f"## {name}\n\n{described}\n{time.strftime('%Y-%m-%d')}.\n\n{body}\n"
    print("\n" + section)
    text = RESULTS.read_text() if RESULTS.exists() else _HEAD
    pattern = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    others = pattern.sub("", text).rstrip()
    RESULTS.write_text(f"{others}\n\n{section.rstrip()}\n")
