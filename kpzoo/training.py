"""What a recipe needs around `fit`: devices, optimizer, schedules, checkpoints that resume exactly, a readable log."""

import csv
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import tensorflow as tf

from kpzoo.data import crops
from kpzoo.data.batches import make_dataset, num_persons
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.importers import save_weights
from kpzoo.models import build
from kpzoo.pose_model import PoseModel, Preset

CHECKPOINTS_KEPT = 2
RECORD = "run.json"  # what a run's folder holds beside its checkpoints
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


class Checkpoint(keras.callbacks.Callback):
    """Writes weights, optimizer and step after each epoch; the last two files stay.

    A file gets its name only when it is whole, so that a kill at any moment leaves the one before. (Keras'
    `BackupAndRestore` keeps a single file, and it knows nothing of the data set's place.)
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder) / "checkpoints"

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            return  # the last good checkpoint must stay
        self.folder.mkdir(parents=True, exist_ok=True)
        step = _step(self.model)
        part = self.folder / "part.weights.h5"
        self.model.save_weights(part, overwrite=True)
        os.replace(part, self.folder / f"step-{step:09d}.weights.h5")
        for old in _checkpoints(self.folder)[CHECKPOINTS_KEPT:]:
            old.unlink()


def _step(model: PoseModel) -> int:
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.weights.h5"), reverse=True)


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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps({**settings, "preset": model.preset.to_config()}))
    record = folder / RECORD
    if record.exists():
        _refuse_changes(json.loads(record.read_text()), settings, folder)
    else:
        part = record.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=1))
        os.replace(part, record)
    model.optimizer.build(model.trainable_variables)
    for path in _checkpoints(folder / "checkpoints"):
        try:
            model.load_weights(path)
        except (OSError, KeyError, ValueError) as error:
            print(f"Checkpoint {path} cannot be read ({error}); going on from the one before.", file=sys.stderr)
            continue
        return _step(model)
    return 0


def _refuse_changes(before: Mapping, now: Mapping, folder: Path) -> None:
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise UserError(
                f"The run in {str(folder)!r} was started with {key}={before.get(key)!r}. Received: {now.get(key)!r}. "
                "Use the same settings to go on, or another folder to start anew."
            )


def run(
    make_model: Callable[[], PoseModel],
    data: PoseData,
    folder: str | Path,
    *,
    epochs: int,
    batch_size: int,
    augment: str | crops.Augment | None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    visibility_rule: str | None = None,
    validate: Callable[[PoseModel], Mapping[str, float]] | None = None,
    validate_every: int = 1,
    devices: int | None = None,
) -> PoseModel:
    """Trains a model with `fit`, or goes on with a run that was cut off, to the same weights.

    The folder holds `run.json` (model and settings), `checkpoints/`, `log.csv`, `tensorboard/` and, at the end,
    `model.weights.h5`; `load_run` makes the trained model of it.

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
        validate: Gives figures of the model on held-out data, such as AP.
        validate_every: How many epochs lie between two such measurements.
        devices: See `make_strategy`.
    """
    strategy = make_strategy(devices)
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(f"A batch of {batch_size} does not split over {strategy.num_replicas_in_sync} devices.")
    steps_per_epoch = steps_per_epoch or max(1, num_persons(data) // batch_size)
    settings = dict(batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed, num_persons=num_persons(data))
    with strategy.scope():
        model = make_model()
        settings["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)["config"]
        settings["loss"] = keras.saving.serialize_keras_object(model.loss)["config"]
        start = resume(model, folder, settings)
        train = make_dataset(
            data, model, batch_size, augment=augment, seed=seed, start_step=start, visibility_rule=visibility_rule
        )
        measure = Validate(lambda: validate(model), validate_every) if validate else None
        model.fit(
            train,
            shuffle=False,  # the stream is in random order already
            epochs=epochs,
            initial_epoch=start // steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks(folder, batch_size, measure),
            verbose="auto" if sys.stdout.isatty() else 2,
        )
    save_weights(model, Path(folder) / WEIGHTS)
    return model


def load_run(folder: str | Path) -> PoseModel:
    """Returns the trained model of a folder that `run` wrote, or that of its newest checkpoint."""
    folder = Path(folder)
    try:
        preset = Preset.from_config(json.loads((folder / RECORD).read_text())["preset"])
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{str(folder)!r} holds no training run ({error}). Expected {RECORD!r} in it.") from None
    paths = [folder / WEIGHTS, *_checkpoints(folder / "checkpoints")]
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


class Throughput(keras.callbacks.Callback):
    """Adds the learning rate and images per second to the logs; an epoch's first step, which may trace, is left out."""

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self.started = None

    def on_train_batch_end(self, batch, logs=None):
        if self.started is None:
            self.started, self.first = time.perf_counter(), batch
        elif logs is not None:
            steps = batch - self.first
            logs["images_per_s"] = self.batch_size * steps / (time.perf_counter() - self.started)

    def on_epoch_end(self, epoch, logs=None):
        steps = (self.params.get("steps") or 0) - 1
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            if steps > 0 and self.started is not None:
                logs["images_per_s"] = self.batch_size * steps / (time.perf_counter() - self.started)


class Validate(keras.callbacks.Callback):
    """Adds figures of held-out data to the logs after every `every`-th epoch and after the last, as `val_…`.

    Args:
        measure: Gives the figures, a dict of numbers; for example `lambda: kpzoo.evaluate(model, val).values`.
        every: How many epochs lie between two measurements.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]], every: int = 1):
        super().__init__()
        self.measure = measure
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            logs.update({f"val_{name}": float(value) for name, value in self.measure().items()})


def callbacks(folder: str | Path, batch_size: int, validate: Validate | None = None) -> list[keras.callbacks.Callback]:
    """Returns what every run wants: speed, validation, a checkpoint, TensorBoard, a CSV log, a stop at NaN."""
    folder = Path(folder)
    return [
        keras.callbacks.TerminateOnNaN(),
        Throughput(batch_size),
        *([validate] if validate else []),
        keras.callbacks.TensorBoard(folder / "tensorboard", profile_batch=0, write_graph=False),
        EpochLog(folder / "log.csv"),
        Checkpoint(folder),
    ]


class EpochLog(keras.callbacks.Callback):
    """Appends a row for each epoch to a CSV file; columns that an epoch lacks stay empty.

    (Keras' `CSVLogger` takes its columns from the first epoch, which may not have been validated.)
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_log(self.path) if int(row["epoch"]) <= epoch]  # an epoch that was cut off is redone
        rows.append({"epoch": epoch + 1, **{name: f"{value:.6g}" for name, value in (logs or {}).items()}})
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, self.path)


def read_log(path: Path) -> list[dict[str, str]]:
    """Returns the rows of an `EpochLog`, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
