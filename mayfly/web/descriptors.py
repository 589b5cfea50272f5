"""How many connections the limit on this process's descriptors leaves room for."""

from __future__ import annotations

import select

from mayfly.compat import raise_descriptor_limit
from mayfly.lanes.calls import GATHERED

# A connection may have two temporary files: its request's and its answer's.
_PER_CONNECTION = 3
# Beside the lanes' sockets: one for each thread, and those that are kept.
_OTHER = 64 + GATHERED
# What select() takes on Windows, where there is no poll().
_SELECT = 512
_LEAST = 8


def connections_that_fit(connections: int, threads: int) -> int:
    """Raise the limit on descriptors to what the service may need; return how many connections fit below it."""
    other = threads + _OTHER
    if not hasattr(select, "poll"):
        return min(connections, max(_LEAST, _SELECT - other))
    import resource

    wanted = _PER_CONNECTION * connections + other
    raise_descriptor_limit(wanted)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    return max(_LEAST, (soft - other) // _PER_CONNECTION)
