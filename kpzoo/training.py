"""What a recipe needs around `fit`: devices, optimizer, schedules, and runs that go on exactly where they stopped."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kpzoo import locks
from kpzoo.callbacks import Checkpoint, EpochLog, Events, Summary, Throughput, Validate, checkpoints, step_of
from kpzoo.data import crops
from kpzoo.data.batches import make_dataset, num_persons
from kpzoo.data.compose import Crowd
from kpzoo.data.files import PoseData
from kpzoo.data.pack import Pack, told_by_shard
from kpzoo.errors import UserError
from kpzoo.importers import save_weights
from kpzoo.models import build
from kpzoo.pose_model import PoseModel, Preset
from kpzoo.summary import LOG, RECORD

WEIGHTS = "model.weights.h5"


def make_strategy(num_devices: int | None = None) -> tf.distribute.MirroredStrategy:
    """Returns a `MirroredStrategy` over the machine's GPUs, or over that many logical CPUs where it has none.

    Args:
        num_devices: How many; None for all GPUs, or one CPU.
    """
    if num_devices is not None and num_devices < 1:
        raise UserError(f"The number of devices must be at least 1. Received: {num_devices}.")
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus:
        if num_devices and num_devices > num_gpus:
            raise UserError(f"This machine has {num_gpus} GPUs. Received: {num_devices} devices.")
        return tf.distribute.MirroredStrategy([f"/gpu:{index}" for index in range(num_devices or num_gpus)])
    num_devices = num_devices or 1
    if num_devices > 1:
        _split_cpu(num_devices)
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(num_devices)])


def _split_cpu(num_devices: int) -> None:
    """Makes several logical devices of the CPU, which TensorFlow allows before its first operation alone."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    if len(configured) >= num_devices:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    except RuntimeError:
        raise UserError(
            f"TensorFlow has already started with {max(len(configured), 1)} CPU devices, not {num_devices}. "
            "Call `make_strategy` before anything else touches TensorFlow."
        ) from None


def synchronize_batch_norm(model: keras.Model) -> None:
    """Lets every batch norm of the model use the statistics of the global batch; to be called before `compile`."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


@keras.saving.register_keras_serializable("kpzoo")
class AdamL2(keras.optimizers.Adam):
    """Adam with the weight decay of 2018: `l2 * kernel` is added to the gradient of each kernel (not decoupled).

    It is what `weight_decay` meant in both CPN repositories. Keras' own `weight_decay` shrinks weights apart from the
    gradient (AdamW), which is another rule.
    """

    def __init__(self, learning_rate=5e-4, l2=1e-5, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        # The gradient is summed over replicas already. TensorFlow's own variable comes here, one for each replica,
        # named "kernel:0", "kernel/replica_1:0".
        if "kernel" in re.split("[/:]", variable.name):
            gradient = gradient + self.l2 * tf.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


def halving(learning_rate: float, every: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule of CPN: the learning rate halves after each `every` steps."""
    return keras.optimizers.schedules.ExponentialDecay(learning_rate, every, 0.5, staircase=True)


