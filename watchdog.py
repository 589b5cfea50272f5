"""The watchdog: binds the sockets, starts the processes, replaces them, and writes down what happened.

`python watchdog.py` runs the whole service (start.sh ends in it; `--help` names its flags). It holds no model and
speaks no HTTP. Exit codes: 0 stopped as asked, 2 a setting or a flag is wrong, 3 another watchdog runs for the same
folder, 4 the address can't be bound, 5 a folder can't be used.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mayfly import __version__, flags, listening, spelling
from mayfly.compat import forbid_core_dumps, lock_file, wake_on_signal
from mayfly.errors import AddressTaken, SettingError
from mayfly.models import nano
from mayfly.settings import PROJECT_FOLDER, Settings, available_cores, load_settings
from mayfly.supervision import sentinel
from mayfly.supervision.cores import FreeCores
from mayfly.supervision.journal import Journal
from mayfly.supervision.reports import Reports
from mayfly.supervision.sockets import LaneSockets
from mayfly.supervision.spawner import Inbox, ProcessSpawner
from mayfly.supervision.supervisor import Supervisor
from mayfly.workers.budget import Table

EXIT_SETTING = 2
EXIT_SECOND = 3
EXIT_ADDRESS = 4
EXIT_FOLDER = 5

TICK = 0.1
# A stop gives requests in flight this long, then ends what is left.
GRACE = 10.0
_FLUSH = 0.7
_WORKERS_PATIENCE = 0.3


class Refused(Exception):
    """The service can't start; the message says what to do."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] = ()) -> int:
    """Run the service until it is told to stop; return the exit code."""
    try:
        chosen = flags.read(arguments)
        os.chdir(PROJECT_FOLDER)
        settings = load_settings(flags=chosen)
        if not settings.debug:
            forbid_core_dumps()
        _make_folder(settings.run_folder_name, private=True)
        lock = lock_file(settings.run_folder_name / "watchdog.lock")
        if lock is None:
            raise Refused(_second(settings.run_folder_name), EXIT_SECOND)
        with lock:
            return _serve(settings)
    except SettingError as exc:
        # A setting may be missing because its name is wrong.
        for line in (*spelling.messages(), exc):
            print(f"mayfly: {line}", file=sys.stderr)
        return EXIT_SETTING
    except Refused as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return exc.code
    except OSError as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return EXIT_FOLDER


def _serve(settings: Settings) -> int:
    run_folder = settings.run_folder_name
    try:
        public = listening.listen(settings.listen_ip, settings.listen_port)
    except AddressTaken as exc:
        raise Refused(str(exc), EXIT_ADDRESS) from exc
    with contextlib.suppress(Refused):  # the journal says so, and the service goes on
        _make_folder(settings.log_folder_name, private=False)
    inbox: Inbox = queue.SimpleQueue()
    stops: list[float] = []

    def stop() -> None:
        stops.append(time.monotonic())
        inbox.put(None)

    wake_on_signal(stop)
    journal = Journal(settings.log_folder_name)
    swept = sentinel.sweep(run_folder)
    if swept:
        journal.event(f"removed what an earlier run left: {', '.join(swept)}")
    sockets = LaneSockets(settings, run_folder)
    try:
        states = sockets.open_configured()
    except OSError as exc:
        raise Refused(f"no socket can be made in {run_folder} ({exc.strerror or exc}): set RUN_FOLDER_NAME in .env to "
                      "another folder, with a shorter path", EXIT_FOLDER) from exc
    with contextlib.suppress(FileNotFoundError):
        (run_folder / "threads").unlink()
    supervisor = Supervisor(
        settings, states,
        spawner=ProcessSpawner(settings, public=public, lanes=sockets.lanes, run_folder=run_folder, inbox=inbox),
        journal=journal, reports=Reports(settings.log_folder_name, settings.log_keep), run_folder=run_folder,
        table=Table(run_folder / "threads"), now=time.monotonic(), sockets=sockets,
        catch_up=lambda: _take_events(supervisor, inbox, 0), free_cores=FreeCores(available_cores()).look)
    own, others = listening.urls(public)
    journal.event(f"mayfly {__version__} listening on {' and '.join(own or others)}")
    if own and others:
        journal.event(f"other machines call it, with a key, by {' or '.join(others)}")
    for message in spelling.messages():
        journal.event(message)
    for name, lane in sockets.lanes.items():
        if lane.model_file is None:
            journal.event(f"{name}: {lane.missing}")
        elif lane.kind == "completion" and lane.model == nano.ID:
            journal.event(f"{name}: {nano.ANNOUNCEMENT}")
    try:
        _supervise(supervisor, inbox, stops)
        _stop(supervisor, inbox, stops, journal, public)
    finally:
        supervisor.end_workers(kill=True)
        _clean(run_folder, sockets)
        journal.event("stopped")
        journal.close()
    return 0


def _supervise(supervisor: Supervisor, inbox: Inbox, stops: list[float]) -> None:
    while not stops:
        _take_events(supervisor, inbox, TICK)
        supervisor.tick(time.monotonic())


def _stop(supervisor: Supervisor, inbox: Inbox, stops: list[float], journal: Journal, public: list[socket.socket]
          ) -> None:
    """Let the web process finish what it has, then end the workers. A second signal ends everything at once.

    Once the web process drains, the listening sockets are its alone: who waits in them when the last copy is closed is
    reset, and it accepts everybody before it closes its own.
    """
    journal.event(f"stopping: requests in flight have {GRACE:g} s to finish")
    grace_ends = stops[0] + GRACE + _FLUSH
    while not supervisor.drain(time.monotonic()) and time.monotonic() < grace_ends and len(stops) == 1:
        _take_events(supervisor, inbox, TICK / 2)
        if supervisor.drains:
            for sock in public:
                sock.close()
        supervisor.tick_workers(time.monotonic())
    supervisor.end_app()
    supervisor.end_workers(kill=False)
    killing = time.monotonic() + _WORKERS_PATIENCE
    while not supervisor.reap():
        if time.monotonic() >= killing:
            supervisor.end_workers(kill=True)
        _take_events(supervisor, inbox, TICK / 5)


def _take_events(supervisor: Supervisor, inbox: Inbox, timeout: float) -> None:
    """Wait for an event, then take all there are."""
    try:
        entry = inbox.get(timeout=timeout)
        while True:
            if entry is not None:
                supervisor.handle(*entry, time.monotonic())
            entry = inbox.get_nowait()
    except queue.Empty:
        return


def _make_folder(folder: Path, *, private: bool) -> None:
    try:
        folder.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
        if private:
            folder.chmod(0o700)
            probe = folder / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
    except OSError as exc:
        raise Refused(f"the folder {folder} can't be used ({exc.strerror or exc}): make it writable, or name another "
                      "in .env", EXIT_FOLDER) from exc


def _second(run_folder: Path) -> str:
    try:
        pid = (run_folder / "watchdog.lock").read_text().strip()
    except OSError:
        pid = ""
    holder = f" (pid {pid})" if pid.isdigit() else ""
    return (f"another watchdog{holder} runs for {run_folder} already: stop it first, or set RUN_FOLDER_NAME and "
            "LISTEN_PORT for a second service")


def _clean(run_folder: Path, sockets: LaneSockets) -> None:
    sentinel.sweep(run_folder)
    for name in list(sockets.lanes):
        sockets.close(name)
    for name in ("state.json", "threads"):
        with contextlib.suppress(OSError):
            (run_folder / name).unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
