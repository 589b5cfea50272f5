"""A lane host: the lanes of one run folder - their sockets, their processes, and the loop that looks after both.

The watchdog has one, and so has whoever hosts lanes without a service of its own. Everything is called by one thread,
which has to live as long as the processes do: Linux ends a process that asked for that (`die_with_parent`) with the
thread that started it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence

from mayfly.settings import Settings, available_cores
from mayfly.supervision import refusals
from mayfly.supervision.cores import FreeCores
from mayfly.supervision.journal import Journal
from mayfly.supervision.records import Records
from mayfly.supervision.refusals import Refused
from mayfly.supervision.reports import Reports
from mayfly.supervision.run_folder import RunFolder
from mayfly.supervision.sockets import LaneSockets
from mayfly.supervision.spawner import ProcessSpawner
from mayfly.supervision.supervisor import Supervisor
from mayfly.wire import sentinel
from mayfly.wire.thread_table import Table

#: How long one turn of the loop waits for an event (s).
TICK = 0.1
_WORKERS_PATIENCE = 0.3


class LaneHost:
    """See the module.

    Args:
        folder: the run folder; closed by whoever made it.
        public: the listening sockets of a web process, which is started too; without any there is none.

    Raises:
        Refused: no socket can be made in the folder.
        OSError: the log folder can't be used.
    """

    def __init__(self, settings: Settings, folder: RunFolder, public: Sequence[socket.socket] = ()) -> None:
        self._folder = folder
        self._serves = bool(public)
        self.journal = Journal(settings.log_folder_name)
        swept = sentinel.sweep(folder.path)
        if swept:
            self.journal.event(f"removed what an earlier run left: {', '.join(swept)}")
        self.sockets = LaneSockets(settings, folder.path)
        try:
            lanes = self.sockets.open_configured()
        except OSError as exc:
            raise Refused(f"no socket can be made in {folder.path} ({exc.strerror or exc}): set RUN_FOLDER_NAME in "
                          ".env to another folder, with a shorter path", refusals.FOLDER) from exc
        self._table = Table.make()
        spawner = ProcessSpawner(settings, public=public, lanes=self.sockets.specs(), run_folder=folder.path,
                                 budget=self._table.handle)
        self.supervisor = Supervisor(
            settings, lanes, spawner=spawner, sockets=self.sockets, run_folder=folder.path, table=self._table,
            records=Records(self.journal, Reports(settings.log_folder_name, settings.log_keep)))
        self._cores = FreeCores(available_cores())

    def turn(self) -> None:
        """Wait up to a tick for an event, and do what there is to do.

        Raises:
            Refused: somebody has taken the folder away, and it can't be made again.
        """
        self.supervisor.take_events(TICK, time.monotonic)
        self._look_after()
        self._table.free_cores = self._cores.measure(self.supervisor.pids(), time.monotonic())
        if self._serves:
            self.supervisor.tick(time.monotonic())
        else:
            self.supervisor.tick_workers(time.monotonic())

    def end(self) -> None:
        """Ask all processes to end; see to it that they do."""
        self.supervisor.end(kill=False)
        killing = time.monotonic() + _WORKERS_PATIENCE
        while not self.supervisor.reap():
            if time.monotonic() >= killing:
                self.supervisor.end(kill=True)
            self.supervisor.take_events(TICK / 5, time.monotonic)

    def close(self) -> None:
        """End what still runs, and remove what was made in the folder."""
        self.supervisor.end(kill=True)
        for name in list(self.sockets.lanes):
            self.sockets.close(name)
        if not self._folder.lost:
            sentinel.sweep(self._folder.path)
            with contextlib.suppress(OSError):
                (self._folder.path / "state.json").unlink()
        self.journal.event("stopped")
        self.journal.close()

    def _look_after(self) -> None:
        """Make again what somebody has removed of the run folder; Refused if that can't be done."""
        if self._folder.hold():
            self.journal.event(f"{self._folder.path} or its lock was removed; made again")
        try:
            renewed = self.sockets.renew()
        except OSError as exc:
            raise Refused(f"the sockets in {self._folder.path} were removed and can't be made again "
                          f"({exc.strerror or exc})", refusals.FOLDER) from exc
        if renewed:
            self.journal.event(f"sockets were removed from {self._folder.path}; made again: {', '.join(renewed)}")
            self.supervisor.renew(renewed, time.monotonic())
