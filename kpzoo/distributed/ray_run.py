"""Runs the chunks of a job with Ray Data: one task lists the pictures, a pool of actors keeps its models."""

import json
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kpzoo.distributed.chunks import Chunk, chunks
from kpzoo.distributed.worker import Job, Worker
from kpzoo.errors import UserError

AUTO, LOCAL = "auto", "local"
STORE_BYTES = 200_000_000  # of a local Ray's object store; chunks are lists of names
DEATHS = 3  # of workers at one chunk, after which the run ends


def imported():
    """Imports Ray with Ray Data, or raises an error that names the extra to install."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"Ray is needed ({error}). Install it with `pip install 'kpzoo[ray]'`.") from None
    return ray


@contextmanager
def connected(address: str, workers: int, num_cpus: float, metrics_port: int | None = None):
    """Connects to a cluster, starts one on this machine, or uses the connection that the program has.

    Args:
        address: "auto" for the cluster that this machine belongs to, or one of its own if there is none; "local" for
            one of its own; or the address of a cluster.
        workers, num_cpus: The CPUs that a cluster of its own offers are at least those that they need.
        metrics_port: Of the metrics of a cluster of its own; None for any.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = imported()
    if ray.is_initialized():
        yield ray
        return
    quiet = dict(logging_level="warning", log_to_driver=False)
    on_main = threading.current_thread() is threading.main_thread()
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        try:
            if address == LOCAL:
                raise ConnectionError
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            if address not in (AUTO, LOCAL):
                raise UserError(f"No Ray cluster answers at {address!r}: {error}.") from None
            needed = max(os.cpu_count() or 1, int(-(-workers * num_cpus // 1)))
            own = dict(num_cpus=needed, include_dashboard=False, object_store_memory=STORE_BYTES)
            ray.init("local", **own, _metrics_export_port=metrics_port, **quiet)
        if on_main:  # Ray has replaced what the program does
            signal.signal(signal.SIGTERM, on_termination)
        yield ray
    finally:
        ray.shutdown()


def run(job: Job, source, size: int, address: str, workers: int, num_cpus: float, num_gpus: float) -> Iterator[dict]:
    """Yields the counts of each chunk as it is done, in any order, see `Worker`."""
    with connected(address, workers, num_cpus) as ray:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        before = context.target_max_block_size, context.enable_progress_bars
        context.target_max_block_size, context.enable_progress_bars = 1, False  # blocks of one chunk each
        try:
            listed = ray.data.read_datasource(_datasource(ray)(source, size), override_num_blocks=1, num_cpus=0)
            with warnings.catch_warnings():  # until 2.64, limits of restarts have no other argument
                warnings.simplefilter("ignore", DeprecationWarning)
                done = listed.map_batches(
                    ChunkWorker,
                    fn_constructor_args=(job,),
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    max_restarts=-1,
                    max_task_retries=DEATHS,
                )
            for batch in done.iter_batches(batch_size=None):
                for answer in map(json.loads, batch["answer"]):
                    if "error" in answer:
                        message, *advice = answer["error"]
                        raise UserError(message, *advice)
                    yield answer
        finally:
            context.target_max_block_size, context.enable_progress_bars = before


class ChunkWorker:
    """A `Worker` of Ray Data. Mistakes of the user are rows, so that they end the run and are not repeated."""

    def __init__(self, job: Job):
        self._worker = Worker(job)

    def __call__(self, batch: dict) -> dict:
        """Returns the counts of a chunk, or the texts of an error, as JSON: columns of Ray Data have one type."""
        if batch["error"][0]:
            return {"answer": [batch["error"][0]]}
        try:
            columns = {key: batch[key][0] for key in ("number", "paths", "names", "digest")}
            columns |= {key: list(columns[key]) for key in ("paths", "names")}
            answer = self._worker(Chunk(**columns))
        except UserError as error:
            answer = {"error": error.args}
        return {"answer": [json.dumps(answer)]}


def _datasource(ray):
    """Returns the class of the source: Ray is imported by those who ask for it only."""
    import pyarrow
    from ray.data.block import BlockMetadata

    strings = pyarrow.list_(pyarrow.string())
    fields = [("number", pyarrow.int64()), ("paths", strings), ("names", strings), ("digest", pyarrow.string())]
    schema = pyarrow.schema([*fields, ("error", pyarrow.string())])

    def table(number=0, paths=(), names=(), digest="", error=""):
        row = dict(number=number, paths=list(paths), names=list(names), digest=digest, error=error)
        return pyarrow.Table.from_pylist([row], schema)

    class Chunks(ray.data.Datasource):
        """A source whose one task lists pictures while others are predicted."""

        def __init__(self, source, size: int):
            super().__init__()
            self._source, self._size = source, size

        def estimate_inmemory_data_size(self):
            return None

        def get_read_tasks(self, parallelism, *_, **__):
            source, size = self._source, self._size

            def read():
                try:
                    for chunk in chunks(source, size):
                        yield table(**vars(chunk))
                except UserError as error:
                    yield table(error=json.dumps({"error": error.args}))

            nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(read, nothing_known)]

    return Chunks
