"""A worker process: `python -m mayfly.workers`, started by the watchdog and by nobody else.

It reads one line on stdin that says what to be (`Spec`), loads its model, writes its sentinel, tells the watchdog
that it is ready, and serves until it is spent, told to end, or orphaned. Exit codes: see `exits`.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from mayfly.compat.process import WINDOWS, die_with_parent, forbid_core_dumps
from mayfly.compat.sockets import inherited_socket
from mayfly.engines import choose
from mayfly.engines.base import BatchEmbeddingEngine, CompletionEngine, EmbeddingEngine, ParallelEmbeddingEngine
from mayfly.errors import MayflyError
from mayfly.models.inventory import Inventory
from mayfly.wire import exits
from mayfly.wire.events import Events
from mayfly.wire.sentinel import Sentinel
from mayfly.wire.spec import Spec, read_spec
from mayfly.wire.thread_table import Table
from mayfly.workers.accept import TICK, Door, Line, ModelFile
from mayfly.workers.budget import Budget
from mayfly.workers.counting import Counter
from mayfly.workers.embedding import Embedder
from mayfly.workers.serving import Served, serve_completion
from mayfly.workers.vocabularies import Vocabularies

# How often the watchdog is told of calls for embeddings that were served, at most (s).
_TELL_INTERVAL = 0.1

_Serve = Callable[[socket.socket, dict[str, Any]], Served]


def main() -> int:
    """Be the worker that the watchdog asks for."""
    events = Events.on_stdout()
    spec = read_spec(sys.stdin)
    die_with_parent(spec.parent)
    if not spec.settings.debug:
        forbid_core_dumps()
    # Writes the stacks of a process that crashes, or that the watchdog aborts because it hangs, to stderr.
    faulthandler.enable()
    if not WINDOWS:
        # A failed assertion of gpt4all starts gdb where there is one: seconds of delay, and so many lines with the
        # stack's contents that the assertion's own is lost. A worker starts no other program.
        os.environ["PATH"] = os.devnull
    # Ctrl-C is the watchdog's business. A Python handler for SIGTERM would have to wait for native code to return.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = inherited_socket(spec.listen_fd)
    listener.setblocking(False)
    if spec.kind == "vocabulary":
        return _vocabulary(spec, listener, events)
    model_file = ModelFile(spec.model_file)
    threads = spec.settings.threads
    try:
        if spec.kind == "embedding":
            embedder = choose.load_embeddings(
                spec.model_file, threads, spec.model, engine=spec.settings.embed_engine,
                precision=spec.settings.embed_precision, note=lambda line: events.send("log", line=line))
        else:
            completer = choose.load_completions(spec.model_file, threads, spec.settings.n_ctx, spec.settings.device,
                                                spec.model, *spec.templates())
    except MayflyError as exc:
        print(exc, file=sys.stderr)
        # Callers are told the reason, and needn't know where on this machine the file is.
        events.send("cannot_load", reason=str(exc).replace(f"{spec.model_file.parent}{os.sep}", ""))
        return exits.CANNOT_LOAD

    if spec.role == "template":
        from mayfly.workers.template import Template

        return Template(spec, completer, listener, model_file, events).run()

    worker = _Worker(spec, listener, model_file, events)
    if spec.kind == "embedding":
        return worker.embed(embedder)
    return worker.run(_completions(worker, completer, spec.generation))


def _vocabulary(spec: Spec, listener: socket.socket, events: Events) -> int:
    """Be the worker that counts tokens; its `model_file` is MODEL_PATH."""
    worker = _Worker(spec, listener, None, events)
    names = (spec.settings.embed_model, spec.settings.model_name)
    vocabularies = Vocabularies(Inventory(spec.model_file, names))
    return worker.count(vocabularies)


def _completions(worker: _Worker, engine: CompletionEngine, generation: int) -> _Serve:
    budget = worker.budget(engine.set_threads)
    return lambda connection, request: serve_completion(
        connection, request, engine, generation=generation, sentinel=worker.sentinel, budget=budget,
        facts=worker.facts)


class _Worker:
    """A process that serves calls itself: all of them ("serve"), or one ("once")."""

    def __init__(self, spec: Spec, listener: socket.socket, model_file: ModelFile | None, events: Events) -> None:
        self._spec = spec
        self._listener = listener
        self._model_file = model_file
        self._events = events
        self._table = Table.join(spec.budget)
        self.facts = {"pid": os.getpid(), "generation": spec.generation, "model": spec.model, "when": time.time()}
        self.sentinel = Sentinel(spec.sentinel(spec.generation if spec.role == "once" else None))
        gc.freeze()

    def budget(self, set_threads: Callable[[int], None], *, sleeping: bool = False,
               set_spinning: Callable[[int], None] | None = None) -> Budget:
        """Return this process's part of the thread budget."""
        return Budget(self._table, self._spec.places[0], self._spec.settings.threads, set_threads, sleeping=sleeping,
                      set_spinning=set_spinning)

    def run(self, serve: _Serve) -> int:
        """Serve until done; return the exit code."""
        self.sentinel.write(self.facts)
        self._events.send("ready", model=self.facts["model"], generation=self._spec.generation)
        if self._spec.role == "once":
            self._stand_by()
        door = Door(self._listener, self._spec.address, Line.take, lambda: self._occupy(1))
        while True:
            self.sentinel.beat()
            if self._model_file is not None and self._model_file.changed():
                self.sentinel.remove()
                return exits.MODEL_CHANGED
            came = door.hear(TICK, 1)
            if not came:
                self._occupy(0)
                continue
            ((line, request),) = came
            served = serve(line.connection, request)
            self._occupy(0)
            if self._spec.role == "once":
                self.sentinel.remove()
            else:
                self.sentinel.write(self.facts)
            self._events.send("served", generation=self._spec.generation, outcome=served.outcome,
                              seconds=round(served.seconds, 4), tokens=served.tokens)
            if self._spec.role == "once":
                return exits.DONE

    def count(self, vocabularies: Vocabularies) -> NoReturn:
        """Count tokens until the process is ended."""
        self.sentinel.write(self.facts)
        generation = self._spec.generation
        self._events.send("ready", model=self.facts["model"], generation=generation)

        def served(call: Served) -> None:
            self._events.send("served", generation=generation, outcome=call.outcome, seconds=round(call.seconds, 4),
                              tokens=call.tokens)

        counter = Counter(
            vocabularies, self._listener, self._spec.address, generation=generation, sentinel=self.sentinel,
            facts=self.facts, occupied=self._occupy, served=served, queue_limit=self._spec.settings.queue_limit)
        while True:
            counter.step()

    def embed(self, engine: EmbeddingEngine) -> int:
        """Serve embeddings until the model's file changes; return the exit code."""
        self.sentinel.write(self.facts)
        parallel = engine if isinstance(engine, ParallelEmbeddingEngine) else None
        budget = self.budget(engine.set_threads, sleeping=bool(parallel) or isinstance(engine, BatchEmbeddingEngine),
                             set_spinning=parallel.set_spinning if parallel else None)
        generation = self._spec.generation
        self._events.send("ready", model=self.facts["model"], generation=generation, facts=engine.facts)

        # Each event wakes the watchdog, which would take the processor from the next call: a few a second are enough.
        calls, tell_at = 0, 0.0

        def served(outcome: str, seconds: float, tokens: int) -> None:
            nonlocal calls
            calls += 1

        def tell() -> None:
            nonlocal calls, tell_at
            now = time.monotonic()
            if calls and now >= tell_at:
                self._events.send("served", generation=generation, calls=calls)
                calls, tell_at = 0, now + _TELL_INTERVAL

        embedder = Embedder(
            engine, self._listener, self._spec.address, generation=generation, sentinel=self.sentinel, budget=budget,
            facts=self.facts, occupied=self._occupy, served=served, queue_limit=self._spec.settings.queue_limit)
        while True:
            changed = self._model_file is not None and self._model_file.changed()
            if changed and embedder.idle:
                self.sentinel.remove()
                return exits.MODEL_CHANGED
            embedder.step(accepting=not changed)
            tell()

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
            self.sentinel.beat()


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:
        # The outermost boundary: what is written here is in the failure report.
        import traceback

        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    # No destructors of native code: gpt4all's have crashed at exit.
    os._exit(code)
