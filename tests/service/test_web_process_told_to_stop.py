"""The web process alone is told to stop: the next one can be reached."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from service import Service, until


def test_a_web_process_that_is_told_to_stop_leaves_the_port_to_the_next(tmp_path: Path) -> None:
    service = Service(tmp_path, {"EMBED_MODEL": "none"})
    try:
        service.wait_listening()
        first = service.pid("app")
        os.kill(first, signal.SIGTERM)
        until(lambda: service.pid("app") not in (None, first), what="the next web process")
        assert service.health()["status"]
    finally:
        service.stop()
