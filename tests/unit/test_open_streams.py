"""Streams that are open and wait cost connections, and nothing else: no thread waits with them."""

from __future__ import annotations

import sys
from pathlib import Path

import many_streams
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted through /proc")


def test_hundreds_of_open_streams_all_go_on_beside_few_threads(tmp_path: Path) -> None:
    seen = many_streams.watch(tmp_path, streams=400, looks=20)
    assert seen.threads <= 16
    assert all(seen.pieces)
