"""How many connections the limit on this process's descriptors leaves room for."""

from __future__ import annotations

import select

from mayfly.compat.files import raise_descriptor_limit

# A connection may have two temporary files, its request's and its answer's, and a call of a lane.
_PER_CONNECTION = 4
# The process's own, the threads', and connections to lanes that are kept.
_OTHER = 128
# What select() takes on Windows, where there is no poll().
_SELECT = 512
_LEAST = 8


def connections_that_fit(connections: int) -> int:
    """Raise the limit on descriptors to what the service may need; return how many connections fit below it."""
    if not hasattr(select, "poll"):
        return min(connections, max(_LEAST, _SELECT - _OTHER))
    import resource

    wanted = _PER_CONNECTION * connections + _OTHER
    raise_descriptor_limit(wanted)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    return max(_LEAST, (soft - _OTHER) // _PER_CONNECTION)
