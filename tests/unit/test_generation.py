"""A generation: what is done before its call comes, and when."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from service import until

from mayfly.engines.base import CompletionEngine
from mayfly.settings import parse
from mayfly.wire import sentinel
from mayfly.wire.address import LaneAddress
from mayfly.wire.events import EventPipe
from mayfly.wire.spec import Spec
from mayfly.wire.thread_table import Table
from mayfly.workers import generation

pytestmark = pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="there are no generations here")


class Engine:
    """Counts how often it was reseeded."""

    model = "counted"

    def __init__(self) -> None:
        self.reseeded = 0

    def reseed(self) -> None:
        """See CompletionEngine."""
        self.reseeded += 1


class Live:
    """A generation that lives in a thread; `parent` is the template's end of its channel."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.engine = Engine()
        spec = Spec(lane="completion", kind="completion", model="counted", role="template", settings=parse({}),
                    model_file=folder / "counted.gguf", listen_fd=-1, address=LaneAddress("unused"), run_folder=folder,
                    budget=table.handle, places=(0,), generation=1, parent=os.getpid())
        self.sentinel = spec.sentinel(1)
        self._said, events = os.pipe()
        self.parent, self._own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        live = generation.Generation(spec, cast("CompletionEngine", self.engine), [], table,
                                     EventPipe(events, drops=False), 1)
        self._thread = threading.Thread(target=self._run, args=(live, events))
        self._thread.start()

    def _run(self, live: generation.Generation, events: int) -> None:
        with self._own, contextlib.suppress(ConnectionError):
            live.live(self._own)
        os.close(events)

    def beat(self) -> None:
        """Wait until it has gone on for a while."""
        for _ in range(2):
            before = sentinel.touched(self.sentinel)
            until(lambda before=before: sentinel.touched(self.sentinel) != before)

    def end(self) -> None:
        """Take its parent away."""
        self.parent.close()
        self._thread.join()
        os.close(self._said)


@pytest.fixture
def table() -> Table:
    return Table.make()


@pytest.fixture
def live(tmp_path: Path, table: Table) -> Iterator[Live]:
    table[0] = 1
    live = Live(tmp_path, table)
    try:
        assert live.parent.recv(64) == generation.READY
        yield live
    finally:
        live.end()


def test_a_state_is_made_before_the_call_and_while_nobody_computes(live: Live, table: Table) -> None:
    live.beat()
    assert live.engine.reseeded == 0
    table[0] = 0
    until(lambda: live.engine.reseeded)
    live.beat()
    assert live.engine.reseeded == 1


def test_a_call_that_comes_earlier_has_its_state_made_first(live: Live) -> None:
    caller, connection = socket.socketpair()
    with connection:
        generation.hand_over(live.parent, 0, connection)
    until(lambda: live.engine.reseeded)
    caller.close()
    assert live.parent.recv(64) == generation.DONE
    assert live.engine.reseeded == 1
