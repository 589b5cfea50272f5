"""The supervisor: keeps every position filled, and says what became of each process.

`tick(now)` looks at every process, asks `policy` for a verdict and acts on it; `handle(...)` takes events. Both run
in one loop and nothing else does, so there is no state to lock. The OS work is done by the spawner's processes, the
clock comes in from outside: tests drive both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from mayfly.compat.process import WINDOWS
from mayfly.engines import backends
from mayfly.settings import Settings
from mayfly.supervision import policy
from mayfly.supervision.child import Process
from mayfly.supervision.forks import FORKS_EVENTS, Forks
from mayfly.supervision.journal import Journal
from mayfly.supervision.reports import Failure, Reports
from mayfly.supervision.residency import Residency, Sockets
from mayfly.supervision.watched import Forked, LaneState, Position, Watched, stamp
from mayfly.wire import board, exits, sentinel
from mayfly.wire.thread_table import Allotment, Table

_KILL_AGAIN = 1.0
# What goes on not to work is said once in so many seconds.
_COMPLAIN_AGAIN = 60.0


class Spawner(Protocol):
    """Starts processes."""

    def start(self, position: Position, watched: Watched) -> Process:
        """Start the process of a position.

        Raises:
            OSError: the system refuses.
        """


class Supervisor:
    """Supervises the web process and the lanes' workers.

    Args:
        settings: of the service.
        lanes: the configured lanes.
        run_folder: where sentinels and the board are.
        table: the thread budget; places of dead processes are freed here.
        fork_handle: makes the handle of a forked generation from its pid.
        catch_up: gives `handle` every event that has arrived and isn't handled yet.
        free_cores: see `FreeCores.look`.
        sockets: opens and closes the lanes of models that are asked for; without it there are the given lanes alone.
    """

    def __init__(self, settings: Settings, lanes: dict[str, LaneState], *, spawner: Spawner, journal: Journal,
                 reports: Reports, run_folder: Path, table: Table, now: float,
                 fork_handle: Callable[[int], Process] = Forked, catch_up: Callable[[], None] = lambda: None,
                 free_cores: Callable[[Iterable[int], float], tuple[int, int]] | None = None,
                 sockets: Sockets | None = None) -> None:
        self._settings = settings
        self._spawner = spawner
        self._journal = journal
        self._reports = reports
        self._run_folder = run_folder
        self._table = table
        self._forks = Forks(run_folder, journal, fork_handle, self._spent, self._failed)
        self._catch_up = catch_up
        self._free_cores = free_cores
        self._published: dict[str, Any] | None = None
        self._complain_at = now
        self._sockets = sockets
        self._residency = Residency(settings, sockets, self._in_use) if sockets is not None else None
        self._allotment = Allotment()
        self._leaving: list[tuple[LaneState, list[Position]]] = []
        self.lanes: dict[str, LaneState] = {}
        self.app = Position("app", "app", "app", start_at=now)
        self._told: Watched | None = None
        self.drains = False
        self.workers: list[Position] = []
        for lane in lanes.values():
            self._join(lane, now)

    # -- lanes that come and go -------------------------------------------------------------------------------

    def _join(self, lane: LaneState, now: float) -> None:
        """Give a lane places in the thread budget and positions that the next look fills."""
        self.lanes[lane.name] = lane
        processes = self._settings.chat_processes
        if lane.isolation == "respawn":
            # One more than serve: the standby. A spent process may still be exiting while its successor computes.
            lane.places = self._allotment.take(processes + 1)
            self.workers += [Position(lane.stem, lane.name, "once", (place,), start_at=now) for place in lane.places]
        elif lane.isolation == "fork":
            lane.places = self._allotment.take(processes)
            self.workers.append(Position(lane.stem, lane.name, "template", lane.places, start_at=now))
        else:
            lane.places = self._allotment.take(1)
            self.workers.append(Position(lane.stem, lane.name, "serve", lane.places, start_at=now))

    def _leave(self, lane: LaneState, now: float) -> None:
        """End a lane: nobody can call it any more, and its processes are told to end."""
        assert self._sockets is not None
        self._sockets.close(lane.name)
        del self.lanes[lane.name]
        positions = [position for position in self.workers if position.lane == lane.name]
        self.workers = [position for position in self.workers if position.lane != lane.name]
        for position in positions:
            if position.watched is not None and position.watched.process is not None:
                position.watched.dismissed = True
                position.watched.kill_at = now + _KILL_AGAIN
                position.watched.process.terminate()
        self._leaving.append((lane, positions))
        self._journal.event(f"{lane.name} leaves" + (f": {lane.failing}" if lane.failing else ""))

    def _see_off(self, now: float) -> None:
        """Let go of the lanes whose last process has ended."""
        for lane, positions in list(self._leaving):
            for position in positions:
                watched = position.watched
                if watched is None or watched.process is None:
                    continue
                if watched.process.poll() is not None:
                    self._forks.lose_all(lane)
                    sentinel.Sentinel(watched.sentinel).remove()
                    watched.process.close()
                    position.watched = None
                elif now >= watched.kill_at:
                    watched.process.kill()
                    watched.kill_at = now + _KILL_AGAIN
            if all(position.watched is None for position in positions):
                self._leaving.remove((lane, positions))
                for place in lane.places:
                    self._table[place] = 0
                self._allotment.give_back(lane.places)

    def _move_lanes(self, now: float) -> None:
        if self._residency is None:
            return
        self._see_off(now)
        leaving = [lane for lane, _ in self._leaving]
        for lane in self._residency.leavers(self.lanes, leaving, now):
            self._leave(lane, now)
        for lane in self._residency.openers(self.lanes, [lane for lane, _ in self._leaving], now):
            self._journal.event(f"{lane.name} opens" + (f" as {lane.stem}" if lane.stem != lane.name else ""))
            self._join(lane, now)

    def _in_use(self, lane: LaneState) -> bool:
        """Tell whether a process of a lane has a call now: it marks its place before it takes one."""
        return any(self._table[place] for place in lane.places)

    # -- the loop's two entries -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look at every process, judge it and act; start what is due; publish what changed."""
        self._look(self.app, now)
        self.tick_workers(now)

    def handle(self, watched: Watched, event: dict[str, Any], now: float) -> None:
        """Take an event that a process sent."""
        kind = event.get("event")
        if watched.dismissed:
            return
        if kind == "access":
            watched.calls += 1
            self._journal.access(str(event.get("line", "")))
        elif kind == "log":
            self._journal.event(f"{watched.name}: {event.get('line', '')}")
        elif kind == "ready":
            watched.model = str(event.get("model", ""))
            if watched.lane in self.lanes:
                self.lanes[watched.lane].shown = dict(event.get("facts", {}))
            self._came_up(watched, now)
        elif kind == "cannot_load":
            watched.reason = str(event.get("reason", ""))
        elif kind == "served":
            self._served(watched, event, now)
        elif kind in FORKS_EVENTS:
            self._forks.handle(self.lanes[watched.lane], watched, event, now)
        elif kind == "draining":
            self.drains = True
        elif kind == "want" and self._residency is not None:
            self._residency.want(event, self.lanes, now)

    def renew(self, lanes: list[str], now: float) -> None:
        """Replace the processes of lanes whose sockets were made anew. What they are computing is tried again."""
        for position in self.workers:
            watched = position.watched
            if position.lane in lanes and watched is not None and watched.process is not None:
                watched.condemned, watched.reason = "changed", "its socket was made again"
                watched.kill_at = now + _KILL_AGAIN
                watched.process.terminate()

    # -- processes of positions -------------------------------------------------------------------------------

    def _look(self, position: Position, now: float) -> None:
        watched = position.watched
        if watched is None:
            if now >= position.start_at:
                self._start(position, now)
            return
        assert watched.process is not None
        # Before the exit: a process that removed its sentinel and exited meanwhile was ready.
        self._notice_sentinel(watched, now)
        code = watched.process.poll()
        if code is None:
            self._look_alive(watched, now)
        else:
            # What it told last (a call served, a generation's end) belongs to the verdict on its exit.
            self._catch_up()
            self._exited(position, watched, code, now)

    def _start(self, position: Position, now: float) -> None:
        lane = self.lanes.get(position.lane)
        number = 0 if lane is None else lane.take_number()
        name = f"{position.name}-{number}" if position.role == "once" else position.name
        watched = Watched(name, position.lane, number, self._run_folder / f"{name}.watchdog", now,
                          turn=position.role != "once", embed_engine=lane.embed_engine if lane else "")
        sentinel.Sentinel(watched.sentinel).remove()
        try:
            watched.process = self._spawner.start(position, watched)
        except OSError as exc:
            delay = position.backoff.delay(0.0, answered=False)
            position.start_at = now + delay
            self._journal.event(f"{name} can't be started: {exc}; next try in {delay:.1f} s")
            return
        watched.pid = watched.process.pid
        watched.heartbeat.observe(None, now)
        position.watched = watched

    def _notice_sentinel(self, watched: Watched, now: float) -> None:
        mark = sentinel.touched(watched.sentinel)
        if mark is not None and not watched.ready:
            self._came_up(watched, now)

    def _came_up(self, watched: Watched, now: float) -> None:
        if watched.ready:
            return
        watched.ready_at = now
        if watched.lane == "app":
            self._journal.event(f"app ready after {now - watched.started:.2f} s")
            return
        lane = self.lanes[watched.lane]
        lane.came_up()
        lane.was_ready = True
        lane.generation = max(lane.generation, watched.generation)
        named = f" ({watched.model})" if watched.model else ""
        self._journal.event(f"{watched.name} ready after {now - watched.started:.2f} s{named}")

    def _look_alive(self, watched: Watched, now: float) -> None:
        """Judge a process that runs; condemn it, or finish what was begun."""
        assert watched.process is not None
        age = watched.heartbeat.observe(sentinel.touched(watched.sentinel), now)
        if watched.condemned is not None:
            if now >= watched.kill_at:
                watched.process.kill()
                watched.kill_at = now + _KILL_AGAIN
            return
        verdict = policy.judge_alive(
            ready=watched.ready, age=age, since_start=now - watched.started,
            hang_seconds=self._settings.hang_seconds, start_seconds=self._settings.start_seconds)
        if verdict == "well":
            return
        if verdict == "hung":
            watched.reason = f"no heartbeat for {age:.1f} s (HANG_SECONDS={self._settings.hang_seconds:g})"
        else:
            watched.reason = (f"not ready after {now - watched.started:.1f} s "
                              f"(START_SECONDS={self._settings.start_seconds:g})")
        self._journal.event(f"{_spoken(watched)}: {watched.reason}; ending it")
        watched.condemned = verdict
        watched.kill_at = now + policy.ABORT_PATIENCE
        watched.process.abort()

    def _exited(self, position: Position, watched: Watched, code: int, now: float) -> None:
        assert watched.process is not None
        there = sentinel.read(watched.sentinel)
        verdict = policy.judge_exit(
            ready=watched.ready, sentinel=there is not None,
            served=watched.calls > 0, changed=code == exits.MODEL_CHANGED, killed=exits.killed_from_outside(code),
            condemned=watched.condemned)
        position.watched = None
        position.start_at = now
        self._free_places(position)
        lane = self.lanes.get(watched.lane)
        lost = self._forks.lose_all(lane) if lane is not None else []
        lived_ready = now - watched.ready_at if watched.ready_at is not None else 0.0
        if verdict == "spent" and position.role == "once":
            self._spent(watched)
        elif verdict in ("changed", "spent", "ended"):
            what = watched.reason or ("its model file was replaced" if verdict == "changed" else "it ended")
            self._journal.event(f"{watched.name}: {what}; starting it again")
            if verdict != "changed":
                position.start_at = now + position.backoff.delay(lived_ready, answered=watched.calls > 0)
        else:
            if not watched.ready and verdict == "crashed":
                watched.reason = "it was killed from outside while it loaded"
                if lane is not None:
                    lane.struggling = True
            failure = Failure(
                watched.name, verdict, watched.pid, watched.generation, code, now - watched.started, watched.calls,
                now - watched.heartbeat.seen if watched.ready else None, watched.reason, watched.model,
                there or {}, watched.process.tail(), lost, watched.lane)
            serving = (watched.ready and "request" in (there or {})) or (
                verdict == "crashed" and self._awaited(watched.lane))
            delay = position.backoff.delay(lived_ready, answered=watched.calls > 0, serving=serving)
            position.start_at = now + delay
            self._failed(watched, failure, f"; starting it again in {delay:.1f} s", now)
        sentinel.Sentinel(watched.sentinel).remove()
        watched.process.close()

    def _awaited(self, lane: str) -> bool:
        return self._sockets is not None and lane in self.lanes and self._sockets.waiting(lane)

    def _free_places(self, position: Position) -> None:
        """A process that died while it computed can't give its threads back itself."""
        for place in position.places:
            self._table[place] = 0

    def _give_turns(self) -> None:
        """In respawn isolation: let loaded standbys serve, as many at once as CHAT_PROCESSES says."""
        for lane in self.lanes:
            self._give_turns_in([position.watched for position in self.workers
                                 if position.lane == lane and position.role == "once" and position.watched])

    def _give_turns_in(self, once: list[Watched]) -> None:
        serving = sum(1 for watched in once if watched.turn)
        for watched in sorted(once, key=lambda entry: entry.generation):
            if serving >= self._settings.chat_processes:
                return
            if not watched.turn and watched.ready and watched.condemned is None and watched.process is not None:
                watched.process.tell("go")
                watched.turn = True
                serving += 1

    # -- what a template forks --------------------------------------------------------------------------------

    def _served(self, watched: Watched, event: dict[str, Any], now: float) -> None:
        lane = self.lanes[watched.lane]
        lane.was_used(event.get("at", now))
        lane.expected = 0.0
        watched.calls += int(event.get("calls", 1))
        watched.served = event
        self._forks.served(lane, event)

    # -- what became of a process -----------------------------------------------------------------------------

    def _spent(self, watched: Watched) -> None:
        lane = self.lanes[watched.lane]
        lane.restarts["spent"] += 1
        served = watched.served or {}
        line = (f"{watched.lane} generation {watched.generation} spent after {float(served.get('seconds', 0)):.2f} s, "
                f"{served.get('tokens', 0)} tokens")
        if served.get("outcome") not in ("answered", None):
            line += f" ({served['outcome']})"
        if lane.generation > watched.generation and lane.last_fork_seconds:
            line += f"; generation {lane.generation} ready in {lane.last_fork_seconds * 1000:.0f} ms"
        self._journal.event(line)

    def _failed(self, watched: Watched, failure: Failure, then: str, now: float) -> None:
        lane = self.lanes.get(watched.lane)
        try:
            report: str | None = self._reports.write(failure)
        except OSError as exc:
            report = None
            self._journal.event(f"no failure report can be written: {exc.strerror or exc}")
        self._journal.event(f"{_spoken(watched)} {failure.cause.replace('_', ' ')}: {failure.how()}"
                            + (f", {failure.reason}" if failure.reason else "")
                            + (f"; report {report}" if report else "") + then)
        if lane is None:
            return
        lane.restarts[failure.cause] += 1
        lane.last_failure = {
            "when": stamp(), "name": failure.name, "cause": failure.cause, "how": failure.how(),
            "generation": failure.generation, "lost": failure.lost, "report": report}
        if failure.cause == "failed_start":
            lane.failed_to_start(failure.reason or (
                f"the process that loads {lane.model} died at its start ({failure.how()}); the model file may be "
                "damaged"), now)
            native = exits.died_in_native_code(failure.exit_code) and not failure.reason
            if native and lane.embed_engine == backends.AUTO:
                lane.embed_engine = backends.names("embedding")[-1]
                self._journal.event(f"{lane.name}: EMBED_ENGINE=auto means {lane.embed_engine} from now on")

    # -- the board --------------------------------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        public = {} if self._residency is None else self._residency.public()
        public.update((name, lane.public(self._ready_pid(name))) for name, lane in self.lanes.items())
        path = self._run_folder / "state.json"
        if public == self._published and path.exists():
            return
        try:
            board.publish(path, public)
        except OSError as exc:
            if now >= self._complain_at:
                self._complain_at = now + _COMPLAIN_AGAIN
                self._journal.event(f"{path} can't be written: {exc.strerror or exc}; trying on")
            return
        self._published = public

    def _ready_pid(self, lane: str) -> int | None:
        for position in self.workers:
            watched = position.watched
            if position.lane == lane and watched and watched.ready and watched.turn and watched.condemned is None:
                if watched.model:
                    self.lanes[lane].model = watched.model
                return watched.pid
        return None

    # -- stopping ---------------------------------------------------------------------------------------------

    def drain(self, now: float) -> bool:
        """Have the web process finish what it has; call it again and again until it is True, when that has ended.

        One that dies before it says that it drains is replaced, and told again: callers wait in the listening sockets,
        and somebody has to answer them. `drains` is True from then on.
        """
        watched = self.app.watched
        if watched is None or watched is not self._told:
            self._look(self.app, now)
            watched = self.app.watched
            if watched is not None and watched.process and watched.ready and watched.condemned is None:
                watched.process.terminate()
                self._told = watched
            return False
        assert watched.process is not None
        code = watched.process.poll()
        if code is not None and (code == 0 or self.drains or WINDOWS):  # there being told is being ended
            watched.process.close()
            self.app.watched = None
            return True
        self._look(self.app, now)
        return False

    def tick_workers(self, now: float) -> None:
        """While the web process drains: the workers are watched and replaced as ever, for those who still wait."""
        for position in self.workers:
            self._look(position, now)
        for lane in self.lanes.values():
            for watched in list(lane.generations.values()):
                self._look_alive(watched, now)
        self._give_turns()
        self._move_lanes(now)
        self._publish(now)
        if self._free_cores is not None:
            self._table.free_cores = self._free_cores(self._worker_pids(), now)

    def _worker_pids(self) -> Iterator[int]:
        """Yield the pids of all model processes, a template before its generations: as one ends, what it used is
        rather missed for a moment than counted twice."""
        for position in self._all_workers():
            if position.watched is not None:
                yield position.watched.pid
        for lane in self.lanes.values():
            for watched in lane.generations.values():
                yield watched.pid

    def end_app(self) -> None:
        """End the web process if it hasn't ended by itself."""
        if self.app.watched is not None and self.app.watched.process is not None:
            self.app.watched.process.kill()

    def end_workers(self, *, kill: bool) -> None:
        """Ask all workers to end, or end them."""
        for position in self._all_workers():
            if position.watched is not None and position.watched.process is not None:
                if kill:
                    position.watched.process.kill()
                else:
                    position.watched.process.terminate()

    def _all_workers(self) -> list[Position]:
        return [*self.workers, *(position for _, positions in self._leaving for position in positions)]

    def reap(self) -> bool:
        """Take note of exits without judging them; tell whether every process is gone."""
        positions = [self.app, *self._all_workers()]
        for position in positions:
            watched = position.watched
            if watched is not None and watched.process is not None and watched.process.poll() is not None:
                watched.process.close()
                position.watched = None
        return all(position.watched is None for position in positions)


def _spoken(watched: Watched) -> str:
    if watched.lane == "app":
        return watched.name
    return f"{watched.lane} generation {watched.generation}" if "-" in watched.name else watched.lane
