"""The threads that run the application: started when they are needed, up to a limit, and then kept."""

from __future__ import annotations

from typing import Any

from waitress.task import ThreadedTaskDispatcher


class Threads(ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's dispatcher, which would start all of its threads at once and slow the start down.

    Args:
        most: threads at most; beyond it tasks wait for a thread.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.set_thread_count(min(most, 4))

    def add_task(self, task: Any) -> None:
        """Have a task run by an idle thread, or by a new one."""
        with self.lock:
            running = len(self.threads) - self.stop_count
            idle = running - self.active_count
            wanted = running + 1 if 0 < running < self._most and len(self.queue) >= idle else 0
        if wanted:
            self.set_thread_count(wanted)
        super().add_task(task)

    def busy(self) -> bool:
        """Tell whether a thread is at work; what clients that have left asked for counts too."""
        return bool(self.active_count or self.queue)

    def dismiss(self) -> None:
        """Let the threads end, each after its task."""
        self.set_thread_count(0)
