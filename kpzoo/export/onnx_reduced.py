"""ONNX files of reduced precision, with the measured change of keypoints, file size and speed."""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kpzoo.errors import UserError, unknown
from kpzoo.export.onnx import imported
from kpzoo.export.runtimes import ask_onnx
from kpzoo.files import written_whole
from kpzoo.inference.agreement import Reference, reference
from kpzoo.pose_model import PoseModel

PRECISIONS = ("float16", "int8")
NUM_CROPS = 16


@dataclass(frozen=True)
class Reduction:
    """Cost and gain of a reduced precision, measured on the CPU of this machine.

    Args:
        precision: "float16" or "int8".
        keypoint_loss_px: Mean distance to the keypoints of the Keras model, in crop pixels.
        keypoint_loss_p95_px: 95th percentile of that distance.
        num_crops: Number of crops of drawn people used.
        megabytes: File size before and after.
        crops_per_s: Throughput before and after.
    """

    precision: str
    keypoint_loss_px: float
    keypoint_loss_p95_px: float
    num_crops: int
    megabytes: tuple[float, float]
    crops_per_s: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"{self.precision}: keypoints move by {self.keypoint_loss_px:.3f} px on average, 95 % by less than "
            f"{self.keypoint_loss_p95_px:.3f} px ({self.num_crops} drawn crops); "
            f"{self.megabytes[0]:.1f} -> {self.megabytes[1]:.1f} MB, "
            f"{self.crops_per_s[0]:.1f} -> {self.crops_per_s[1]:.1f} crops/s on this CPU"
        )


def reduce_onnx(
    source: str | Path, path: str | Path, precision: str, model: PoseModel, *, overwrite: bool = False
) -> Reduction:
    """Writes an ONNX file of reduced precision and compares it with the float32 file.

    Inputs, outputs and the decoder remain float32. The measurements are also stored in the metadata of the new file.

    Args:
        source: A float32 file of `to_onnx(answer="keypoints")`.
        path: File to write.
        precision: "float16" halves the size of the weights. "int8" quarters it and quantizes activations dynamically.
        model: The exported model. Keypoints are compared as in `compare`.
        overwrite: Whether to replace an existing file.

    Returns:
        The measurements.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    onnx = imported("onnx")
    before = ask_onnx(source)
    if before.metadata.get("answer") != "keypoints" or before.metadata.get("precision") != "float32":
        raise UserError(f"{str(source)!r} must be a float32 export with answer='keypoints'. Export the model again.")
    with written_whole(path, overwrite=overwrite) as part:
        known = reference(model, NUM_CROPS)
        proto = onnx.load(str(source))
        with tempfile.TemporaryDirectory() as scratch:
            reduced = {"float16": _float16, "int8": _int8}[precision](onnx, proto, Path(scratch) / "reduced.onnx")
        properties = {**before.metadata, "precision": precision}
        _describe(onnx, reduced, properties, part)
        found = _measured(precision, source, part, before, ask_onnx(part), known)
        _describe(onnx, reduced, {**properties, "reduction": asdict(found)}, part)
    return found


def _describe(onnx, proto, properties: dict, path: Path) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in properties.items()})
    onnx.save(proto, str(path))


def _float16(onnx, proto, scratch: Path):
    """Returns the model with the network in float16, and normalization and decoder in float32."""
    imported("onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    heavy = {"Conv", "ConvTranspose", "MatMul", "Gemm", "MaxPool", "GlobalAveragePool", "Relu", "Resize", "Sigmoid"}
    last = max(place for place, node in enumerate(proto.graph.node) if node.op_type in ("Conv", "ConvTranspose"))
    kept = [node.name for node in proto.graph.node[last + 1 :]]
    for place, node in enumerate(proto.graph.node):  # nodes before the first convolution: pixels and shapes
        if node.op_type in heavy:
            break
        kept.append(node.name or str(place))
    reduced = convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept)
    made = {}
    for node in reduced.graph.node:  # the converter repeats a cast, under one name, for each float32 consumer
        made.setdefault(node.output[0], node)
    del reduced.graph.node[:]
    reduced.graph.node.extend(made.values())
    return reduced


def _int8(onnx, proto, scratch: Path):
    """Returns the model with 8-bit weights per channel and dynamically quantized activations."""
    imported("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        proto, str(scratch), op_types_to_quantize=["Conv", "MatMul"], per_channel=True, weight_type=QuantType.QUInt8
    )
    return onnx.load(str(scratch))


def _measured(precision, source, path, before, after, known: Reference) -> Reduction:
    try:
        found = after(known.inputs)["keypoints_crop_xy"]
    except Exception as error:  # the decoder fails on NaN
        raise UserError(f"The activations exceed the range of {precision}. Use float32.") from error
    apart = known.distances(found)
    return Reduction(
        precision,
        float(apart.mean()),
        float(np.quantile(apart, 0.95)),
        NUM_CROPS,
        tuple(Path(name).stat().st_size / 1e6 for name in (source, path)),
        _speeds((before, after), known.inputs),
    )


def _speeds(answers, inputs) -> tuple[float, ...]:
    """Returns the crops per second of each, from the best of five interleaved passes."""
    times = []
    for _ in range(5):
        times.append([])
        for answer in answers:
            started = time.perf_counter()
            answer(inputs)
            times[-1].append(time.perf_counter() - started)
    return tuple(len(inputs["image"]) / best for best in np.min(times, axis=0).tolist())
