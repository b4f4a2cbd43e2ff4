"""Inference from crops to heatmaps: `model.predict`, `tf.function`, a SavedModel, and `kpzoo.accelerate`.

python benchmarks/inference.py --write             # add --model hrnet_w32, --weights FILE, --batch-sizes 1 8
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import macs
import measure
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo import heatmaps
from kpzoo.export import to_savedmodel
from kpzoo.inference import agreement
from kpzoo.inference.acceleration import PRECISIONS, Accelerated, accelerate, has_bfloat16
from kpzoo.inference.folded_model import instance_heatmaps
from kpzoo.pose_model import PoseModel
from kpzoo.weights import build_arguments, read_description

AS_IT_IS = ("model.predict", "tf.function(model)")
EXPORTED = "SavedModel, serving_default"


def lively(model: PoseModel) -> PoseModel:
    """Draws batch-normalization weights at which no feature is constantly zero, as in a trained network."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        kind = variable.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


def alternatives(model: PoseModel, count: int) -> dict:
    """Returns calls that predict heatmaps of `count` crops, by name."""
    crops = np.random.default_rng(0).uniform(0, 255, (count, *model.preset.image_hw, 3)).astype(np.float32)
    people = model.preset.num_instances
    inputs = {"image": crops, "instance": np.tile(np.eye(people, dtype=np.float32)[None], (count, 1, 1))}
    inputs = {name: inputs[name] for name in model.input}
    image, as_it_is = tf.constant(crops), tf.function(lambda image: instance_heatmaps(model, image))
    exported = _exported(model).signatures["serving_default"]
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    found = {
        "model.predict": lambda: model.predict(inputs, batch_size=count, verbose=0),
        "tf.function(model)": lambda: as_it_is(image).numpy(),
        EXPORTED: lambda: exported(**tensors)["heatmaps"].numpy(),
    }
    for precision in PRECISIONS[: 1 + has_bfloat16()]:
        ask, frozen = accelerate(model, precision), _frozen(model, precision)
        found[f"accelerate, {precision}"] = lambda ask=ask: ask.heatmaps(image).numpy()
        found[f"accelerate, {precision}, frozen"] = lambda ask=frozen: ask.heatmaps(image).numpy()
    return found


@cache
def _frozen(model: PoseModel, precision: str) -> Accelerated:
    return Accelerated(model, precision).freeze()


@cache
def _exported(model: PoseModel):
    """Exports the model as a SavedModel and loads it."""
    with tempfile.TemporaryDirectory() as folder:
        return tf.saved_model.load(str(to_savedmodel(model, Path(folder) / "1")))


def work(model: PoseModel, count: int, names: Iterable[str]) -> dict[str, float]:
    """Returns the multiply-adds of one call of each alternative."""
    known = dict.fromkeys(AS_IT_IS, macs.of_all(model))
    known[EXPORTED] = macs.accelerated(model, outputs=tuple(model.output))
    fewer = macs.accelerated(model)
    return {name: count * known.get(name, fewer) for name in names}


def flip_tests(model: PoseModel, count: int) -> dict:
    """Returns calls that predict keypoints with the flip test: in one batch, in two calls, and with a SavedModel."""
    image = tf.random.stateless_uniform((count, *model.preset.image_hw, 3), (0, 0), 0, 255)
    ask, codec = accelerate(model), model.preset.rules
    exported, flip = _exported(model).signatures["predict_crops"], tf.constant(True)

    def two_calls():
        both = [ask.heatmaps(side) for side in (image, tf.reverse(image, axis=[2]))]
        return heatmaps.decode(codec, heatmaps.merge_flipped(codec, *both, model.preset.skeleton.flip_order))[0]

    return {
        "accelerate, one batch of both sides": lambda: ask(image)[0].numpy(),
        "accelerate, two calls": lambda: two_calls().numpy(),
        "SavedModel, predict_crops": lambda: exported(image=image, flip=flip)["keypoints_crop_xy"].numpy(),
    }


def bars(size: int, times: dict[str, measure.Times]) -> list[dict]:
    """Returns the targets for batches of one and eight."""
    wanted, made = {1: 2.0, 8: 1.15}, []
    if size not in wanted:
        return made
    medians = {name: found.median for name, found in times.items()}
    for form in ("", ", frozen"):
        ratio = medians["model.predict"] / medians[f"accelerate, float32{form}"]
        name = f"accelerate, float32{form}, over model.predict, batch {size}"
        made.append(measure.bar(name, ratio, at_least=wanted[size], unit="x"))
    if "accelerate, bfloat16, frozen" in medians:
        ratio = medians["accelerate, float32, frozen"] / medians["accelerate, bfloat16, frozen"]
        made.append(measure.bar(f"bfloat16 over float32, both frozen, batch {size}", ratio, at_least=1.5, unit="x"))
    return made


def change_in_pixels(model: PoseModel, count: int) -> list[dict]:
    """Returns the change of unambiguous keypoints relative to the Keras model, on drawn people."""
    known, rows = agreement.reference(model, count), []
    for precision in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
        found, _ = accelerate(model, precision)(known.inputs["image"], flip=False)
        apart = known.distances(found)
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
    parser.add_argument("--calls", type=int, default=5, help="in a row, of one crop; of more a fifth")
    parser.add_argument("--crops", type=int, default=8, help="people for the change of the keypoints")
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    given = build_arguments(read_description(args.weights)) if args.weights else {}
    model = kpzoo.build(args.model, weights=args.weights, **given)
    model = model if args.weights else lively(model)
    people = model.preset.num_instances
    asked = f", all {people} instances" if people > 1 else ""
    tables, reached = {}, []
    for size in args.batch_sizes:
        calls = args.calls if size == 1 else max(1, args.calls // 5)
        times = measure.interleaved(alternatives(model, size), args.rounds, calls=calls)
        first = times["model.predict"].median
        tables[f"{args.model}, batch {size}{asked}"] = measure.rows(
            times,
            work(model, size, times),
            **{"over model.predict": lambda found, first=first: f"{first / found.median:.2f}x"},
        )
        reached += bars(size, times)
        tables[f"Crops to keypoints, flip test, batch {size}{asked}"] = measure.rows(
            measure.interleaved(flip_tests(model, size), args.rounds, calls=calls)
        )
    tables[f"Keypoints against Keras, {'trained' if args.weights else 'random'} weights"] = change_in_pixels(
        model, args.crops
    )
    measure.report(
        "inference" if args.model == "cpn_res50" else f"inference_{args.model}",
        "Crops to heatmaps",
        f"python benchmarks/inference.py --model {args.model}{' --weights FILE' if args.weights else ''}"
        f"{f' --rounds {args.rounds}' if args.rounds != 5 else ''}{f' --calls {args.calls}' if args.calls != 5 else ''}"
        " --write",
        tables,
        reached,
        notes=[
            "The accelerated graph computes only the outputs that predictions need and upsamples after 1x1 "
            "convolutions instead of before. The exported graph computes all outputs of the model.",
            "Batch normalisation is folded into the convolutions; sums and ReLUs are fused with them.",
            "`kpzoo.Predictor` and `kpzoo.evaluate` use the graph that is not frozen: each call first checks whether a "
            "variable has changed. In the frozen graph, weights are constants, which oneDNN reorders once.",
            f"Each round times {args.calls} consecutive calls per alternative for batches of one crop, and "
            f"{max(1, args.calls // 5)} for larger batches.",
            *(
                []
                if args.weights
                else ["With random weights, heatmaps have no distinct peaks; refer to the table of a trained model."]
            ),
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
