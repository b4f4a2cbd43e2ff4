"""Distribution strategies: the GPUs of one or several hosts, or logical CPU devices."""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import keras
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo.errors import UserError

NUM_COMPARED = 64  # settings of a host
FAILED = -1  # number of a chief that has found an error
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)
FIRST = "Call `kpzoo.training.make_strategy` before anything else touches TensorFlow."


def hosts() -> tuple[int, int]:
    """Returns (index, number of hosts) of this process according to `TF_CONFIG`; (0, 1) without it.

    Host 0 is the chief. `TF_CONFIG` is parsed by TensorFlow, as it is for `MultiWorkerMirroredStrategy`.

    Raises:
        UserError: If `TF_CONFIG` does not list this process among the hosts of its cluster.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return 0, 1
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster = resolver.cluster_spec()
        jobs = [job for job in ("chief", "worker") if job in cluster.jobs]
        tasks = [(job, task) for job in jobs for task in cluster.task_indices(job)]
        return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG does not list this process among its hosts ({type(error).__name__}: {error}). "
            f'Received: {text!r}. Expected: {{"cluster": {{"worker": ["host:port", …]}}, '
            '"task": {"type": "worker", "index": 0}}.'
        ) from None


def is_chief() -> bool:
    """Returns whether this process is the chief, which writes the files."""
    return hosts()[0] == 0


def make_strategy(num_devices: int | None = None, over_hosts: bool = True) -> tf.distribute.Strategy:
    """Returns a mirrored strategy over GPUs or logical CPU devices, of one host or of all hosts of `TF_CONFIG`.

    Args:
        num_devices: Number of devices per host. Defaults to all GPUs, or one CPU device if there is no GPU.
        over_hosts: Whether to use all hosts of `TF_CONFIG`; otherwise this host only.

    Raises:
        UserError: If there are fewer devices, or TensorFlow has already been initialized with other devices.
    """
    if num_devices is not None and num_devices < 1:
        raise UserError(f"The number of devices must be at least 1. Received: {num_devices}.")
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if over_hosts and hosts()[1] > 1:
        if num_devices and num_devices > max(num_gpus, 1):
            raise UserError(f"This host has {num_gpus} GPUs, or one CPU. Received: {num_devices} devices.")
        return _over_hosts(num_devices)
    if num_gpus:
        if num_devices and num_devices > num_gpus:
            raise UserError(f"This machine has {num_gpus} GPUs. Received: {num_devices} devices.")
        return tf.distribute.MirroredStrategy([f"/gpu:{index}" for index in range(num_devices or num_gpus)])
    num_devices = num_devices or 1
    if num_devices > 1:
        _split_cpu(num_devices)
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(num_devices)])


@lru_cache(maxsize=1)  # the hosts connect only once
def _over_hosts(num_devices: int | None) -> tf.distribute.MultiWorkerMirroredStrategy:
    try:
        if num_devices and (gpus := tf.config.list_physical_devices("GPU")):
            tf.config.set_visible_devices(gpus[:num_devices], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(f"{error}.", FIRST) from None


def of_chief(strategy: tf.distribute.Strategy, number: int) -> int:
    """Returns the chief's number on every host. Blocks until all hosts have called it."""
    return int(_of_all(strategy, [number])[0, 0])


def told_by_chief(strategy: tf.distribute.Strategy, find: Callable[[], int]) -> int:
    """Returns on every host what `find` returns on the chief. An error of the chief ends all hosts.

    Raises:
        UserError: If `find` has raised one. The other hosts refer to the chief.
    """
    if not is_chief():
        if (number := of_chief(strategy, 0)) == FAILED:
            raise UserError("The chief has stopped with an error, see its messages.")
        return number
    try:
        number = find()
    except UserError:
        of_chief(strategy, FAILED)
        raise
    return of_chief(strategy, number)


def check_same(strategy: tf.distribute.Strategy, settings: Mapping) -> None:
    """Compares the settings of all hosts, and blocks until all have called it.

    Args:
        settings: JSON values by name, the same names on every host of one version of kpzoo.

    Raises:
        UserError: On every host, if a host has other settings than the chief.
    """
    if hosts()[1] == 1:
        return
    names = sorted(settings)
    if len(names) >= NUM_COMPARED:
        raise ValueError(f"At most {NUM_COMPARED - 1} settings are compared. Received: {len(names)}.")
    digests = [_digest([kpzoo.__version__, names]), *(_digest(settings[name]) for name in names)]
    found = _of_all(strategy, digests + [0] * (NUM_COMPARED - len(digests)))
    for host in range(1, len(found)):
        columns = np.flatnonzero(found[host] != found[0])
        if len(columns) and columns[0] == 0:
            raise UserError(f"Host {host} has another version of kpzoo than the chief. Install the same on all hosts.")
        if len(columns):
            others = [names[column - 1] for column in columns]
            here = ", ".join(f"{name}={str(settings[name])[:200]}" for name in others)
            raise UserError(
                f"Host {host} has other settings or data than the chief: {', '.join(others)}. "
                f"Received on host {hosts()[0]}: {here}. Start the same command on all hosts."
            )


def _digest(value) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _of_all(strategy: tf.distribute.Strategy, numbers: Sequence[int]) -> np.ndarray:
    """Returns the (hosts, N) numbers of all hosts. Blocks until all hosts have called it."""
    index, num_hosts = hosts()
    if num_hosts == 1:
        return np.asarray([numbers])

    @tf.function
    def shared():
        context = tf.distribute.get_replica_context()
        per_host = context.num_replicas_in_sync // num_hosts
        rows = tf.one_hot([index], num_hosts, axis=0, dtype=tf.float64) * tf.constant([numbers], tf.float64)
        mine = tf.where(context.replica_id_in_sync_group % per_host == 0, rows, 0.0)  # one replica of a host
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    found = strategy.experimental_local_results(strategy.run(shared))[0]
    return found.numpy().astype(np.int64)


@contextmanager
def other_hosts_needed() -> Iterator[None]:
    """Context manager in which the loss of another host is an error of the user, told in a line."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if hosts()[1] == 1 or "Collective ops is aborted" not in error.message:
            raise
        raise UserError("The hosts have built different networks. Start the same command on all hosts.") from None
    except LOST as error:
        if hosts()[1] == 1:
            raise
        raise UserError(
            f"Another host has stopped, or cannot be reached ({type(error).__name__}). Its messages tell why. "
            "Start the command on all hosts again: the run goes on from its last checkpoint."
        ) from None


def _split_cpu(num_devices: int) -> None:
    """Splits the CPU into logical devices, which TensorFlow allows only before its first operation."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if len(configured) >= num_devices:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    except RuntimeError:
        raise UserError(
            f"TensorFlow has already started with {max(len(configured), 1)} CPU devices, not {num_devices}.",
            FIRST,
        ) from None


def synchronize_batch_norm(model: keras.Model) -> None:
    """Synchronizes all batch normalization layers over the replicas. To be called before `fit`."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
