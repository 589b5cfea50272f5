"""A worker process: `python -m mayfly.workers`, started by the watchdog and by nobody else.

It reads one line on stdin that says what to be (`Spec`), loads its model, writes its sentinel, tells the watchdog
that it is ready, and serves until it is spent, told to end, or orphaned. Exit codes: see `exits`.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys

from mayfly.compat.process import contain_native_code, die_with_parent, forbid_core_dumps
from mayfly.compat.sockets import inherited_socket
from mayfly.engines.llamacpp import tuned
from mayfly.errors import FileUnusable, MayflyError
from mayfly.models.inventory import Inventory
from mayfly.wire import exits
from mayfly.wire.events import CannotLoad, EventPipe, Log
from mayfly.wire.spec import Spec, read_spec
from mayfly.wire.thread_table import Table
from mayfly.workers.accept import ModelFile
from mayfly.workers.vocabularies import Vocabularies
from mayfly.workers.worker import Worker, load_completions, load_embeddings, load_to_fork


def main() -> int:
    """Be the worker that the watchdog asks for."""
    events = EventPipe.instead_of_stdout()
    spec = read_spec(sys.stdin, Spec)
    die_with_parent(spec.parent)
    if not spec.settings.debug:
        forbid_core_dumps()
    # Writes the stacks of a process that crashes, or that the watchdog aborts because it hangs, to stderr.
    faulthandler.enable()
    contain_native_code()
    # Ctrl-C is the watchdog's business. A Python handler for SIGTERM would have to wait for native code to return.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = inherited_socket(spec.listen_fd)
    listener.setblocking(False)
    table = Table.join(spec.budget)
    if spec.kind == "vocabulary":  # its `model_file` is MODEL_PATH
        settings = spec.settings
        inventory = Inventory(spec.model_file, (settings.embed_model, settings.model_name))
        templates = settings.prompt_template, settings.system_template
        return Worker(spec, listener, table, events).count(Vocabularies(inventory, settings.model_name, templates))
    # A folder's mark changes when another one is put in its place.
    model_file = ModelFile(spec.model_file, tuned.folder())

    def note(line: str) -> None:
        events.send(Log(line))

    try:
        if spec.kind == "embedding":
            embedder = load_embeddings(spec, note)
        elif spec.role == "template":
            completer, written = load_to_fork(spec, note)
        else:
            completer = load_completions(spec, note)
    except MayflyError as exc:
        print(exc, file=sys.stderr)
        # Callers are told the reason, and needn't know where on this machine the file is.
        events.send(CannotLoad(str(exc).replace(f"{spec.model_file.parent}{os.sep}", ""),
                               isinstance(exc, FileUnusable)))
        return exits.CANNOT_LOAD
    if spec.role == "template":
        from mayfly.workers.template import Template

        return Template(spec, completer, written, listener, table, model_file, events).run()
    gc.freeze()
    worker = Worker(spec, listener, table, events, model_file)
    return worker.embed(embedder) if spec.kind == "embedding" else worker.complete(completer)


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
