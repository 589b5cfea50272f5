"""Which replica a call goes to: calls with the same persona to the same one, whose prefix store has evaluated it.

Rendezvous hashing: each replica gets a rank by the hash of persona and replica, and the first that has room serves.
When replicas come or go, only the personas of those move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def ranked(key: str, replicas: Sequence[T], name_of: Callable[[T], str]) -> list[T]:
    """Return replicas in the order in which calls with a key ask them."""
    return sorted(replicas, key=lambda replica: hashlib.sha256(f"{key}\0{name_of(replica)}".encode()).digest())
