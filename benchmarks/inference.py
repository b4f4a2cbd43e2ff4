"""Crops to heatmaps: `model.predict`, the model as it stands in a graph, `kpzoo.accelerate` in both precisions.

python benchmarks/inference.py --write             # add --model hrnet_w32, --weights FILE, --batch-sizes 1 8
"""

import argparse
import sys
from functools import cache

import measure
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo import heatmaps
from kpzoo.acceleration import PRECISIONS, Accelerated, FoldedModel, accelerate, ask_all, has_bfloat16
from kpzoo.export import parity
from kpzoo.importers import build_arguments, read_description
from kpzoo.models.counting import count_macs
from kpzoo.pose_model import PoseModel


def lively(model: PoseModel) -> PoseModel:
    """Draws batch norms at which no feature dies: what is computed is then as dense as in a trained network."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        kind = variable.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


def alternatives(model: PoseModel, count: int) -> dict:
    """Returns what answers for `count` crops, by name."""
    crops = np.random.default_rng(0).uniform(0, 255, (count, *model.preset.image_hw, 3)).astype(np.float32)
    people = model.preset.num_instances
    inputs = {"image": crops, "instance": np.tile(np.eye(people, dtype=np.float32)[None], (count, 1, 1))}
    inputs = {name: inputs[name] for name in model.input}
    image, as_it_is = tf.constant(crops), tf.function(lambda image: ask_all(model, image))
    found = {
        "model.predict": lambda: model.predict(inputs, batch_size=count, verbose=0),
        "tf.function(model)": lambda: as_it_is(image).numpy(),
    }
    for precision in PRECISIONS[: 1 + has_bfloat16()]:
        ask, frozen = accelerate(model, precision), _frozen(model, precision)
        found[f"accelerate, {precision}"] = lambda ask=ask: ask.heatmaps(image).numpy()
        found[f"accelerate, {precision}, frozen"] = lambda ask=frozen: ask.heatmaps(image).numpy()
    return found


@cache
def _frozen(model: PoseModel, precision: str) -> Accelerated:
    return Accelerated(model, precision).freeze()


def accelerated_macs(model: PoseModel) -> int:
    """Returns the multiply-adds of one crop that are left in the rewritten graph: of all that leads to heatmaps."""
    folded = FoldedModel(model)
    weights, image = folded.weights(), tf.TensorSpec((1, *model.preset.image_hw, 3))

    def forward(inputs):
        return folded(inputs, [tf.zeros(weight.shape, weight.dtype) for weight in weights])

    ask = tf.function(lambda image: ask_all(model, image, forward), autograph=False)
    graph = ask.get_concrete_function(image).graph
    [answer] = graph.outputs
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [answer.op.name]).node
    macs = 0
    for op in (graph.get_operation_by_name(node.name) for node in needed):
        if op.type == "Conv2D":
            macs += np.prod(op.outputs[0].shape[:3]) * np.prod(op.inputs[1].shape)
        elif op.type == "Conv2DBackpropInput":  # a deconvolution, whose input is the third
            macs += np.prod(op.inputs[2].shape[:3]) * np.prod(op.inputs[1].shape)
        elif op.type == "MatMul":
            macs += np.prod(op.outputs[0].shape) * op.inputs[0].shape[-1]
    return int(macs)


def flip_tests(model: PoseModel, count: int) -> dict:
    """Returns the flip test as one batch of both sides, which is what kpzoo does, and as two calls."""
    image = tf.random.stateless_uniform((count, *model.preset.image_hw, 3), (0, 0), 0, 255)
    ask, codec = accelerate(model), heatmaps.CODECS[model.preset.codec]

    def two_calls():
        both = [ask.heatmaps(side) for side in (image, tf.reverse(image, axis=[2]))]
        return heatmaps.decode(codec, heatmaps.merge_flipped(codec, *both, model.preset.skeleton.flip_order))[0]

    return {"one batch of both sides": lambda: ask(image)[0].numpy(), "two calls": lambda: two_calls().numpy()}


def bars(size: int, ratios: dict[str, float]) -> list[dict]:
    """Returns what was asked for at batches of one and of eight."""
    wanted = {1: 2.0, 8: 1.15}
    made = []
    if size in wanted:
        made.append(
            measure.bar(f"float32, frozen, over model.predict, batch {size}", ratios["predict"], wanted[size], unit="x")
        )
        if "bfloat16" in ratios:
            made.append(
                measure.bar(f"bfloat16 over float32, both frozen, batch {size}", ratios["bfloat16"], 1.5, unit="x")
            )
    return made


def change_in_pixels(model: PoseModel, count: int) -> list[dict]:
    """Returns how far keypoints move from those of the Keras model, on drawn people, where they are decided."""
    known, rows = parity.reference(model, count), []
    for precision in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
        found, _ = accelerate(model, precision)(known.inputs["image"], flip=False)
        apart = np.linalg.norm(found.numpy() - known.keypoints, axis=-1)[known.decided]
        maps = accelerate(model, precision).heatmaps(known.inputs["image"]).numpy()
        off = np.abs(maps - known.heatmaps).max() / np.abs(known.heatmaps).max()
        share = f"{100 * (apart > 0.01).mean():.2f} %"
        figures = {"heatmaps, largest change of the peak": f"{off:.1e}", "keypoints that move": share}
        figures |= {"mean": f"{apart.mean():.3f} px", "95 % below": f"{np.quantile(apart, 0.95):.3f} px"}
        rows.append({"precision": precision, **figures, "keypoints": len(apart)})
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpn_res50", help="a name of `kpzoo models`")
    parser.add_argument("--weights", help="trained ones, for the change of the keypoints; random ones if not given")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5, help="in a row, of one crop; of more it is two")
    parser.add_argument("--crops", type=int, default=8, help="people for the change of the keypoints")
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    given = build_arguments(read_description(args.weights)) if args.weights else {}
    model = kpzoo.build(args.model, weights=args.weights, **given)
    model = model if args.weights else lively(model)
    macs, fewer = count_macs(model), accelerated_macs(model)
    peak = measure.peaks()
    tables, reached = {}, []
    for size in args.batch_sizes:
        calls = args.calls if size == 1 else 2
        times = measure.interleaved(alternatives(model, size), args.rounds, calls=calls)

        def gflops(name, size=size, times=times):
            return 2 * (fewer if name.startswith("accelerate") else macs) * size / times[name].median / 1e6

        tables[f"{args.model}, batch {size}"] = [
            {
                "alternative": name,
                "ms (middle half)": str(found),
                "GFLOP/s": gflops(name),
                "of float32's peak": f"{100 * gflops(name) / peak['float32']:.0f} %",
                "over model.predict": f"{times['model.predict'].median / found.median:.2f}x",
            }
            for name, found in times.items()
        ]
        medians = {name: found.median for name, found in times.items()}
        ratios = {"predict": medians["model.predict"] / medians["accelerate, float32, frozen"]}
        if has_bfloat16():
            ratios["bfloat16"] = medians["accelerate, float32, frozen"] / medians["accelerate, bfloat16, frozen"]
        reached += bars(size, ratios)
        tables[f"Flip test, {size} crops"] = measure.rows(
            measure.interleaved(flip_tests(model, size), args.rounds, calls=calls)
        )
    tables[f"Keypoints against Keras, {'trained' if args.weights else 'random'} weights"] = change_in_pixels(
        model, args.crops
    )
    measure.report(
        "inference" if args.model == "cpn_res50" else f"inference_{args.model}",
        "Crops to heatmaps",
        f"python benchmarks/inference.py --model {args.model}{' --weights FILE' if args.weights else ''} --write",
        tables,
        reached,
        notes=[
            f"{macs / 1e9:.2f} G multiply-adds for a crop, {fewer / 1e9:.2f} G in the accelerated graph, which leaves "
            "out what no answer needs and enlarges maps behind 1x1 convolutions; an operation counts two.",
            "Batch norms are part of the convolutions, and sums and ReLUs are computed with them.",
            "Each call first looks whether a variable was written to. "
            "Frozen, the weights are constants, which oneDNN arranges once.",
            f"Calls of an alternative are timed in a row, {args.calls} of one crop or 2 of more, then the next one's.",
            *(
                []
                if args.weights
                else ["With random weights no joint has one clear peak: see a trained model's table."]
            ),
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
