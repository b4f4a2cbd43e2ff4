"""Crops to keypoints in `kpzoo.accelerate` and in the runtimes that a user would export to: same weights, same crops.

python benchmarks/peers.py --write                       # add --models cpn_res50, --batch-sizes 1 8 32, --rounds 5

PyTorch is measured if it is installed and `--torch` is given: it runs the ONNX file through onnx2torch.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial

import macs
import measure
import numpy as np
import tensorflow as tf
from inference import lively

import kpzoo
from kpzoo.inference import agreement, engines, openvino_engine, openvino_precisions
from kpzoo.inference.acceleration import Accelerated, has_bfloat16
from kpzoo.inference.folded_model import FoldedModel, decoded, frozen_graph
from kpzoo.pose_model import PoseModel

MODELS = ("cpn_res50", "mipnet_hrnet_w32", "cpn_lite0", "cpn_nano")
NUM_CALIBRATED = 32
OURS, BEST = "kpzoo.accelerate", "kpzoo.accelerate, fastest engine"


def graph_of(model: PoseModel):
    """Returns the frozen graph from crops to keypoints, which all runtimes are given."""
    image = tf.TensorSpec((None, *model.preset.image_hw, 3), tf.float32, name="image")
    return frozen_graph(FoldedModel(model), partial(decoded, model, False), [image], engines.KEYPOINTS)


def plain_openvino(graph, crops: np.ndarray, precision: str, calibration: np.ndarray) -> dict[str, Callable]:
    """Returns loops over OpenVINO's own calls, with the crops' shape and with an open batch size."""
    import openvino

    hints = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
    if precision == "int8":
        model = openvino_precisions.quantizer(calibration, crops.shape[1:3])(graph, engines.KEYPOINTS)._model
    else:
        model = openvino_engine.converted(graph, engines.KEYPOINTS)
    found, core = {}, openvino.Core()
    for name, hint in (("OpenVINO", hints[precision]), ("OpenVINO, heads in float32", "f32")):
        if "heads" in name and precision != "bfloat16":
            continue
        part = model.clone()
        part.reshape(list(crops.shape))
        if "heads" in name:
            openvino_precisions._lower(part)
        compiled = core.compile_model(part, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint})
        found[name] = partial(_ask_openvino, compiled.create_infer_request(), crops)
    return found


def _ask_openvino(request, crops: np.ndarray) -> np.ndarray:
    return request.infer([crops], share_inputs=True)["keypoints_crop_xy"].copy()


def plain_onnxruntime(graph, crops: np.ndarray) -> dict[str, Callable]:
    """Returns a loop over ONNX Runtime's own call."""
    from kpzoo.inference.onnxruntime_engine import OnnxRuntimeNetwork

    run = OnnxRuntimeNetwork(graph, engines.KEYPOINTS)._run
    return {"ONNX Runtime": lambda: run({"image:0": crops})[0]}


def plain_torch(graph, crops: np.ndarray, precision: str) -> dict[str, Callable]:
    """Returns PyTorch, eager and compiled, with the weights of the ONNX file."""
    import onnx2torch
    import tf2onnx
    import torch

    ports = [f"{name}:0" for name in engines.KEYPOINTS]
    proto, _ = tf2onnx.convert.from_graph_def(graph, input_names=["image:0"], output_names=ports, opset=13)
    network, image = onnx2torch.convert(proto).eval(), torch.from_numpy(crops)

    def asked(run):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return run(image)[0].float().numpy()

    return {"PyTorch": partial(asked, network), "PyTorch, compiled": partial(asked, torch.compile(network))}


def own(model: PoseModel, crops: np.ndarray, precision: str, calibration: np.ndarray) -> dict[str, Callable]:
    """Returns `kpzoo.accelerate` in each engine that has the precision."""
    found = {}
    for engine in engines.ENGINES:
        if precision not in engines.PRECISIONS[engine] or not engines.is_installed(engine):
            continue
        if engine == engines.TENSORFLOW:
            ask = Accelerated(model, precision).freeze()
        else:
            given = calibration if precision == "int8" else None
            ask = kpzoo.accelerate(model, precision, engine, given)
        found[f"{OURS}, {engine}"] = partial(_ask, ask, crops)
    return found


def _ask(function, crops: np.ndarray) -> np.ndarray:
    return function(crops, flip=False)[0].numpy()


