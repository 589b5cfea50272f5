"""The supervisor: keeps every position filled, and says what became of each process.

`tick(now)` looks at every process, asks `policy` for a verdict and acts on it; `handle(...)` takes events. Both run
in one loop and nothing else does, so there is no state to lock. The OS work is done by the spawner's processes, the
clock comes in from outside: tests drive both.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from mayfly.compat.process import WINDOWS
from mayfly.settings import Settings
from mayfly.supervision.child import Handle
from mayfly.supervision.forks import Forks
from mayfly.supervision.lane import Lane
from mayfly.supervision.process import Position, Process
from mayfly.supervision.records import Records
from mayfly.supervision.residency import Residency, Sockets
from mayfly.wire import board, sentinel
from mayfly.wire.events import (
    Access,
    CannotLoad,
    Dismiss,
    Drains,
    Exited,
    Forked,
    Keep,
    Log,
    Ready,
    Remembered,
    Served,
    Told,
    Want,
)
from mayfly.wire.thread_table import Allotment, Table

# What goes on not to work is said once in so many seconds.
_COMPLAIN_AGAIN = 60.0


class Spawner(Protocol):
    """Starts processes."""

    def start(self, position: Position, process: Process, on_event: Callable[[Told], None]) -> Handle:
        """Start the process of a position.

        Args:
            on_event: called from a thread with each event.

        Raises:
            OSError: the system refuses.
        """

    def adopt(self, pid: int) -> Handle:
        """Return the handle of a process that a template has forked."""


class Supervisor:
    """Supervises the web process and the lanes' workers.

    Args:
        lanes: of the configured models.
        sockets: opens and closes the lanes of models that are asked for.
        run_folder: where sentinels and the board are.
        table: the thread budget; places of dead processes are freed here.

    Attributes:
        drains: the web process has said that it does.
    """

    def __init__(self, settings: Settings, lanes: dict[str, Lane], *, spawner: Spawner, sockets: Sockets,
                 records: Records, run_folder: Path, table: Table) -> None:
        self._settings = settings
        self._spawner = spawner
        self._sockets = sockets
        self._records = records
        self._run_folder = run_folder
        self._table = table
        self._forks = Forks(run_folder, records, spawner.adopt)
        self._residency = Residency(settings, sockets, table)
        self._allotment = Allotment()
        self._inbox: queue.SimpleQueue[tuple[Process, Told] | None] = queue.SimpleQueue()
        self._published: dict[str, Any] | None = None
        self._complain_at = 0.0
        self._leaving: list[Lane] = []
        self._told: Process | None = None
        self.app = Position("app", None, "app")
        self.lanes: dict[str, Lane] = {}
        self.drains = False
        for lane in lanes.values():
            self._join(lane)

    # -- the loop's entries -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look at every process, judge it and act; start what is due; publish what changed."""
        self._look(self.app, now)
        self.tick_workers(now)

    def tick_workers(self, now: float) -> None:
        """The same without the web process, which drains: the workers go on for those who still wait."""
        for lane in self.lanes.values():
            for position in lane.positions:
                self._look(position, now)
            for process in list(lane.generations.values()):
                self._judge(process, now)
            lane.give_turns(self._settings.chat_processes)
        self._move_lanes(now)
        self._publish(now)

    def wake(self) -> None:
        """Have `take_events` return. May be called by a signal's handler."""
        self._inbox.put(None)

    def take_events(self, timeout: float, clock: Callable[[], float]) -> None:
        """Wait so long for an event, then take all there are."""
        try:
            entry = self._inbox.get(timeout=timeout)
            while True:
                if entry is not None:
                    self.handle(*entry, clock())
                entry = self._inbox.get_nowait()
        except queue.Empty:
            return

    def handle(self, process: Process, told: Told, now: float) -> None:
        """Take an event that a process sent."""
        event, lane = told.event, process.lane
        if process.dismissed:
            return
        if told.dropped:
            self._records.journal.event(f"{process.name}: {told.dropped} events found no room in its pipe")
        if isinstance(event, Access):
            process.calls += 1
            self._records.journal.access(event.line)
        elif isinstance(event, Log):
            self._records.journal.event(f"{process.name}: {event.line}")
        elif isinstance(event, Drains):
            self.drains = True
        elif isinstance(event, Want):
            self._residency.want(event.model, told.at, self.lanes, now)
        elif isinstance(event, Dismiss):
            self._residency.dismiss(event.model)
        elif isinstance(event, Keep):
            self._residency.keep(event.model, event.seconds, self.lanes)
        elif lane is None:
            return  # the rest is a worker's to say
        elif isinstance(event, Ready):
            process.model, lane.engine, lane.prefixes = event.model, event.facts, None
            self._records.came_up(process, now)
        elif isinstance(event, CannotLoad):
            process.reason, process.unusable = event.reason, event.unusable
        elif isinstance(event, Served):
            lane.use.note(event.when or told.at)
            lane.use.expected = 0.0
            for server in (process, lane.generations.get(event.generation)):
                if server is not None:
                    server.calls, server.served = server.calls + event.calls, event
        elif isinstance(event, Remembered):
            lane.prefixes = event
        elif isinstance(event, Forked):
            self._forks.forked(lane, process, event, now)
        elif isinstance(event, Exited):
            self._forks.exited(lane, process, event, now)

    def renew(self, lanes: list[str], now: float) -> None:
        """Replace the processes of lanes whose sockets were made anew. What they are computing is tried again."""
        for name in lanes:
            for process in self.lanes[name].processes() if name in self.lanes else ():
                process.end("changed", "its socket was made again", now)

    # -- lanes that come and go -------------------------------------------------------------------------------

    def _join(self, lane: Lane) -> None:
        """Give a lane places in the thread budget and positions that the next look fills."""
        self.lanes[lane.name] = lane
        lane.settle(self._allotment, self._settings.chat_processes)

    def _finish_leaving(self, lane: Lane, now: float) -> None:
        """Let go of a lane that leaves, once its last process has ended."""
        for position in lane.positions:
            process = position.process
            if process is not None and process.handle.poll() is not None:
                self._forks.lose_all(lane)
                process.bury()
                position.process = None
            elif process is not None:
                process.judge(self._settings, now)
        if not lane.processes():
            self._leaving.remove(lane)
            self._table.free(lane.places)
            self._allotment.give_back(lane.places)

    def _move_lanes(self, now: float) -> None:
        for lane in list(self._leaving):
            self._finish_leaving(lane, now)
        for lane in self._residency.to_close(self.lanes, self._leaving, now):
            # Nobody can call it any more, and its processes are told to end.
            self._sockets.close(lane.name)
            del self.lanes[lane.name]
            self._leaving.append(lane)
            lane.left = True
            for process in lane.processes():
                process.end("ended", "", now)
            why = lane.lost or lane.starts.failing
            self._records.journal.event(f"{lane.name} leaves" + (f": {why}" if why else ""))
        for lane in self._residency.to_open(self.lanes, self._leaving, now):
            self._records.journal.event(f"{lane.name} opens" + (f" as {lane.stem}" if lane.stem != lane.name else ""))
            self._join(lane)

    # -- processes of positions -------------------------------------------------------------------------------

    def _look(self, position: Position, now: float) -> None:
        process = position.process
        if process is None and position.lane is not None and position.lane.lost:
            return
        if process is None:
            if position.mended(now):
                self._records.journal.event(f"{position.name}: its model's file is another one now; trying that")
                position.start_over(now)
            if now >= position.start_at:
                self._start(position, now)
            return
        # Before the exit: a process that removed its sentinel and exited meanwhile was ready.
        if not process.ready and sentinel.touched(process.sentinel) is not None:
            self._records.came_up(process, now)
        code = process.handle.poll()
        if code is None:
            self._judge(process, now)
        else:
            # What it told last (a call served, a generation's end) belongs to the verdict on its exit.
            self.take_events(0, lambda: now)
            self._exited(position, process, code, now)

    def _start(self, position: Position, now: float) -> None:
        lane = position.lane
        if lane is not None and self._residency.loses_file(lane):
            return
        number = 0 if lane is None else lane.take_number()
        name = f"{position.name}-{number}" if position.role == "once" else position.name
        process = Process(name, lane, number, self._run_folder / f"{name}.watchdog", now, turn=position.role != "once")
        sentinel.Sentinel(process.sentinel).remove()
        position.take_mark()
        try:
            process.handle = self._spawner.start(position, process, lambda told: self._inbox.put((process, told)))
        except OSError as exc:
            delay = position.backoff.delay(0.0, answered=False)
            position.start_at = now + delay
            self._records.journal.event(f"{name} can't be started: {exc}; next try in {delay:.1f} s")
            return
        process.heartbeat.observe(None, now)
        position.process = process

    def _judge(self, process: Process, now: float) -> None:
        if process.judge(self._settings, now):
            self._records.journal.event(f"{process.spoken}: {process.reason}; ending it")

    def _exited(self, position: Position, process: Process, code: int, now: float) -> None:
        verdict, said = process.judge_exit(code)
        lane = position.lane
        position.process, position.start_at = None, now
        self._table.free(position.places)
        lost = self._forks.lose_all(lane) if lane is not None else []
        lived_ready = now - process.ready_at if process.ready_at is not None else 0.0
        answered = process.calls > 0
        if verdict == "failed_start" and lane is not None and self._residency.loses_file(lane):
            verdict = "changed"  # it went while it was loaded
        if verdict == "spent" and position.role == "once":
            self._records.spent(process)
        elif verdict in ("changed", "spent", "ended"):
            what = process.reason or ("its model file was replaced" if verdict == "changed" else "it ended")
            if lane is None or not self._residency.loses_file(lane):
                self._records.journal.event(f"{process.name}: {what}; starting it again")
            if verdict == "changed":
                position.start_over(now)
            else:
                position.start_at = now + position.backoff.delay(lived_ready, answered=answered)
        else:
            if not process.ready and verdict == "crashed":
                process.reason = "it was killed from outside while it loaded"
                if lane is not None:
                    lane.starts.struggling = True
            awaited = verdict == "crashed" and lane is not None and self._sockets.waiting(lane.name)
            delay = position.backoff.delay(lived_ready, answered=answered,
                                           serving=awaited or (process.ready and "request" in said))
            position.start_at = now + delay
            self._records.failed(process, verdict, code, said, now, tail=process.handle.tail(), lost=lost,
                                 then=f"; starting it again in {delay:.1f} s")
        process.bury()

    # -- the board --------------------------------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        public = {**self._residency.public(), **{name: lane.public() for name, lane in self.lanes.items()}}
        path = self._run_folder / "state.json"
        if public == self._published and path.exists():
            return
        try:
            board.publish(path, public)
        except OSError as exc:
            if now >= self._complain_at:
                self._complain_at = now + _COMPLAIN_AGAIN
                self._records.journal.event(f"{path} can't be written: {exc.strerror or exc}; trying on")
            return
        self._published = public

    # -- stopping ---------------------------------------------------------------------------------------------

    def drain(self, now: float) -> bool:
        """Have the web process finish what it has; call it again and again until it is True, when that has ended.

        One that dies before it says that it drains is replaced, and told again: callers wait in the listening sockets,
        and somebody has to answer them. `drains` is True from then on.
        """
        process = self.app.process
        if process is not None and process is self._told:
            code = process.handle.poll()
            if code is not None and (code == 0 or self.drains or WINDOWS):  # there being told is being ended
                process.handle.close()
                self.app.process = None
                return True
            self._look(self.app, now)
            return False
        self._look(self.app, now)
        process = self.app.process
        if process is not None and process.well:
            process.handle.terminate()
            self._told = process
        return False

    def pids(self) -> Iterator[int]:
        """Yield the pids of all model processes, a template before its generations: as one ends, what it used is
        rather missed for a moment than counted twice."""
        for lane in self._all_lanes():
            for process in [*lane.processes(), *lane.generations.values()]:
                yield process.handle.pid

    def end(self, *, kill: bool) -> None:
        """End the web process if it hasn't ended by itself, and ask all workers to end, or end them."""
        if self.app.process is not None:
            self.app.process.handle.kill()
        for lane in self._all_lanes():
            for process in lane.processes():
                process.handle.kill() if kill else process.handle.terminate()

    def reap(self) -> bool:
        """Take note of exits without judging them; tell whether every process is gone."""
        positions = [self.app, *(position for lane in self._all_lanes() for position in lane.positions)]
        for position in positions:
            if position.process is not None and position.process.handle.poll() is not None:
                position.process.handle.close()
                position.process = None
        return all(position.process is None for position in positions)

    def _all_lanes(self) -> list[Lane]:
        return [*self.lanes.values(), *self._leaving]
