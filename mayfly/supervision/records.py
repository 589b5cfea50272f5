"""What became of processes: kept in their lanes' books, and written down for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mayfly.engines.backends import AUTO, SETTINGS, names
from mayfly.supervision.journal import Journal
from mayfly.supervision.process import Process
from mayfly.supervision.reports import Failure, Reports
from mayfly.wire import exits
from mayfly.wire.events import Served


class Records:
    """The journal, the reports and the lanes' books, in step."""

    def __init__(self, journal: Journal, reports: Reports) -> None:
        self.journal = journal
        self._reports = reports

    def came_up(self, process: Process, now: float) -> None:
        """Take note that a process is ready."""
        if process.ready:
            return
        process.ready_at = now
        lane = process.lane
        if lane is not None:
            lane.starts.came_up()
            lane.generation = max(lane.generation, process.generation)
        named = f" ({process.model})" if process.model else ""
        self.journal.event(f"{process.name} ready after {now - process.started:.2f} s{named}")

    def spent(self, process: Process) -> None:
        """Take note of a generation that has completed its call."""
        lane, served = process.lane, process.served or Served(process.generation)
        assert lane is not None
        lane.restarts["spent"] += 1
        line = (f"{lane.name} generation {process.generation} spent after {served.seconds:.2f} s, "
                f"{served.tokens} tokens")
        if served.outcome not in ("answered", ""):
            line += f" ({served.outcome})"
        if lane.generation > process.generation and lane.last_fork_seconds:
            line += f"; generation {lane.generation} ready in {lane.last_fork_seconds * 1000:.0f} ms"
        self.journal.event(line)

    def failed(self, process: Process, verdict: str, code: int, said: dict[str, Any], now: float, *,
               tail: Sequence[str], lost: Sequence[int] = (), then: str = "") -> None:
        """Report a failure.

        Args:
            verdict: its cause.
            said: what was in the process's sentinel.
            tail: the last lines of stderr.
            lost: the generations that ended with it.
            then: says what happens now.
        """
        lane = process.lane
        failure = Failure(
            process.name, verdict, process.handle.pid, process.generation, code, now - process.started, process.calls,
            now - process.heartbeat.seen if process.ready else None, process.reason, process.model, said, list(tail),
            list(lost), lane.name if lane else process.name)
        try:
            report: str | None = self._reports.write(failure)
        except OSError as exc:
            report = None
            self.journal.event(f"no failure report can be written: {exc.strerror or exc}")
        self.journal.event(f"{process.spoken} {verdict.replace('_', ' ')}: {failure.how()}"
                           + (f", {failure.reason}" if failure.reason else "")
                           + (f"; report {report}" if report else "") + then)
        if lane is None:
            return
        lane.restarts[verdict] += 1
        lane.last_failure = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "name": process.name, "cause": verdict,
            "how": failure.how(), "generation": process.generation, "lost": failure.lost, "report": report}
        if verdict == "failed_start":
            lane.starts.fail(process.reason or (
                f"the process that loads {lane.model} died at its start ({failure.how()}); the model file may be "
                "damaged: put a good one in its place"), now, unusable=process.unusable)
            if (lane.wanted_engine == AUTO and exits.died_in_native_code(code) and not process.reason
                    and lane.kind != "vocabulary"):
                setting = SETTINGS[lane.kind]
                lane.wanted_engine = names(lane.kind)[-1]
                self.journal.event(f"{lane.name}: {setting}=auto means {lane.wanted_engine} from now on")
