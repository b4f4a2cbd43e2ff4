"""Cost of further instances: MIPNets with one query, with all queries at once, and with one call per query.

python benchmarks/queries.py --write

N = 1 is the network without MIMBs, which has no queries.
"""

import argparse
import sys

import macs
import measure
import numpy as np
import tensorflow as tf
from inference import lively

import kpzoo
from kpzoo.pose_model import PoseModel

FAMILIES = {"mipnet_hrnet_w32": "hrnet_w32", "mipnet_res50": "simplebaseline_res50"}
BARS = {"mipnet_hrnet_w32": 1.45, "mipnet_res50": 1.70}  # two queries at once against one


def asking(model: PoseModel, size: int) -> dict:
    """Returns {name: (call, multiply-adds)} of predictions for `size` crops."""
    network, people = macs.folded(model), model.preset.num_instances
    weights = network.weights()
    image = tf.random.stateless_uniform((size, *model.preset.image_hw, 3), (0, 0), 0, 255)
    every = np.tile(np.eye(people, dtype=np.float32)[None], (size, 1, 1))
    shapes = {"image": (None, *image.shape[1:]), "instance": (None, None, people)}
    specs = [{name: tf.TensorSpec(shapes[name]) for name in model.input}]
    specs.append([tf.TensorSpec(weight.shape, weight.dtype) for weight in weights])

    @tf.function(input_signature=specs, autograph=False)
    def ask(inputs, weights):
        return network(inputs, weights)["heatmaps"]

    def of(start, stop):
        given = {"image": image, "instance": tf.constant(every[:, start:stop])}
        return ask({name: given[name] for name in model.input}, weights).numpy()

    one, name = size * macs.accelerated(model, 1), f"N = {people}"
    if people == 1:
        return {f"{name}: {model.name}": (lambda: of(0, 1), one)}
    return {
        f"{name}: one query": (lambda: of(0, 1), one),
        f"{name}: {people} queries at once": (lambda: of(0, people), size * macs.accelerated(model)),
        f"{name}: {people} calls": (lambda: [of(place, place + 1) for place in range(people)], people * one),
    }


def table(times: dict[str, measure.Times], work: dict[str, float]) -> list[dict]:
    """Returns the rows of a family, with times relative to the first row and to one query of the same N."""
    first = next(iter(times.values())).median
    rows = measure.rows(times, work, **{"of the first": lambda found: f"{found.median / first:.2f}x"})
    for row in rows:
        one = row["alternative"].partition(":")[0] + ": one query"
        if one in times:
            row["of one query"] = f"{times[row['alternative']].median / times[one].median:.2f}x"
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(FAMILIES), choices=kpzoo.list_models("mipnet_*"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    tables, reached, notes = {}, [], []
    for name in args.models:
        twin = [kpzoo.build(FAMILIES[name])] if name in FAMILIES else []
        models = [*twin, *(kpzoo.build(name, num_instances=people) for people in (2, 3))]
        asked = {key: both for model in models for key, both in asking(lively(model), args.batch_size).items()}
        times = measure.interleaved({key: call for key, (call, _) in asked.items()}, args.rounds, warm_up=1)
        work = {key: multiply_adds for key, (_, multiply_adds) in asked.items()}
        tables[f"{name}, batch {args.batch_size}, float32"] = table(times, work)
        if name in BARS:
            ratio = times["N = 2: 2 queries at once"].median / times["N = 2: one query"].median
            reached.append(measure.bar(f"{name}, two queries against one", ratio, at_most=BARS[name], unit="x"))
        bounds = (f"{macs.bound(models[-1], queries):.2f}" for queries in (2, 3))
        notes.append("{}: two queries need {} times the multiply-adds of one, three {} times.".format(name, *bounds))
    measure.report(
        "queries",
        "Cost of further instances of a MIPNet",
        "python benchmarks/queries.py --write",
        tables,
        reached,
        notes=notes,
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
