"""The watchdog: binds the sockets, starts the processes, replaces them, and writes down what happened.

It is what `mayfly serve` becomes when it has made the embedding model, and `python watchdog.py` is at once. It holds no
model and speaks no HTTP. Exit codes: 0 stopped as asked, 2 a setting or a flag is wrong, 3 another watchdog runs for
the same folder, 4 the address can't be bound, 5 a folder can't be used (`mayfly.supervision.refusals`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence

from mayfly import __version__, flags, listening, places, spelling
from mayfly.compat.process import forbid_core_dumps, open_standard_streams, reap_orphans, wake_on_signal
from mayfly.errors import AddressTaken, SettingError
from mayfly.settings import Settings, available_cores, load_settings
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

TICK = 0.1
_FLUSH = 0.7
_WORKERS_PATIENCE = 0.3


def main(arguments: Sequence[str] = ()) -> int:
    """Run the service until it is told to stop; return the exit code."""
    open_standard_streams()
    try:
        chosen = flags.read(arguments)
        places.home().mkdir(parents=True, exist_ok=True)
        os.chdir(places.home())
        settings = load_settings(flags=chosen)
        if not settings.debug:
            forbid_core_dumps()
        with contextlib.closing(RunFolder(settings.run_folder_name)) as folder:
            return _serve(settings, folder)
    except SettingError as exc:
        # A setting may be missing because its name is wrong.
        for line in (*spelling.messages(), exc):
            print(f"mayfly: {line}", file=sys.stderr)
        return refusals.SETTING
    except Refused as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return exc.code
    except OSError as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return refusals.FOLDER


def _serve(settings: Settings, folder: RunFolder) -> int:
    run_folder = folder.path
    try:
        public = listening.listen(settings.listen_ip, settings.listen_port, settings.ollama_compat_port)
    except AddressTaken as exc:
        raise Refused(str(exc), refusals.ADDRESS) from exc
    stops: list[float] = []
    wake_on_signal(lambda: stops.append(time.monotonic()))
    journal = Journal(settings.log_folder_name)
    swept = sentinel.sweep(run_folder)
    if swept:
        journal.event(f"removed what an earlier run left: {', '.join(swept)}")
    sockets = LaneSockets(settings, run_folder)
    try:
        lanes = sockets.open_configured()
    except OSError as exc:
        raise Refused(f"no socket can be made in {run_folder} ({exc.strerror or exc}): set RUN_FOLDER_NAME in .env to "
                      "another folder, with a shorter path", refusals.FOLDER) from exc
    table = Table.make()
    spawner = ProcessSpawner(settings, public=public, lanes=sockets.specs(), run_folder=run_folder,
                             budget=table.handle)
    supervisor = Supervisor(
        settings, lanes, spawner=spawner, sockets=sockets, run_folder=run_folder, table=table,
        records=Records(journal, Reports(settings.log_folder_name, settings.log_keep)))
    cores = FreeCores(available_cores())

    def stop() -> None:
        stops.append(time.monotonic())
        supervisor.wake()

    wake_on_signal(stop)
    _announce(journal, public, sockets)
    refusal: Refused | None = None
    try:
        try:
            while not stops:
                supervisor.take_events(TICK, time.monotonic)
                _look_after(folder, sockets, supervisor, journal)
                table.free_cores = cores.measure(supervisor.pids(), time.monotonic())
                supervisor.tick(time.monotonic())
                app = supervisor.app.process
                reap_orphans({*supervisor.pids(), *([app.handle.pid] if app else [])})
        except Refused as exc:
            refusal = exc
            journal.event(str(exc))
            stops.append(time.monotonic())
        _stop(supervisor, stops, journal, public, settings)
    finally:
        supervisor.end(kill=True)
        _clean(folder, sockets)
        journal.event("stopped")
        journal.close()
    if refusal is not None:
        raise refusal
    return 0


def _announce(journal: Journal, public: list[socket.socket], sockets: LaneSockets) -> None:
    own, others = listening.urls(public)
    journal.event(f"mayfly {__version__} listening on {' and '.join(own or others)}")
    if own and others:
        journal.event(f"other machines call it, with a key, by {' or '.join(others)}")
    for message in spelling.messages():
        journal.event(message)
    for name, missing in sockets.missing.items():
        journal.event(f"{name}: {missing}")


def _look_after(folder: RunFolder, sockets: LaneSockets, supervisor: Supervisor, journal: Journal) -> None:
    """Make again what somebody has removed of the run folder while the service runs; Refused if that can't be done."""
    if folder.hold():
        journal.event(f"{folder.path} or its lock was removed; made again")
    try:
        renewed = sockets.renew()
    except OSError as exc:
        raise Refused(f"the sockets in {folder.path} were removed and can't be made again ({exc.strerror or exc})",
                      refusals.FOLDER) from exc
    if renewed:
        journal.event(f"sockets were removed from {folder.path}; made again: {', '.join(renewed)}")
        supervisor.renew(renewed, time.monotonic())


def _stop(supervisor: Supervisor, stops: list[float], journal: Journal, public: list[socket.socket],
          settings: Settings) -> None:
    """Let the web process finish what it has, then end the workers. A second signal ends everything at once.

    Once the web process drains, the listening sockets are its alone: who waits in them when the last copy is closed is
    reset, and it accepts everybody before it closes its own.
    """
    duck, grace = settings.lame_duck_seconds, settings.grace_seconds
    serving = f"new requests are served for {duck:g} s; then those" if duck else "requests"
    journal.event(f"stopping: {serving} in flight have {grace:g} s to finish")
    grace_ends = stops[0] + duck + grace + _FLUSH
    while not supervisor.drain(time.monotonic()) and time.monotonic() < grace_ends and len(stops) == 1:
        supervisor.take_events(TICK / 2, time.monotonic)
        if supervisor.drains:
            for sock in public:
                sock.close()
        supervisor.tick_workers(time.monotonic())
    supervisor.end(kill=False)
    killing = time.monotonic() + _WORKERS_PATIENCE
    while not supervisor.reap():
        if time.monotonic() >= killing:
            supervisor.end(kill=True)
        supervisor.take_events(TICK / 5, time.monotonic)


def _clean(folder: RunFolder, sockets: LaneSockets) -> None:
    for name in list(sockets.lanes):
        sockets.close(name)
    if not folder.lost:
        sentinel.sweep(folder.path)
        with contextlib.suppress(OSError):
            (folder.path / "state.json").unlink()
