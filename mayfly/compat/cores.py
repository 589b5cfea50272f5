"""How much of a machine's cores a container may use."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path


def core_limit(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time this process's container may use; infinity where nothing limits it.

    Threads beyond it are no help: all of them are stopped for the rest of each tenth of a second once it is used up.

    Args:
        groups: where Linux tells of control groups, of version 2 or 1; a container sees its own there.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (groups / "cpu.max").read_text().split()
        return int(quota) / int(period)  # or "max"
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        limit = (int((groups / "cpu" / "cpu.cfs_quota_us").read_text())  # or -1
                 / int((groups / "cpu" / "cpu.cfs_period_us").read_text()))
        return limit if limit > 0 else math.inf
    return math.inf
