"""What serves a lane's calls, in a process of its own or in a thread of `python app.py` alone: all of them ("serve"),
or one ("once")."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from mayfly.compat.pages import Span, release_zeros
from mayfly.engines import choose
from mayfly.engines.base import CompletionEngine, EmbeddingEngine
from mayfly.wire import exits
from mayfly.wire.events import EventPipe, Ready, Served
from mayfly.wire.sentinel import Sentinel
from mayfly.wire.spec import Spec
from mayfly.wire.thread_table import Table
from mayfly.workers import forks
from mayfly.workers.accept import TICK, Door, Line, ModelFile
from mayfly.workers.budget import Budget
from mayfly.workers.counting import Counter
from mayfly.workers.embedding import Embedder
from mayfly.workers.gathering import LaneEnd
from mayfly.workers.prefix_store import PrefixStore
from mayfly.workers.serving import Completer
from mayfly.workers.vocabularies import Vocabularies

# How often the watchdog is told of calls for embeddings that were served, at most (s).
_TELL_INTERVAL = 0.1


def load_embeddings(spec: Spec, note: Callable[[str], None]) -> EmbeddingEngine:
    """Load an embedding model.

    Args:
        note: told what people should know of it.

    Raises:
        ModelUnavailable: it can't be loaded.
    """
    settings = spec.settings
    return choose.load_embeddings(
        spec.model_file, settings.threads, spec.model, engine=settings.embed_engine,
        precision=settings.embed_precision, note=note)


def load_completions(spec: Spec, note: Callable[[str], None]) -> CompletionEngine:
    """Load a completion model, and test it.

    Args:
        note: told what people should know of it.

    Raises:
        ModelUnavailable: it can't be loaded, or is damaged.
    """
    engine = _load_completions(spec, note)
    engine.self_test()
    return engine


def load_to_fork(spec: Spec, note: Callable[[str], None]) -> tuple[CompletionEngine, list[Span]]:
    """Load a completion model in the process that only forks, and test it in a fork.

    Args:
        note: told what people should know of it.

    Returns:
        The engine, and what a call writes of this process's memory.

    Raises:
        ModelUnavailable: it can't be loaded, or is damaged.
    """
    engine = _load_completions(spec, note)
    release_zeros()
    return engine, forks.see_through(engine.self_test)


def _load_completions(spec: Spec, note: Callable[[str], None]) -> CompletionEngine:
    settings = spec.settings
    return choose.load_completions(spec.model_file, settings.threads, settings.n_ctx, settings.device, spec.model,
                                   *spec.templates(), engine=settings.chat_engine, note=note)


class Worker:
    """A lane's one server, or one of them.

    Args:
        model_file: what is loaded; without it nothing is looked after.
    """

    def __init__(self, spec: Spec, listener: socket.socket, table: Table, events: EventPipe,
                 model_file: ModelFile | None = None) -> None:
        self._spec = spec
        self._listener = listener
        self._table = table
        self._events = events
        self._model_file = model_file
        self._facts = {"pid": os.getpid(), "generation": spec.generation, "model": spec.model, "when": time.time()}
        self._sentinel = Sentinel(spec.sentinel(spec.generation if spec.role == "once" else None))

    def complete(self, engine: CompletionEngine) -> int:
        """Serve completions; return the exit code."""
        self._come_up(engine.facts)
        if self._spec.role == "once":
            self._stand_by()
        store = PrefixStore.of(self._spec.settings.prefix_memory) if self._spec.role == "serve" else None
        completer = Completer(engine, generation=self._spec.generation, sentinel=self._sentinel,
                              budget=self._budget(engine.set_threads), facts=self._facts,
                              lend=None if store is None else store.lend)
        door = Door(self._listener, self._spec.address, Line.take, lambda: self._occupy(1))

        def step(accepting: bool) -> int | None:
            self._sentinel.beat()
            for line, request in door.receive(TICK, 1):
                served = completer.serve(line, request)
                self._occupy(0)
                if self._spec.role == "once":
                    self._sentinel.remove()
                    self._events.send(served)
                    return exits.DONE
                self._sentinel.write(self._facts)
                self._events.send(served)
                completer.hand_back()
                for news in store.news() if store is not None else ():
                    self._events.send(news)
            self._occupy(0)
            return None

        return self._go_on(step)

    def count(self, vocabularies: Vocabularies) -> int:
        """Count tokens; return the exit code."""
        self._come_up()
        counter = Counter(vocabularies, self._lane_end(self._events.send))
        return self._go_on(lambda accepting: counter.step())

    def embed(self, engine: EmbeddingEngine) -> int:
        """Serve embeddings; return the exit code."""
        budget = self._budget(engine.set_threads, spinning=engine.threads_spin)
        self._come_up(engine.facts)
        # Each event wakes the watchdog, which would take the processor from the next call: a few a second are enough.
        calls, tell_at = 0, 0.0

        def served(call: Served) -> None:
            nonlocal calls
            calls += 1

        embedder = Embedder(engine, self._lane_end(served), budget)

        def step(accepting: bool) -> None:
            nonlocal calls, tell_at
            embedder.step(accepting=accepting)
            now = time.monotonic()
            if calls and now >= tell_at:
                self._events.send(Served(self._spec.generation, calls=calls))
                calls, tell_at = 0, now + _TELL_INTERVAL

        return self._go_on(step, lambda: embedder.idle)

    def _come_up(self, facts: dict[str, str] | None = None) -> None:
        self._sentinel.write(self._facts)
        self._events.send(Ready(self._spec.model, self._spec.generation, facts or {}))

    def _go_on(self, step: Callable[[bool], int | None], idle: Callable[[], bool] = lambda: True) -> int:
        """Take steps, which are told whether they may take calls, until one returns an exit code, or the model's file
        has changed and all that were taken are answered."""
        while True:
            changed = self._model_file is not None and self._model_file.changed()
            if changed and idle():
                self._sentinel.remove()
                return exits.MODEL_CHANGED
            code = step(not changed)
            if code is not None:
                return code

    def _budget(self, set_threads: Callable[[int], None], *, spinning: bool = True) -> Budget:
        return Budget(self._table, self._spec.places[0], self._spec.settings.threads, set_threads, spinning=spinning)

    def _lane_end(self, served: Callable[[Served], None]) -> LaneEnd:
        return LaneEnd(self._listener, self._spec.address, self._spec.generation, self._sentinel, self._facts,
                       self._occupy, served, self._spec.settings.queue_limit)

    def _occupy(self, threads: int) -> None:
        self._table[self._spec.places[0]] = threads

    def _stand_by(self) -> None:
        """Wait, loaded, until the watchdog says that it is this process's turn."""
        go = threading.Event()

        def read() -> None:
            if sys.stdin.readline():
                go.set()

        # Only this role waits on stdin, and it never forks.
        threading.Thread(target=read, name="stand-by", daemon=True).start()
        while not go.wait(TICK):
            self._sentinel.beat()
