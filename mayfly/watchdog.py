"""The watchdog: binds the sockets, starts the processes, replaces them, and writes down what happened.

It is what `mayfly serve` becomes when it has made the embedding model, and `python watchdog.py` is at once. It holds no
model and speaks no HTTP. Exit codes: 0 stopped as asked, 2 a setting or a flag is wrong, 3 another watchdog runs for
the same folder, 4 the address can't be bound, 5 a folder can't be used (`mayfly.supervision.refusals`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Sequence

from mayfly import __version__, flags, listening, places, spelling
from mayfly.compat.process import forbid_core_dumps, open_standard_streams, reap_orphans, wake_on_signal
from mayfly.errors import AddressTaken, SettingError
from mayfly.models import aliases, store
from mayfly.on_ray import node
from mayfly.settings import Settings, load_settings
from mayfly.supervision import refusals
from mayfly.supervision.lane_host import TICK, LaneHost
from mayfly.supervision.refusals import Refused
from mayfly.supervision.run_folder import RunFolder

_FLUSH = 0.7


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
        for line in (*spelling.messages(), *str(exc).splitlines()):
            print(f"mayfly: {line}", file=sys.stderr)
        return refusals.SETTING
    except Refused as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return exc.code
    except OSError as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return refusals.FOLDER


def _serve(settings: Settings, folder: RunFolder) -> int:
    try:
        public = listening.listen(settings.listen_ip, settings.listen_port, settings.ollama_compat_port)
    except AddressTaken as exc:
        raise Refused(str(exc), refusals.ADDRESS) from exc
    stops: list[float] = []
    wake_on_signal(lambda: stops.append(time.monotonic()))
    with contextlib.ExitStack() as closing:
        if settings.serve_on == "ray" and importlib.util.find_spec("ray") is None:
            raise SettingError("SERVE_ON is 'ray', but that isn't installed; allowed: this, or first 'python3 start.sh "
                               "serve --on ray', or pip install -r requirements-ray.txt")
        if settings.serve_on == "ray" and not settings.ray_address:
            settings = dataclasses.replace(settings, ray_address=closing.enter_context(node.started(folder.path)))
        return _host(settings, folder, public, stops)


def _host(settings: Settings, folder: RunFolder, public: list[socket.socket], stops: list[float]) -> int:
    host = LaneHost(settings, folder, public)

    def stop() -> None:
        stops.append(time.monotonic())
        host.supervisor.wake()

    wake_on_signal(stop)
    _announce(host, public, settings)
    refusal: Refused | None = None
    try:
        try:
            while not stops:
                host.turn()
                app = host.supervisor.app.process
                reap_orphans({*host.supervisor.pids(), *([app.handle.pid] if app else [])})
        except Refused as exc:
            refusal = exc
            host.journal.event(str(exc))
            stops.append(time.monotonic())
        _stop(host, stops, public, settings)
    finally:
        host.close()
    if refusal is not None:
        raise refusal
    return 0


def _announce(host: LaneHost, public: list[socket.socket], settings: Settings) -> None:
    own, others = listening.urls(public)
    journal = host.journal
    journal.event(f"mayfly {__version__} listening on {' and '.join(own or others)}")
    if own and others:
        journal.event(f"other machines call it, with a key, by {' or '.join(others)}")
    odd = [message for hidden, message in store.unlisted(settings.model_path) if not hidden]
    for message in (*spelling.messages(), *aliases.astray(settings), *odd):
        journal.event(message)
    for name, missing in host.sockets.missing.items():
        journal.event(f"{name}: {missing}")


def _stop(host: LaneHost, stops: list[float], public: list[socket.socket], settings: Settings) -> None:
    """Let the web process finish what it has, then end the workers. A second signal ends everything at once.

    Once the web process drains, the listening sockets are its alone: who waits in them when the last copy is closed is
    reset, and it accepts everybody before it closes its own.
    """
    duck, grace = settings.lame_duck_seconds, settings.grace_seconds
    serving = f"new requests are served for {duck:g} s; then those" if duck else "requests"
    host.journal.event(f"stopping: {serving} in flight have {grace:g} s to finish")
    supervisor = host.supervisor
    grace_ends = stops[0] + duck + grace + _FLUSH
    while not supervisor.drain(time.monotonic()) and time.monotonic() < grace_ends and len(stops) == 1:
        supervisor.take_events(TICK / 2, time.monotonic)
        if supervisor.drains:
            for sock in public:
                sock.close()
        supervisor.tick_workers(time.monotonic())
    host.end()
