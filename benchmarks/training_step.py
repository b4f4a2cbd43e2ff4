"""Training steps in `fit`, against a plain `tf.function` step of the same network and loss, and in bfloat16.

    python benchmarks/training_step.py --model cpn_res50 --image_hw 256 192 --batch 8 --write

The plain step consists of forward pass, loss, gradients and optimizer. `fit` adds metrics, the callbacks of every run
and the overhead of Keras. Batches are in memory. A profile shows the time per kind of operation. `--parts` also times
the parts of a step, and alternatives.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measure

import keras  # isort: skip
import tensorflow as tf

import kpzoo
from kpzoo import heatmaps, training
from kpzoo.losses import default_loss
from kpzoo.models import blocks
from kpzoo.models.counting import count_macs
from kpzoo.training.keras_callbacks import Throughput

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
STEPS = 3  # in one round of `fit`
FORWARD, BARE = "forward and loss", "and optimizer: the bare step"

# Kinds of operations, by a part of the kernel name. The first match counts.
KINDS = {
    "convolutions: gradient of kernels": "Conv2DBackpropFilter",
    "convolutions: gradient of features": "Conv2DBackpropInput",
    "convolutions: forward": "Conv2D",
    "batch normalisation: gradient": "BatchNormGrad",
    "batch normalisation: forward": "BatchNorm",
    "resizing: gradient": "ResizeBilinearGrad",
    "resizing: forward": "ResizeBilinear",
    "ReLU: forward and gradient": "Relu",
    "casts between float32 and bfloat16": "Cast",
}


def make_model(name: str, image_hw: tuple[int, int], policy: str, keras_norm: bool = False):
    """Returns a compiled model, with `keras.layers.BatchNormalization` if `keras_norm` is True."""
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
    targets = heatmaps.encode(preset.rules, points, tf.fill(points.shape[:2], 2), preset.image_hw, model.num_levels)
    return {"image": tf.random.stateless_uniform((size, *preset.image_hw, 3), (0, 2), 0, 255), **targets}


def parts_of(model, batch, jit_compile: bool = False) -> dict:
    """Returns calls for the parts of the plain step, each including the previous parts."""
    inputs, targets = model.split(batch)
    variables = model.trainable_variables

    def loss():
        return tf.reduce_mean(model.loss(targets, model(inputs, training=True)))

    def gradients():
        with tf.GradientTape() as tape:
            value = loss()
        return value, tape.gradient(value, variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        value, found = gradients()
        model.optimizer.apply(found, variables)
        return value

    @tf.function
    def backward():
        value, found = gradients()
        return value + 0 * sum(tf.reduce_sum(one[..., :1]) for one in found)

    calls = {FORWARD: tf.function(loss), "and gradients": backward, BARE: step}
    return {name: lambda call=call: call().numpy() for name, call in calls.items()}


def profile(model, step, steps: int = 4) -> tuple[list[dict], float]:
    """Returns the time per kind of operation, longest first, and that of all convolutions in milliseconds."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space, spent, optimizer = xplane_pb2.XSpace(), Counter(), f"{model.optimizer.name}/"
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                step()
        [path] = Path(folder).rglob("*.xplane.pb")
        space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name, _, kernel = (whole := plane.event_metadata[event.metadata_id].name).rpartition(":")
            if not name or ":" in name or " " in whole:
                continue  # what runs the operations
            kind = next((kind for kind, part in KINDS.items() if part in kernel), "all others")
            spent["optimizer" if name.startswith(optimizer) else kind] += event.duration_ps / 1e9 / steps
    total = sum(spent.values())
    rows = [
        {"operations": kind, "ms of a thread": round(time, 2), "share": f"{100 * time / total:.1f} %"}
        for kind, time in spent.most_common()
    ]
    return rows, sum(time for kind, time in spent.items() if kind.startswith("convolutions"))


class Clock(keras.callbacks.Callback):
    """Records the time after each step."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def fit_step(model, batch, size: int):
    """Returns a call that times a few steps of `fit`, without the first."""
    stream, clock = tf.data.Dataset.from_tensors(batch).repeat().prefetch(1), Clock()
    callbacks = [keras.callbacks.TerminateOnNaN(), Throughput(size), clock]

    def call():
        model.fit(stream, steps_per_epoch=STEPS + 1, shuffle=False, verbose=0, callbacks=callbacks)
        return measure.OwnTime((clock.times[-1] - clock.times[0]) / STEPS * 1000)

    return call


def of_peak(model, policy: str, batch: int, milliseconds: float) -> str:
    """Returns a sentence that compares the convolutions of a step with the peak of this run."""
    gflops = 3 * 2 * count_macs(model) * batch / 1e9  # forward, and two gradients that cost as much
    return (
        f"{policy}: a step needs {gflops:.3g} GFLOP; its convolutions take {milliseconds:.4g} ms of thread time, "
        f"{gflops / milliseconds * 1000:.4g} GFLOP/s."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpn_lite0")
    parser.add_argument("--image_hw", type=int, nargs=2, default=(128, 96))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="for one operation")
    parser.add_argument("--parts", action="store_true", help="also time the parts, Keras' batch normalisation, and XLA")
    parser.add_argument("--write", action="store_true", help="writes the file of results")
    args = parser.parse_args(argv)
    measure.limit_threads(args.threads)
    alternatives, work, image_hw, tables, notes = {}, {}, tuple(args.image_hw), {}, []
    for policy in POLICIES:
        model = make_model(args.model, image_hw, policy)
        batch = make_batch(model, args.batch)
        parts = parts_of(model, batch)
        if args.parts:
            other = parts_of(make_model(args.model, image_hw, policy, keras_norm=True), batch)
            parts["the bare step with Keras' batch normalisation"] = other[BARE]
            parts["the bare step compiled by XLA"] = parts_of(model, batch, jit_compile=True)[BARE]
        else:
            parts = {BARE: parts[BARE]}
        parts[BARE]()  # traced before it is profiled
        tables[f"Time per operation of the bare step, {policy}"], convolutions = profile(model, parts[BARE])
        notes.append(of_peak(model, policy, args.batch, convolutions))
        parts["in fit"] = fit_step(model, batch, args.batch)
        alternatives |= {f"{policy}: {name}": call for name, call in parts.items()}
        forward = args.batch * count_macs(model)
        work |= {f"{policy}: {name}": forward * (1 if name == FORWARD else 3) for name in parts}
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
        {"Milliseconds per step": measure.rows(times, work), **tables},
        [
            measure.bar("float32: `fit` over the bare step", shares[0], at_most=1.05, unit="x"),
            measure.bar("bfloat16: `fit` over the bare step", shares[1], at_most=1.05, unit="x"),
            measure.bar("bfloat16: times as fast as float32", in_fit[0] / in_fit[1], at_least=1.4, unit="x"),
        ],
        notes=[
            "A step is counted as three forward passes, since each of the two gradients of a convolution costs as much "
            "as its forward pass.",
            *notes,
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
