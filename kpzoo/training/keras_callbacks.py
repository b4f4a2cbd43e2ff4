"""Keras callbacks of a run: checkpoints, logs, validation, TensorBoard files and the HTML summary."""

import csv
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kpzoo import files
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.training.summary import SHEET, number, read_log, write_summary

CHECKPOINTS_KEPT = 2
WEIGHTS = "model.weights.h5"  # of a completed run


class Checkpoint(keras.callbacks.Callback):
    """Saves weights and optimizer after each epoch and keeps the last `CHECKPOINTS_KEPT` files.

    The file name contains the number of batches, which determines where the data set continues: an optimizer with loss
    scaling does not count the steps that it skips. Files are replaced atomically, so that the previous checkpoint
    survives an interruption. Keras' `BackupAndRestore` keeps one file and does not know the position in the data set.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder) / "checkpoints"
        self.batches = 0  # in this epoch

    def on_train_batch_end(self, batch, logs=None):
        self.batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            return  # keep the last good checkpoint
        step = epoch * ((self.params or {}).get("steps") or self.batches) + self.batches
        try:
            with files.written_whole(checkpoint_path(self.folder, step)) as part:
                self.model.save_weights(part)
        except UserError as error:
            advice = "Earlier checkpoints are intact: free disk space and run again to continue from the last one."
            raise UserError(f"{error} {advice}") from None
        for old in checkpoints(self.folder)[CHECKPOINTS_KEPT:]:
            old.unlink()
        (self.folder.parent / WEIGHTS).unlink(missing_ok=True)  # of a completed run that is continued


def step_of(checkpoint: Path) -> int:
    """Returns the number of batches before a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-").removesuffix(".weights.h5"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the checkpoint file of a step."""
    return folder / f"step-{step:09d}.weights.h5"


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint files of a folder, newest first."""
    return sorted(folder.glob("step-*.weights.h5"), reverse=True)


class Throughput(keras.callbacks.Callback):
    """Adds the learning rate and images per second to the logs, without the first step of an epoch, which may trace."""

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
    """Adds validation metrics to the logs, with the prefix `val_`.

    Args:
        measure: Function that returns the metrics as a dict, such as `lambda: kpzoo.evaluate(model, val).values`.
        every: Validates after every `every`-th epoch, and after the last one.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]], every: int = 1):
        super().__init__()
        self.measure = measure
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            logs.update({f"val_{name}": float(value) for name, value in self.measure().items()})


class Events(keras.callbacks.Callback):
    """Writes the logs of each epoch, and an image of predictions, for TensorBoard.

    Unlike Keras' `TensorBoard` callback, it writes images too.

    Args:
        folder: Run folder. Event files go to its `tensorboard/`; the last image is also in `predictions.jpg`.
        draw: Function that returns the image, (H, W, 3) uint8 RGB. None for no images.
    """

    def __init__(self, folder: str | Path, draw: Callable[[], np.ndarray] | None = None):
        super().__init__()
        self.folder = Path(folder)
        self.draw = draw
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        with self._writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                part = "val" if name.startswith("val_") else "train"
                tf.summary.scalar(f"{part}/{name.removeprefix('val_')}", value)
            if self.draw:
                image = np.asarray(self.draw())
                tf.summary.image("val/predictions", image[None])
                write_image(self.folder / SHEET, image)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()


class Summary(keras.callbacks.Callback):
    """Writes the HTML summary after each epoch, see `summary.write_summary`."""

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)

    def on_epoch_end(self, epoch, logs=None):
        write_summary(self.folder, finished=False)

    def on_train_end(self, logs=None):
        write_summary(self.folder)


class EpochLog(keras.callbacks.Callback):
    """Appends one row per epoch to a CSV file. Values that an epoch does not have are left empty.

    Unlike Keras' `CSVLogger`, it adds columns that the first epoch, which may not have been validated, does not have.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        # An interrupted epoch is repeated; the row of an epoch is written before and again after its validation.
        rows = [row for row in read_log(self.path) if number(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{name: f"{value:.6g}" for name, value in (logs or {}).items()}})
        with files.writing(self.path) as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
