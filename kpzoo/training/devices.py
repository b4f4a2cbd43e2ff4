"""Distribution strategies: the GPUs of one or several hosts, or logical CPU devices."""

import os
from functools import lru_cache

import keras
import tensorflow as tf

from kpzoo.errors import UserError

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
    if hosts()[1] == 1:
        return number

    @tf.function
    def shared():
        context = tf.distribute.get_replica_context()
        mine = tf.where(context.replica_id_in_sync_group == 0, tf.constant(number, tf.float64), 0.0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return int(strategy.experimental_local_results(strategy.run(shared))[0])


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
