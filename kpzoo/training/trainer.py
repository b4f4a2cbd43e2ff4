"""What a recipe needs around `fit`: devices, optimizer, schedules, and runs that go on exactly where they stopped."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kpzoo.data.augment import Augment, augmentation
from kpzoo.data.batches import make_dataset, num_persons
from kpzoo.data.files import PoseData
from kpzoo.data.pack import Pack, told_by_shard
from kpzoo.errors import UserError, unknown
from kpzoo.pose_model import PoseModel, inner_optimizer
from kpzoo.scenes.composed import Crowd
from kpzoo.training.averages import WeightAverages
from kpzoo.training.devices import hosts, is_chief, make_strategy, of_chief, synchronize_batch_norm
from kpzoo.training.keras_callbacks import WEIGHTS, Checkpoint, EpochLog, Events, Summary, Throughput, Validate
from kpzoo.training.optimizers import Ramp
from kpzoo.training.run_folder import follow, held, resume, without_modules
from kpzoo.training.summary import LOG
from kpzoo.weights import save_weights

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def run(
    make_model: Callable[[], PoseModel],
    data: PoseData | Pack,
    folder: str | Path,
    *,
    epochs: int,
    batch_size: int,
    augment: str | Augment | None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    visibility_rule: str | None = None,
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
        instance_rule: See `kpzoo.data.make_dataset`.
        crowd: See `kpzoo.data.make_dataset`.
        validate: Gives figures of the model on held-out data, such as AP.
        validate_every: How many epochs lie between two such measurements.
        draw: Gives a picture of what the model finds, such as `evaluation.progress_sheet`, after each epoch.
        devices: See `make_strategy`.
        ema: Momentum of moving averages of the weights, such as 0.999, which are validated and saved in their place;
            None for none. See `WeightAverages`.
        clip_norm: Length to which the gradient of the global batch is cut; None for the optimizer's `global_clipnorm`.
        precision: A key of `PRECISIONS`, in which the model is built and computes; None for Keras' global policy. Its
            weights are float32 in any case.
        base_batch: The batch size that the model's learning rate is meant for: the rate is multiplied by
            `batch_size / base_batch`. None to leave it.
        warmup: In how many steps the learning rate climbs from almost nothing, see `Ramp`.
        sync_batch_norm: See `synchronize_batch_norm`.

    Returns:
        The trained model.
    """
    augmentation(augment)  # an unknown one is refused before anything is written
    strategy = make_strategy(devices)
    if batch_size % strategy.num_replicas_in_sync:
        raise UserError(f"A batch of {batch_size} does not split over {strategy.num_replicas_in_sync} devices.")
    steps_per_epoch = steps_per_epoch or max(1, num_persons(data) // batch_size)
    settings = dict(batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed, num_persons=num_persons(data))
    rules = dict(visibility_rule=visibility_rule, instance_rule=instance_rule)
    settings |= {"annotations_crc32": data.crc32, **rules}
    settings |= dict(ema=ema, base_batch=base_batch, warmup=warmup, sync_batch_norm=sync_batch_norm)
    settings["augment"] = asdict(augment) if isinstance(augment, Augment) else augment
    settings["crowd"] = crowd.settings() if crowd else None
    chief = is_chief()
    with held(Path(folder)) if chief else nullcontext(), told_by_shard(data):
        with _policy(precision), strategy.scope():
            model = make_model()
            factor = batch_size / base_batch if base_batch is not None else 1.0
            _adjust(inner_optimizer(model.optimizer), clip_norm, factor, warmup)
            if sync_batch_norm:
                synchronize_batch_norm(model)
            settings |= _described(model, precision)
            model.optimizer.build(model.trainable_variables)
            model.averages = WeightAverages(model, ema) if ema is not None else None
        # Outside of the scope, where hosts make all variables together, the chief may do what others do not.
        start = of_chief(strategy, resume(model, folder, settings) if chief else 0)
        if not chief:
            follow(model, folder, start)
        how = dict(augment=augment, seed=seed, start_step=start, crowd=crowd, **rules)
        measure = Validate(_averaged(model, validate), validate_every) if validate else None
        events = Events(folder, _averaged(model, draw))
        written = callbacks(folder, batch_size, measure, events)
        model.fit(
            _batches(strategy, data, model, batch_size, how),
            shuffle=False,  # the stream is in random order already
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
                "The training broke down: the weights are no numbers any more. Checkpoints from before are in "
                f"{str(folder)!r}. Train with a lower learning rate in another folder."
            )
        if chief:
            save_weights(model, Path(folder) / WEIGHTS)
        of_chief(strategy, 0)  # no host leaves before all is written
    return model


def _adjust(optimizer: keras.optimizers.Optimizer, clip_norm: float | None, factor: float, warmup: int) -> None:
    """Gives an optimizer that has not been built what a run asks for."""
    if clip_norm is not None:
        if not clip_norm > 0:
            raise UserError(f"`clip_norm=` must be above 0. Received: {clip_norm}.")
        optimizer.global_clipnorm = clip_norm
    if factor != 1.0 or warmup:
        optimizer.learning_rate = Ramp(optimizer.get_config()["learning_rate"], factor, warmup)


def _batches(strategy: tf.distribute.Strategy, data: PoseData, model: PoseModel, batch_size: int, how: Mapping):
    """Returns the stream that a model is fitted to; each host makes the part of a batch that its replicas take."""
    if hosts()[1] == 1:
        return make_dataset(data, model, batch_size, **how)

    def of_host(context):
        host = context.input_pipeline_id, context.num_input_pipelines
        rows = context.get_per_replica_batch_size(batch_size)
        return make_dataset(data, model, batch_size, **how, host=host).rebatch(rows)

    return strategy.distribute_datasets_from_function(of_host)


@contextmanager
def _policy(precision: str | None) -> Iterator[None]:
    """Lets models be built in a precision."""
    before = keras.config.dtype_policy()
    if precision is not None and precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    try:
        keras.config.set_dtype_policy(precision or before)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _described(model: PoseModel, precision: str | None) -> dict:
    """Returns a compiled model's settings, without optimizers' names, which count the optimizers of this process."""
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
    """Returns what asks a model with the averages of its weights, where it keeps some."""

    def asked():
        with model.averages.in_use() if model.averages else nullcontext():
            return ask(model)

    return asked if ask else None


def callbacks(
    folder: str | Path, batch_size: int, validate: Validate | None = None, events: Events | None = None
) -> list[keras.callbacks.Callback]:
    """Returns what every run wants: a stop at NaN, speed, a log, a checkpoint, validation, TensorBoard, the page.

    The checkpoint and the epoch's row in the log are there before the validation, which may fail; the row is then
    written again with its figures.
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
