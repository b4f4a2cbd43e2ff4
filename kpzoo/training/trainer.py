"""Training runs around `fit`: devices, precision, optimizer, validation, checkpoints and exact resuming."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kpzoo.data import mixture
from kpzoo.data.augment import Augment, augmentation, without_mirroring
from kpzoo.data.batches import make_dataset, num_persons
from kpzoo.data.pack import naming_damaged_shard
from kpzoo.errors import UserError, unknown
from kpzoo.pose_model import PoseModel
from kpzoo.replicas import inner_optimizer
from kpzoo.scenes.crowd import Crowd
from kpzoo.training.averages import WeightAverages
from kpzoo.training.devices import (
    check_same,
    hosts,
    is_chief,
    make_strategy,
    of_chief,
    other_hosts_needed,
    synchronize_batch_norm,
    told_by_chief,
)
from kpzoo.training.keras_callbacks import WEIGHTS, Checkpoint, EpochLog, Events, Summary, Throughput, Validate
from kpzoo.training.optimizers import Ramp
from kpzoo.training.run_folder import follow, held, resume, without_modules
from kpzoo.training.summary import LOG
from kpzoo.weights import save_weights

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def run(
    make_model: Callable[[], PoseModel],
    data: mixture.Mixture,
    folder: str | Path,
    *,
    epochs: int,
    batch_size: int,
    augment: str | Augment | None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    visibility_rule: str | Sequence[str | None] | None = None,
    instance_rule: str = "paper",
    crowd: Crowd | None = None,
    validate: Callable[[PoseModel], Mapping[str, float]] | None = None,
    validate_every: int = 1,
    draw: Callable[[PoseModel], np.ndarray] | None = None,
    devices: int | None = None,
    ema: float | None = None,
    clip_norm: float | None = None,
    precision: str | None = None,
    base_batch: int | None = None,
    warmup: int = 0,
    sync_batch_norm: bool = False,
) -> PoseModel:
    """Trains a model with `fit`, or resumes an interrupted run exactly: the weights are those of an uninterrupted run.

    The run folder contains `run.json` (model and settings), `checkpoints/`, `log.csv`, `tensorboard/`, `summary.html`
    for a browser, and at the end `model.weights.h5`. `load_run` loads the trained model.

    Args:
        make_model: Function that builds and compiles the model. It is called in the scope of the strategy.
        data: Training data, see `kpzoo.data.load`, or a list of pairs (data set, share of the crops), see
            `kpzoo.data.make_dataset`.
        folder: Run folder.
        epochs: Number of epochs.
        batch_size: Crops per step, summed over all devices.
        augment: See `kpzoo.data.make_dataset`.
        steps_per_epoch: Steps per epoch. Defaults to one pass over the data; with several data sets, to as many crops
            as they have persons together.
        seed: Seed of the order of the data and of the augmentation.
        visibility_rule: See `kpzoo.data.make_dataset`.
        instance_rule: See `kpzoo.data.make_dataset`.
        crowd: See `kpzoo.data.make_dataset`.
        validate: Function of the model that returns validation metrics, such as `kpzoo.evaluate(model, val).values`.
        validate_every: Number of epochs between two validations.
        draw: Function of the model that returns an image after each epoch, such as `evaluation.progress_sheet`.
        devices: Number of devices per host, see `make_strategy`.
        ema: Momentum of an exponential moving average of the weights, such as 0.999, which is validated and saved in
            place of the weights. None for none. See `WeightAverages`.
        clip_norm: Maximum global gradient norm. Defaults to the optimizer's `global_clipnorm`.
        precision: Precision of the computation, one of `PRECISIONS`. Defaults to Keras' global policy. The weights are
            always float32.
        base_batch: Batch size of the optimizer's learning rate, which is multiplied by `batch_size / base_batch`. None
            for no scaling.
        warmup: Number of steps over which the learning rate increases linearly, see `Ramp`.
        sync_batch_norm: Whether to synchronize batch normalization over the devices.

    Returns:
        The trained model.

    Raises:
        UserError: If an argument is invalid, the folder contains a run with other settings, another process trains in
            it, or the training diverges.
    """
    folder = Path(folder).expanduser()
    sets, _ = mixture.parts_of(data)
    augmentation(augment)  # raises before anything is written
    if len(sets) == 1:
        without_mirroring(augment, sets[0].skeleton)
    strategy = make_strategy(devices)
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(f"A batch of {batch_size} does not split over {strategy.num_replicas_in_sync} devices.")
    steps_per_epoch = steps_per_epoch or max(1, num_persons(data) // batch_size)
    settings = dict(batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed, num_persons=num_persons(data))
    rules = dict(visibility_rule=visibility_rule, instance_rule=instance_rule)
    checksums = [one.crc32 for one in sets]
    settings |= {"annotations_crc32": checksums if len(sets) > 1 else checksums[0], "shares": mixture.shares_of(data)}
    settings |= rules
    settings |= dict(ema=ema, base_batch=base_batch, warmup=warmup, sync_batch_norm=sync_batch_norm)
    settings["augment"] = asdict(augment) if isinstance(augment, Augment) else augment
    settings["crowd"] = crowd.settings() if crowd else None
    chief = is_chief()
    with other_hosts_needed(), held(folder) if chief else nullcontext(), naming_damaged_shard(*sets):
        of_run = dict(epochs=epochs, validate_every=validate_every, clip_norm=clip_norm, devices=devices)
        check_same(strategy, {**settings, **of_run, "precision": precision})
        with _policy(precision), strategy.scope():
            model = make_model()
            factor = batch_size / base_batch if base_batch is not None else 1.0
            _adjust(inner_optimizer(model.optimizer), clip_norm, factor, warmup)
            if sync_batch_norm:
                synchronize_batch_norm(model)
            settings |= _described(model, precision)
            check_same(strategy, {**settings, "preset": model.preset.to_config()})
            model.optimizer.build(model.trainable_variables)
            model.averages = WeightAverages(model, ema) if ema is not None else None
        # Outside of the scope, in which all hosts must create the same variables, the chief can act alone.
        start = told_by_chief(strategy, lambda: resume(model, folder, settings))
        if not chief:
            follow(model, folder, start)
        how = dict(augment=augment, seed=seed, start_step=start, crowd=crowd, **rules)
        measure = Validate(_averaged(model, validate), validate_every) if validate else None
        events = Events(folder, _averaged(model, draw))
        written = callbacks(folder, batch_size, measure, events)
        model.fit(
            _batches(strategy, data, model, batch_size, how),
            shuffle=False,  # the data set is shuffled
            epochs=epochs,
            initial_epoch=start // steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            callbacks=written if chief else [keras.callbacks.TerminateOnNaN()],
            verbose=("auto" if sys.stdout.isatty() else 2) if chief else 0,
        )
        if model.averages is not None:
            model.averages.use()
        if any(not np.isfinite(weights).all() for weights in model.get_weights()):
            raise UserError(
                f"Training diverged: the weights contain NaN or infinity. Earlier checkpoints are in {str(folder)!r}. "
                "Train with a lower learning rate in another folder."
            )
        if chief:
            save_weights(model, folder / WEIGHTS)
        of_chief(strategy, 0)  # waits until everything is written
    return model


def _adjust(optimizer: keras.optimizers.Optimizer, clip_norm: float | None, factor: float, warmup: int) -> None:
    """Sets gradient clipping, learning-rate scaling and warmup of an optimizer that has not been built."""
    if clip_norm is not None:
        if not clip_norm > 0:
            raise UserError(f"`clip_norm=` must be above 0. Received: {clip_norm}.")
        optimizer.global_clipnorm = clip_norm
    if factor != 1.0 or warmup:
        optimizer.learning_rate = Ramp(optimizer.get_config()["learning_rate"], factor, warmup)


def _batches(strategy: tf.distribute.Strategy, data: mixture.Mixture, model: PoseModel, batch_size: int, how: Mapping):
    """Returns the training data set. With several hosts, each makes the part of a batch for its own replicas."""
    if hosts()[1] == 1:
        return make_dataset(data, model, batch_size, **how)

    def of_host(context):
        host = context.input_pipeline_id, context.num_input_pipelines
        rows = context.get_per_replica_batch_size(batch_size)
        return make_dataset(data, model, batch_size, **how, host=host).rebatch(rows)

    return strategy.distribute_datasets_from_function(of_host)


@contextmanager
def _policy(precision: str | None) -> Iterator[None]:
    """Context manager that sets Keras' dtype policy."""
    before = keras.config.dtype_policy()
    if precision is not None and precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    try:
        keras.config.set_dtype_policy(precision or before)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _described(model: PoseModel, precision: str | None) -> dict:
    """Returns the settings of a compiled model, without the names of optimizers, which differ between processes."""
    policy = model.dtype_policy.name
    if precision not in (None, policy):
        raise UserError(f"The model was built in {policy}, not in {precision}, by `make_model=`.")
    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    config = optimizer["config"]
    while config:
        config.pop("name")
        config = config.get("inner_optimizer", {}).get("config")
    loss = keras.saving.serialize_keras_object(model.loss)
    return without_modules({"precision": policy, "optimizer": optimizer, "loss": loss})


def _averaged(model: PoseModel, ask: Callable | None) -> Callable | None:
    """Returns a function that applies `ask` to the model, with averaged weights if it has some."""

    def asked():
        with model.averages.in_use() if model.averages else nullcontext():
            return ask(model)

    return asked if ask else None


def callbacks(
    folder: str | Path, batch_size: int, validate: Validate | None = None, events: Events | None = None
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a run: stop at NaN, throughput, log, checkpoint, validation, TensorBoard and summary.

    The checkpoint and the row of the log are written before the validation, which may fail. The row is then written
    again with the validation metrics.

    Args:
        folder: Run folder.
        batch_size: Crops per step, for the throughput.
        validate: Validation callback. None for none.
        events: TensorBoard callback. Defaults to one without images.
    """
    folder = Path(folder)
    log = EpochLog(folder / LOG)
    return [
        keras.callbacks.TerminateOnNaN(),
        Throughput(batch_size),
        log,
        Checkpoint(folder),
        *([validate] if validate else []),
        events or Events(folder),
        log,
        Summary(folder),
    ]
