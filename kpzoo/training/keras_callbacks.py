"""What a run does after each epoch: a checkpoint, a row of a log, figures and pictures of held-out data, a page."""

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
WEIGHTS = "model.weights.h5"  # of a run that came to its end


class Checkpoint(keras.callbacks.Callback):
    """Writes weights and optimizer after each epoch, the number of batches in the name; the last two files stay.

    A file gets its name only when it is whole, so that a kill at any moment leaves the one before. (Keras'
    `BackupAndRestore` keeps a single file, and it knows nothing of the data set's place. An optimizer that scales the
    loss does not count the steps that it leaves out.)
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder) / "checkpoints"
        self.batches = 0  # of the epoch

    def on_train_batch_end(self, batch, logs=None):
        self.batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            return  # the last good checkpoint must stay
        step = epoch * ((self.params or {}).get("steps") or self.batches) + self.batches
        try:
            with files.written_whole(checkpoint_path(self.folder, step)) as part:
                self.model.save_weights(part)
        except UserError as error:
            advice = "Earlier checkpoints are intact: free disk space and run again to continue from the last one."
            raise UserError(f"{error} {advice}") from None
        for old in checkpoints(self.folder)[CHECKPOINTS_KEPT:]:
            old.unlink()
        (self.folder.parent / WEIGHTS).unlink(missing_ok=True)  # those of a shorter run that goes on


def step_of(checkpoint: Path) -> int:
    """Returns how many batches had been trained on when a checkpoint file was written."""
    return int(checkpoint.name.removeprefix("step-").removesuffix(".weights.h5"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the checkpoint file of a step."""
    return folder / f"step-{step:09d}.weights.h5"


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint files of a folder, the newest first."""
    return sorted(folder.glob("step-*.weights.h5"), reverse=True)


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
    """Writes the run's page anew after each epoch, see `summary.write_summary`."""

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)

    def on_epoch_end(self, epoch, logs=None):
        write_summary(self.folder, finished=False)

    def on_train_end(self, logs=None):
        write_summary(self.folder)


class EpochLog(keras.callbacks.Callback):
    """Appends a row for each epoch to a CSV file; columns that an epoch lacks stay empty.

    (Keras' `CSVLogger` takes its columns from the first epoch, which may not have been validated.)
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        # An epoch that was cut off is redone, and one that was written before its validation is written again.
        rows = [row for row in read_log(self.path) if number(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{name: f"{value:.6g}" for name, value in (logs or {}).items()}})
        with files.writing(self.path) as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
