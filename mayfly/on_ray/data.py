"""The vectors of a file's texts by Ray Data: a task on this machine's node reads the texts, a pool of actors computes
them, and the vectors come here in the texts' order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import warnings
from collections.abc import Generator, Iterator
from typing import Any

from mayfly.on_ray.node import ENVIRONMENT, close_token_file

os.environ.update({**ENVIRONMENT, "RAY_DATA_LOG_LEVEL": "CRITICAL"})

import pyarrow  # Ray reads the environment as it is imported
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.exceptions import ExecutionTimeoutError

from mayfly.errors import ModelUnavailable, SettingError
from mayfly.on_ray.embedder import Embedder
from mayfly.on_ray.files import ROW_TEXTS, Texts
from mayfly.on_ray.host import failure, reason_in, settings_for
from mayfly.places import ABOVE
from mayfly.settings import Settings

# Characters after which a row is full; rows that an actor has at the same time, so that the next texts are there when
# some are done.
_CHARACTERS, _ROWS = 1 << 18, 2
# Who doesn't take a connection in so long (s) isn't there.
_ANSWERS = 5.0


def rows(settings: Settings, texts: Texts, done: int, model: str) -> Generator[dict[str, Any], None, None]:
    """Yield what an Embedder returns of all texts but for the first `done`, in their order.

    Raises:
        ModelUnavailable: the model can't be served, or Ray fails.
        OSError: there is no cluster.
    """
    with contextlib.ExitStack() as closing:
        # Ray tells on standard output what it does once more.
        closing.enter_context(contextlib.redirect_stdout(closing.enter_context(open(os.devnull, "w"))))
        with _hushed():
            _connect(settings.ray_address)
        closing.callback(ray.shutdown)
        try:
            with _hushed():
                found = iter(_computed(settings, texts, done, model).iter_rows())
                first = next(found, None)
            if first is not None:
                yield first
            yield from found
        except ExecutionTimeoutError as exc:
            raise ModelUnavailable("no replica has started, or answered, in START_SECONDS and REQUEST_TIMEOUT: each "
                                   f"needs a node with {settings.replica_threads} free cores") from exc
        except Exception as exc:  # Ray raises anything here
            why = reason_in(str(exc)) or f"Ray failed: {' '.join(str(exc).split())[-300:]}"
            raise ModelUnavailable(why) from exc


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Have nothing come to standard error: as it starts, Ray warns there of what is as it should be."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _connect(address: str) -> None:
    """Raises:
        OSError: nobody is there.
    """
    host, _, port = address.rpartition(":")
    try:  # where nobody listens, Ray takes a minute to say so
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()
        close_token_file()
        stop = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, namespace="mayfly", log_to_driver=False, logging_level="CRITICAL",
                 runtime_env={"env_vars": {"PYTHONPATH": str(ABOVE)}})
        signal.signal(signal.SIGTERM, stop)  # Ray has its own way to take it
    except (OSError, RuntimeError) as exc:
        raise OSError(f"the Ray cluster at {address} can't be reached: {exc}") from exc


def _computed(settings: Settings, texts: Texts, done: int, model: str) -> Dataset:
    warnings.filterwarnings("ignore", module="ray")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.memory_usage_poll_interval_s = None  # else each actor looks at its memory every second, for nobody
    context.execution_no_progress_timeout_s = settings.start_seconds + settings.request_timeout
    # A block for each row: what is smaller than a row isn't cut, and what is larger isn't gathered.
    context.target_max_block_size = 1
    fewest, most = settings.replicas
    told = settings_for(settings, model, "embedding", stays=False)
    return ray.data.read_datasource(_Source(texts, done), num_cpus=0, override_num_blocks=1).map(
        Embedder, fn_constructor_args=(told, settings.request_timeout), num_cpus=settings.replica_threads,
        compute=ActorPoolStrategy(min_size=max(1, fewest), max_size=max(1, most),
                                  max_concurrent_calls_per_actor=_ROWS, enable_true_multi_threading=True))


class _Source(Datasource):  # type: ignore[misc]
    """The texts of a file but for the first `done`, read where this process is: other nodes don't have it."""

    def __init__(self, texts: Texts, done: int) -> None:
        super().__init__()
        self._texts = texts
        self._done = done

    @property
    def supports_distributed_reads(self) -> bool:
        """See Datasource."""
        return False

    def estimate_inmemory_data_size(self) -> int | None:
        """See Datasource."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None,
                       data_context: DataContext | None = None) -> list[ReadTask]:
        """See Datasource: one, as the texts come in their order."""
        texts, done = self._texts, self._done
        return [ReadTask(lambda: _read(texts, done), BlockMetadata(None, None, None, None))]


def _read(texts: Texts, done: int) -> Iterator[pyarrow.Table]:
    try:
        for found in texts.after(done, ROW_TEXTS, _CHARACTERS):
            yield pyarrow.table({"texts": [found]})
    except (OSError, SettingError) as exc:
        raise failure(exc) from exc