def compared(model: PoseModel, sizes: list[int], precision: str, args) -> tuple[dict, list[dict]]:
    """Returns the tables and bars of a model in one precision."""
    graph, calibration = graph_of(model), agreement.drawn_crops(model, NUM_CALIBRATED)
    tables, bars = {}, []
    for size in sizes:
        crops = np.ascontiguousarray(np.resize(calibration, (size, *calibration.shape[1:])))
        known = agreement.reference(model, image=crops)
        calls = {**own(model, crops, precision, calibration), **plain_openvino(graph, crops, precision, calibration)}
        calls |= plain_onnxruntime(graph, crops) if precision == "float32" else {}
        calls |= plain_torch(graph, crops, precision) if args.torch and precision != "int8" else {}
        times = measure.interleaved(calls, args.rounds, calls=max(1, args.calls // size), warm_up=3)
        apart = {name: known.distances(call()) for name, call in calls.items()}
        others = {name: found.median for name, found in times.items() if not name.startswith(OURS)}
        best, ours = min(others.values()), min(times[name].median for name in times if name.startswith(OURS))
        work = dict.fromkeys(times, size * macs.accelerated(model))
        rows = measure.rows({f"{name}, {precision}": found for name, found in times.items()}, _named(work, precision))
        for row, name in zip(rows, times, strict=True):
            row["crops/s"] = 1000 * size / times[name].median
            row["keypoints move by, px"] = f"{apart[name].mean():.3f}"
        tables[f"{model.name}, {precision}, batch {size}"] = rows
        name = f"{model.name}, {precision}, batch {size}: {BEST} over the best other"
        bars.append(measure.bar(name, best / ours, at_least=0.97, unit="x"))
        exact = [others[name] for name in others if "heads" in name]
        if exact:
            name = f"{model.name}, {precision}, batch {size}: {BEST} over OpenVINO with heads in float32"
            bars.append(measure.bar(name, exact[0] / ours, at_least=0.97, unit="x"))
    return tables, bars


def _named(work: dict[str, float], precision: str) -> dict[str, float]:
    return {f"{name}, {precision}": value for name, value in work.items()}


def queries(rounds: int) -> list[dict]:
    """Returns the bar of two persons per crop against one, in OpenVINO, relative to the bound by multiply-adds."""
    model = lively(kpzoo.build("mipnet_hrnet_w32"))
    crops = agreement.drawn_crops(model, 4)
    graphs = {}
    for count in (1, 2):
        asked = np.tile(np.eye(2, dtype=np.float32)[None, :count], (len(crops), 1, 1))
        image = tf.TensorSpec((None, *model.preset.image_hw, 3), tf.float32, name="image")

        def heatmaps_of(image, forward, asked=asked):
            return forward({"image": image, "instance": tf.constant(asked)})["heatmaps"]

        graph = frozen_graph(FoldedModel(model), heatmaps_of, [image], ("heatmaps",))
        graphs[count] = openvino_engine.compiled(graph, ("heatmaps",))
    calls = {f"N = {count}": lambda network=network: network.start(crops)() for count, network in graphs.items()}
    times = measure.interleaved(calls, rounds, calls=2)
    ratio = times["N = 2"].median / times["N = 1"].median / macs.bound(model, 2)
    return [measure.bar("mipnet_hrnet_w32, N = 2 over N = 1, of the bound, OpenVINO", ratio, at_most=1.05, unit="x")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of `kpzoo models`")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=16, help="in a row, of one crop; of larger batches fewer")
    parser.add_argument("--torch", action="store_true", help="measure PyTorch, which needs torch and onnx2torch")
    parser.add_argument("--no-queries", action="store_true", help="do not measure two persons per crop")
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    precisions = args.precisions or ["float32", *["bfloat16"] * has_bfloat16(), "int8"]
    tables, bars = {}, []
    for name in args.models:
        model = lively(kpzoo.build(name))
        for precision in precisions:
            found, reached = compared(model, args.batch_sizes, precision, args)
            tables, bars = {**tables, **found}, [*bars, *reached]
    bars += [] if args.no_queries else queries(args.rounds)
    measure.report(
        "peers",
        "Crops to keypoints against the runtimes that a model can be exported to",
        "python benchmarks/peers.py --write",
        tables,
        bars,
        notes=[
            "All runtimes get one frozen graph, with batch normalization folded and the decoder in it, without the "
            "flip test, and the same crops. OpenVINO's own calls have the shape of the crops, one request and the "
            "latency hint.",
            "In bfloat16, kpzoo keeps the heads and the decoder in float32. OpenVINO alone, with its hint for "
            "bfloat16, does not, and moves keypoints further; the row below it has kpzoo's graph.",
            "int8 is quantized by NNCF with drawn crops; all rows have the same quantized network.",
            "With random weights, as here, distances in pixels are larger than with trained ones.",
            "ONNX Runtime's threads wait in loops, so that it is slow beside other processes: measure on idle cores.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
