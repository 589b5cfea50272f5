"""The web process: validates, queues, asks a lane and answers. It holds no model unless it runs alone.

Started by the watchdog as `python -m mayfly.app --supervised`, it reads one JSON line from standard input (settings,
keys, the listening sockets' descriptors, how to reach the lanes), beats its sentinel from the server's loop, reports
requests on standard output, and on SIGTERM stops in an orderly way with exit code 0. Run by hand, `python app.py` loads
the models in this one process and serves until Ctrl-C. `create_app` is a factory for other WSGI servers.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mayfly import listening, spelling
from mayfly.draining import Draining
from mayfly.errors import MayflyError, SettingError
from mayfly.settings import Settings, load_settings

if TYPE_CHECKING:
    from flask import Flask

    from mayfly.http.site import Site
    from mayfly.lanes.lane import Lane
    from mayfly.lanes.switchboard import Switchboard

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_SETTING = 2


def create_app(settings: Settings | None = None, lanes: Mapping[str, Lane] | Switchboard | None = None,
               draining: Draining | None = None) -> Flask:
    """Return the application.

    Args:
        settings: read from `.env` and the environment if absent.
        lanes: "embedding" and "completion", or those of all models; if absent, the configured models are loaded in this
            process.
        draining: tells that the service stops; shared with the server.

    Raises:
        SettingError: a setting isn't allowed.
        ModelUnavailable: a model can't be loaded in this process.
    """
    from mayfly.web.application import build
    from mayfly.web.service import Service

    settings = settings or load_settings()
    if lanes is None:
        from mayfly.workers.local import local_lanes

        folder = tempfile.TemporaryDirectory(prefix="mayfly-")
        atexit.register(folder.cleanup)
        lanes = local_lanes(settings, Path(folder.name))
    return build(Service.of(settings, lanes, draining or Draining()))


def site_of(app: Flask) -> Site:
    """Return an application as the server takes it: the one place where both meet."""
    from mayfly.http.site import Site

    return Site(app.wsgi_app, app.extensions["mayfly.gate"], app.extensions["mayfly.at_once"],
                app.extensions["mayfly.answered"], app.extensions["mayfly.probes"])


def _serve(sockets: Sequence[socket.socket], settings: Settings, lanes: Switchboard,
           log_access: Callable[[str], None], *, announce: Callable[[], None], beat: Callable[[], None],
           should_stop: _StopSignal, draining: Draining) -> None:
    from mayfly.http.server import Server

    site = site_of(create_app(settings, lanes, draining))
    server = Server(site, sockets, settings, log_access=log_access, draining=draining)
    should_stop.wake = server.wake
    announce()
    server.run(beat, should_stop)


class _StopSignal:
    """Notes that a signal came, and wakes the server's loop, which acts on it."""

    def __init__(self) -> None:
        from mayfly.compat.process import wake_on_signal

        self._came = False
        self.wake: Callable[[], None] = lambda: None
        wake_on_signal(self._note)

    def _note(self) -> None:
        self._came = True
        self.wake()

    def __call__(self) -> bool:
        return self._came


def run_alone() -> int:
    """Serve with the models in this process, until Ctrl-C or SIGTERM; return the exit code."""
    for message in spelling.messages():
        print(message, file=sys.stderr)
    from mayfly.compat.process import forbid_core_dumps
    from mayfly.models import aliases
    from mayfly.workers.local import local_lanes

    try:
        settings = load_settings()
        if not settings.debug:
            forbid_core_dumps()
        for message in aliases.astray(settings):
            print(message, file=sys.stderr)
        sockets = listening.listen(settings.listen_ip, settings.listen_port, settings.ollama_compat_port)
        # The workers' threads live to the process's end, and put a sentinel back that is taken away from them.
        temporary = tempfile.TemporaryDirectory(prefix="mayfly-", ignore_cleanup_errors=True)
        with contextlib.ExitStack() as closing, temporary as folder:
            for sock in sockets:
                closing.enter_context(sock)
            print("loading the models ...", flush=True)
            lanes = local_lanes(settings, Path(folder))
            own, others = listening.urls(sockets)
            where = " and ".join(own + others)
            _serve(sockets, settings, lanes, _print_line,
                   announce=lambda: print(f"serving on {where} (without the watchdog); Ctrl-C stops", flush=True),
                   beat=lambda: None, should_stop=_StopSignal(), draining=Draining())
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except SettingError as exc:
        print(exc, file=sys.stderr)
        return EXIT_SETTING
    except MayflyError as exc:
        print(exc, file=sys.stderr)
        return EXIT_FAILED
    return EXIT_STOPPED


def _print_line(line: str) -> None:
    # If nobody reads the output any more, the requests go on.
    with contextlib.suppress(OSError):
        print(line, flush=True)


def run_supervised() -> int:
    """Serve under the watchdog until SIGTERM; return the exit code."""
    from mayfly.compat.process import die_with_parent, forbid_core_dumps
    from mayfly.compat.sockets import inherited_socket
    from mayfly.wire.events import Access, Drains, EventPipe
    from mayfly.wire.sentinel import Sentinel
    from mayfly.wire.spec import WebSpec, read_spec

    should_stop = _StopSignal()
    # Ctrl-C reaches the watchdog, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    try:
        spec = read_spec(sys.stdin, WebSpec)
    except ValueError:
        return EXIT_FAILED
    die_with_parent(spec.parent)
    events = EventPipe.instead_of_stdout(drops=True)
    if not spec.settings.debug:
        forbid_core_dumps()
    sockets = [inherited_socket(descriptor) for descriptor in spec.listen_fds]
    for sock in sockets:
        listening.accept_newcomers(sock)
    if spec.settings.serve_on == "ray":
        from mayfly.on_ray.lanes import on_ray as lanes_of
    else:
        from mayfly.lanes.switchboard import supervised as lanes_of
    lanes = lanes_of(spec, events.send)
    sentinel = Sentinel(spec.sentinel)
    facts = {"pid": os.getpid(), "generation": spec.generation, "model": None, "when": time.time()}
    _serve(sockets, spec.settings, lanes, lambda line: events.send(Access(line)),
           announce=lambda: sentinel.write(facts), beat=sentinel.beat, should_stop=should_stop,
           draining=Draining(lambda: events.send(Drains())))
    sentinel.remove()
    return EXIT_STOPPED


def main(arguments: list[str]) -> int:
    """Run as the command line says; return the exit code."""
    if arguments == ["--supervised"]:
        return run_supervised()
    from mayfly.compat.process import open_standard_streams

    open_standard_streams()
    if arguments:
        print("usage: python app.py", file=sys.stderr)
        return EXIT_SETTING
    return run_alone()


def run() -> NoReturn:
    """Be the process that the command line asks for."""
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # A thread that still computes must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    run()
