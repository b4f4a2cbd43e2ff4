"""What a second person of a box costs: MIPNets asked for one instance, for two at once, and twice for one.

python benchmarks/queries.py --write
"""

import argparse
import sys

import measure
import numpy as np
import tensorflow as tf
from inference import lively

import kpzoo
from kpzoo.acceleration import FoldedModel
from kpzoo.models.counting import layer_macs
from kpzoo.pose_model import PoseModel

BARS = {"mipnet_hrnet_w32": 1.45, "mipnet_res50": 1.70}


def bound(model: PoseModel) -> float:
    """Returns how many times the multiply-adds of one query two queries are: the trunk counts once."""
    per_query, names = 0, set()
    for layer in model.layers:  # in the order of the data flow
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        behind = any(tensor._keras_history.operation.name in names for tensor in inputs)
        if behind or type(layer).__name__ == "RepeatPerQuery":
            names.add(layer.name)
            per_query += layer_macs(layer)
    return 1 + per_query / sum(layer_macs(layer) for layer in model.layers)


def asking(model: PoseModel, size: int) -> dict:
    """Returns what asks for one and for two instances of `size` crops."""
    folded = FoldedModel(model)
    weights = folded.weights()
    image = tf.random.stateless_uniform((size, *model.preset.image_hw, 3), (0, 0), 0, 255)
    both = np.tile(np.eye(model.preset.num_instances, dtype=np.float32)[None], (size, 1, 1))
    specs = [tf.TensorSpec((None, *model.preset.image_hw, 3)), tf.TensorSpec((None, None, both.shape[-1]))]
    specs.append([tf.TensorSpec(weight.shape, weight.dtype) for weight in weights])

    @tf.function(input_signature=specs, autograph=False)
    def ask(image, instance, weights):
        return folded({"image": image, "instance": instance}, weights)["heatmaps"]

    def one(place=0):
        return ask(image, tf.constant(both[:, place : place + 1]), weights).numpy()

    return {
        "one query": one,
        "two queries at once": lambda: ask(image, tf.constant(both), weights).numpy(),
        "two calls": lambda: (one(0), one(1)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    tables, reached, notes = {}, [], []
    for name, limit in BARS.items():
        model = lively(kpzoo.build(name))
        times = measure.interleaved(asking(model, args.batch_size), args.rounds)
        first = times["one query"].median
        tables[f"{name}, batch {args.batch_size}, float32"] = measure.rows(
            times, **{"of one query": lambda found, first=first: f"{found.median / first:.2f}x"}
        )
        ratio = times["two queries at once"].median / first
        reached.append(measure.bar(f"{name}, two queries against one", ratio, at_most=limit, unit="x"))
        notes.append(f"{name}: two queries are {bound(model):.2f} times the multiply-adds of one.")
    measure.report(
        "queries",
        "A MIPNet's second instance",
        "python benchmarks/queries.py --write",
        tables,
        reached,
        notes=notes,
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
