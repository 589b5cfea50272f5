"""Fields that a client has sent and that mean nothing here: named in the answer's header, and once in the log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from mayfly.web.sieve import MOST_NAMED

HEADER = "X-Ignored-Fields"

# Names that are remembered as told; a client could send new ones for ever.
_MOST_TOLD = 1000


class IgnoredFields:
    """Which of them the log has told of. May be used by several threads."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def headers(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return what the answer has to say of them, and tell the log of those that it hasn't seen yet.

        Args:
            names: as `sift` gives them.
        """
        if not names:
            return []
        with self._lock:
            new = [name for name in names if name not in self._told][: _MOST_TOLD - len(self._told)]
            self._told.update(new)
        for name in new:
            sys.stderr.write(f"a field of requests that means nothing here is ignored: {name}\n")
        more = [] if len(names) <= MOST_NAMED else ["..."]
        return [(HEADER, ", ".join([*names[:MOST_NAMED], *more]))]