def tenths(learning_rate: float, at: list[int]) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the schedule of HRNet and MIPNet: the learning rate falls to a tenth at each of these steps."""
    rates = [learning_rate * 0.1**drops for drops in range(len(at) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(at, rates)


def resume(model: PoseModel, folder: str | Path, settings: Mapping) -> int:
    """Loads the newest whole checkpoint of a run into the compiled model.

    Args:
        model: The compiled model.
        folder: The run's folder; it is made where it does not exist.
        settings: What must not change between two parts of a run, such as batch size and seed; JSON values.

    Returns:
        The step to go on from, 0 for a new run.

    Raises:
        UserError: The folder holds a run with other settings or another model.
    """
    folder, record = Path(folder), Path(folder) / RECORD
    settings = json.loads(json.dumps({**settings, "preset": model.preset.to_config()}))
    if record.exists():
        _refuse_changes(_read_record(folder), settings, folder)
    else:
        part = record.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(settings, indent=1))
            os.replace(part, record)
        except OSError as error:
            raise UserError(f"Cannot write the run to {str(folder)!r}: {error.strerror}. Use another folder.") from None
    model.optimizer.build(model.trainable_variables)
    for path in checkpoints(folder / "checkpoints"):
        try:
            model.load_weights(path)
        except (OSError, KeyError, ValueError) as error:
            print(f"Checkpoint {path} cannot be read ({error}); going on from the one before.", file=sys.stderr)
            continue
        return step_of(model)
    return 0


def _read_record(folder: Path) -> dict:
    """Returns the settings that a run was started with."""
    try:
        record = json.loads((folder / RECORD).read_text())
        Preset.from_config(record["preset"])
    except OSError as error:
        raise UserError(f"{str(folder)!r} holds no training run: {RECORD!r} in it: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{str(folder / RECORD)!r} is damaged ({type(error).__name__}: {error}). Put back a copy of it, or start "
            "anew in another folder from the newest of its checkpoints."
        ) from None
    return record


def _refuse_changes(before: Mapping, now: Mapping, folder: Path) -> None:
    for key, was, given in _differences(before, now):
        raise UserError(
            f"The run in {str(folder)!r} was started with {key}={str(was)[:200]}. Received: {str(given)[:200]}. "
            "Use the same settings to go on, or another folder to start anew."
        )


def _differences(before: Mapping, now: Mapping, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """Yields (name, before, now) of all that differs, inside of nested mappings too."""
    for key in sorted({*before, *now}):
        was, given = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(given, Mapping):
            yield from _differences(was, given, f"{prefix}{key}.")
        elif was != given:
            yield f"{prefix}{key}", was, given


def run(
    make_model: Callable[[], PoseModel],
    data: PoseData | Pack,
    folder: str | Path,
    *,
    epochs: int,
    batch_size: int,
    augment: str | crops.Augment | None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    visibility_rule: str | None = None,
    crowd: Crowd | None = None,
    validate: Callable[[PoseModel], Mapping[str, float]] | None = None,
    validate_every: int = 1,
    draw: Callable[[PoseModel], np.ndarray] | None = None,
    devices: int | None = None,
) -> PoseModel:
    """Trains a model with `fit`, or goes on with a run that was cut off, to the same weights.

    The folder holds `run.json` (model and settings), `checkpoints/`, `log.csv`, `tensorboard/`, `summary.html`, which
    shows all of it in a browser while the run goes on, and, at the end, `model.weights.h5`; `load_run` makes the
    trained model of it.

    Args:
        make_model: Builds and compiles the model; called within the strategy's scope.
        data: What to train on.
        folder: Where everything is written.
        epochs: Of `steps_per_epoch` steps each.
        batch_size: Crops in a step, over all devices together.
        augment: See `kpzoo.data.make_dataset`.
        steps_per_epoch: None for as many as pass over the data once.
        seed: Of order and augmentation.
        visibility_rule: See `kpzoo.data.make_dataset`.
        crowd: See `kpzoo.data.make_dataset`.
        validate: Gives figures of the model on held-out data, such as AP.
        validate_every: How many epochs lie between two such measurements, and pictures.
        draw: Gives a picture of what the model finds, such as `evaluation.progress_sheet`.
        devices: See `make_strategy`.
    """
    strategy = make_strategy(devices)
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(f"A batch of {batch_size} does not split over {strategy.num_replicas_in_sync} devices.")
    steps_per_epoch = steps_per_epoch or max(1, num_persons(data) // batch_size)
    settings = dict(batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed, num_persons=num_persons(data))
    settings |= {"annotations_crc32": data.crc32, "visibility_rule": visibility_rule}
    settings["augment"] = asdict(augment) if isinstance(augment, crops.Augment) else augment
    settings["crowd"] = crowd.settings() if crowd else None
    with _held(Path(folder)), told_by_shard(data), strategy.scope():
        model = make_model()
        settings["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)
        settings["optimizer"]["config"].pop("name")  # it counts the optimizers of this process
        settings["loss"] = keras.saving.serialize_keras_object(model.loss)
        start = resume(model, folder, settings)
        train = make_dataset(
            data,
            model,
            batch_size,
            augment=augment,
            seed=seed,
            start_step=start,
            visibility_rule=visibility_rule,
            crowd=crowd,
        )
        measure = Validate(lambda: validate(model), validate_every) if validate else None
        events = Events(folder, (lambda: draw(model)) if draw else None, validate_every)
        model.fit(
            train,
            shuffle=False,  # the stream is in random order already
            epochs=epochs,
            initial_epoch=start // steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks(folder, batch_size, measure, events),
            verbose="auto" if sys.stdout.isatty() else 2,
        )
    if any(not np.isfinite(weights).all() for weights in model.get_weights()):
        raise UserError(
            "The training broke down: the weights are no numbers any more. Checkpoints from before are in "
            f"{str(folder)!r}. Train with a lower learning rate in another folder."
        )
    save_weights(model, Path(folder) / WEIGHTS)
    return model


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lets one process at a time train in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"Cannot write the run to {str(folder)!r}: {error.strerror}. Use another folder.") from None
    with file:
        if not locks.hold(file, wait=False):
            raise UserError(f"Another process is training in {str(folder)!r}. Wait for it, or use another folder.")
        yield


def load_run(folder: str | Path) -> PoseModel:
    """Returns the trained model of a folder that `run` wrote, or that of its newest checkpoint."""
    folder = Path(folder)
    preset = Preset.from_config(_read_record(folder)["preset"])
    paths = [folder / WEIGHTS, *checkpoints(folder / "checkpoints")]
    weights = next((path for path in paths if path.exists()), None)
    if weights is None:
        raise UserError(f"The run in {str(folder)!r} has written no checkpoint yet. Train it for an epoch first.")
    return build(
        preset.name,
        image_hw=preset.image_hw,
        skeleton=preset.skeleton,
        normalization=preset.normalization,
        weights=weights,
        **preset.options,
    )


def callbacks(
    folder: str | Path, batch_size: int, validate: Validate | None = None, events: Events | None = None
) -> list[keras.callbacks.Callback]:
    """Returns what every run wants: a stop at NaN, speed, validation, TensorBoard, a log, a checkpoint, the page."""
    folder = Path(folder)
    return [
        keras.callbacks.TerminateOnNaN(),
        Throughput(batch_size),
        *([validate] if validate else []),
        events or Events(folder),
        EpochLog(folder / LOG),
        Checkpoint(folder),
        Summary(folder),
    ]
