"""A step of training: in `fit` against the bare `tf.function` step of the same network and loss, and in bfloat16.

    python benchmarks/training_step.py --model cpn_res50 --image_hw 256 192 --batch 8 --write

The bare step is forward, loss, gradients and optimizer. `fit` adds the metrics, the callbacks that every run has, and
what Keras does. Batches come from memory.
"""

import argparse
import sys
import time

import measure

import keras  # isort: skip
import tensorflow as tf

import kpzoo
from kpzoo import heatmaps, training
from kpzoo.callbacks import Throughput
from kpzoo.losses import default_loss
from kpzoo.models import blocks

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
STEPS = 3  # in one round of `fit`
BARE = "and optimizer: the bare step"


def make_model(name: str, image_hw: tuple[int, int], policy: str, keras_norm: bool = False):
    """Returns a compiled model; `keras_norm` builds it with Keras' own batch normalisation."""
    fused = blocks.FusedBatchNorm
    try:
        keras.config.set_dtype_policy(POLICIES[policy])
        if keras_norm:
            blocks.FusedBatchNorm = keras.layers.BatchNormalization
        model = kpzoo.build(name, image_hw=image_hw)
    finally:
        blocks.FusedBatchNorm = fused
        keras.config.set_dtype_policy("float32")
    model.compile(training.AdamL2(1e-4), default_loss(model.preset))
    model.optimizer.build(model.trainable_variables)
    return model


def make_batch(model, size: int) -> dict:
    """Returns random crops with targets."""
    preset = model.preset
    limit = tf.constant([preset.image_hw[1], preset.image_hw[0]], tf.float32)
    points = tf.random.stateless_uniform((size, preset.skeleton.num_keypoints, 2), (0, 1)) * limit
    targets = heatmaps.encode(
        heatmaps.CODECS[preset.codec], points, tf.fill(points.shape[:2], 2), preset.image_hw, model.num_levels
    )
    return {"image": tf.random.stateless_uniform((size, *preset.image_hw, 3), (0, 2), 0, 255), **targets}


def parts_of(model, batch) -> dict:
    """Returns calls for the parts of the bare step, each with what comes before it."""
    inputs, targets = model.split(batch)
    variables = model.trainable_variables

    def loss():
        return tf.reduce_mean(model.loss(targets, model(inputs, training=True)))

    def gradients():
        with tf.GradientTape() as tape:
            value = loss()
        return value, tape.gradient(value, variables)

    @tf.function
    def step():
        value, found = gradients()
        model.optimizer.apply(found, variables)
        return value

    @tf.function
    def backward():
        value, found = gradients()
        return value + 0 * sum(tf.reduce_sum(one[..., :1]) for one in found)

    calls = {"forward and loss": tf.function(loss), "and gradients": backward, BARE: step}
    return {name: lambda call=call: call().numpy() for name, call in calls.items()}


class Clock(keras.callbacks.Callback):
    """Takes the time after each step."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def fit_step(model, batch, size: int):
    """Returns a call that trains a few steps in `fit` and times them, the first left out."""
    stream, clock = tf.data.Dataset.from_tensors(batch).repeat().prefetch(1), Clock()
    callbacks = [keras.callbacks.TerminateOnNaN(), Throughput(size), clock]

    def call():
        model.fit(stream, steps_per_epoch=STEPS + 1, shuffle=False, verbose=0, callbacks=callbacks)
        return measure.OwnTime((clock.times[-1] - clock.times[0]) / STEPS * 1000)

    return call


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpn_nano")
    parser.add_argument("--image_hw", type=int, nargs=2, default=(128, 96))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="for one operation")
    parser.add_argument("--parts", action="store_true", help="also time the parts, and Keras' batch normalisation")
    parser.add_argument("--write", action="store_true", help="writes the file of results")
    args = parser.parse_args(argv)
    measure.limit_threads(args.threads)
    alternatives, image_hw = {}, tuple(args.image_hw)
    for policy in POLICIES:
        model = make_model(args.model, image_hw, policy)
        batch = make_batch(model, args.batch)
        parts = parts_of(model, batch)
        if args.parts:
            other = parts_of(make_model(args.model, image_hw, policy, keras_norm=True), batch)
            parts["the bare step with Keras' batch normalisation"] = other[BARE]
        else:
            parts = {BARE: parts[BARE]}
        parts["in fit"] = fit_step(model, batch, args.batch)
        alternatives |= {f"{policy}: {name}": call for name, call in parts.items()}
    times = measure.interleaved(alternatives, args.rounds, warm_up=1)
    in_fit = [times[f"{policy}: in fit"].median for policy in POLICIES]
    shares = [fit / times[f"{policy}: {BARE}"].median for policy, fit in zip(POLICIES, in_fit, strict=True)]
    height, width = args.image_hw
    threads = f" --threads {args.threads}" if args.threads else ""
    measure.report(
        f"training_step_{args.model}" + (f"_{args.threads}_thread" if args.threads else ""),
        f"Training step: {args.model}, {height}x{width}, batches of {args.batch}",
        f"python benchmarks/training_step.py --model {args.model} --image_hw {height} {width} --batch {args.batch}"
        f"{threads}{' --parts' if args.parts else ''} --write",
        {"Milliseconds of a step": measure.rows(times)},
        [
            measure.bar("float32: `fit` over the bare step", shares[0], at_most=1.05, unit="x"),
            measure.bar("bfloat16: `fit` over the bare step", shares[1], at_most=1.05, unit="x"),
            measure.bar("bfloat16: times as fast as float32", in_fit[0] / in_fit[1], at_least=1.4, unit="x"),
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
