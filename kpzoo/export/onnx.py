"""Export as ONNX files, from crops to heatmaps or keypoints, for ONNX Runtime."""

import json
import logging
from importlib import import_module, metadata
from pathlib import Path

import tensorflow as tf

from kpzoo.errors import UserError, unknown
from kpzoo.export import onnx_transposes
from kpzoo.export.description import check_file_export, description
from kpzoo.files import written_whole
from kpzoo.geometry import MAX_CROPS
from kpzoo.inference.folded_model import decode, output_names
from kpzoo.pose_model import PersonModel, ZooModel

OPSETS = range(13, 19)  # tf2onnx supports no newer ones; older ones lack operators of the decoders
DEFAULT_OPSET = 17
ANSWERS = ("keypoints", "heatmaps")


def to_onnx(
    model: ZooModel,
    path: str | Path,
    *,
    answer: str = "keypoints",
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Exports a model as an ONNX file.

    Inputs: `image` (batch, H, W, 3) float32 RGB in [0, 255], and for MIPNets `instance` (batch, queries, N) float32
    one-hot. The identity matrix as `instance` of a crop selects all N persons. Outputs, float32:

    * `answer="keypoints"`: `keypoints_crop_xy` (batch, queries, K, 2) in crop pixels and `keypoint_scores`
      (batch, queries, K), with queries = 1 for models without the input `instance`; for models with a
      `preset.confidence` also `keypoint_covariance_crop` (batch, queries, K, 2, 2) in crop pixels² and
      `pose_scores` (batch, queries) for a box score of 1.
    * `answer="heatmaps"`: `heatmaps` (batch, K, H/4, W/4), for MIPNets (batch, queries, K, H/4, W/4), channels first.
      The only Transpose of the graph is that of the input.

    A person detector has the outputs `person_logits` (batch, A) and `person_boxes` (batch, A, 4), see `kpzoo.boxes`;
    `answer` has no effect.

    The metadata of the file describes the model (keypoints, links, flip pairs, normalization, crop rule, decoder,
    versions), each value as JSON; see `kpzoo.export.description.description`.

    Args:
        model: Any model of the zoo, built with the float32 policy.
        path: File to write.
        answer: Outputs, "keypoints" or "heatmaps".
        opset: ONNX operator set.
        batch: Number of crops per run, for runtimes that need fixed shapes, such as OpenCV's dnn module, which reads
            `answer="heatmaps"`, and TensorRT; `instance` then has N queries. None for any number.
        overwrite: Whether to replace an existing file.

    Returns:
        The path.
    """
    onnx, tf2onnx = imported("onnx"), imported("tf2onnx")
    path = Path(path).expanduser()
    check_file_export(model, path, "ONNX", ".onnx")
    if answer not in ANSWERS:
        raise unknown("answer", answer, ANSWERS)
    if opset not in OPSETS:
        raise UserError(f"ONNX opset must be {OPSETS[0]} to {OPSETS[-1]}. Received: {opset!r}. Try {DEFAULT_OPSET}.")
    if batch is not None and not (isinstance(batch, int) and 1 <= batch <= MAX_CROPS):
        raise UserError(f"`batch=` must be a whole number from 1 to {MAX_CROPS}. Received: {batch!r}.")
    with written_whole(path, overwrite=overwrite) as part:
        proto = _converted(tf2onnx, model, answer, opset, batch)
        proto = onnx_transposes.without_needless_transposes(onnx, proto)
        _name_dimensions(proto)
        properties = {**description(model), "answer": answer, "opset": opset, "precision": "float32"}
        properties["versions"] |= {name: metadata.version(name) for name in ("tf2onnx", "onnx")}
        onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in properties.items()})
        proto.graph.name = model.name
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, str(part))
    return path


def imported(name: str):
    """Imports a module, or raises an error that names the package to install."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"ONNX requires the package {name}. Install it with `pip install 'kpzoo[onnx]'`.") from None


def _converted(tf2onnx, model: ZooModel, answer: str, opset: int, batch: int | None):
    """Returns the ONNX model of the network and, for keypoints, its decoder."""
    names = list(model.input)
    sizes = (batch, batch and model.preset.num_instances)  # of the dimensions that vary
    specs = [
        tf.TensorSpec([size or sizes[place] for place, size in enumerate(tensor.shape)], tensor.dtype, name=name)
        for name, tensor in model.input.items()
    ]
    if isinstance(model, PersonModel):
        network = tf.function(lambda image: model({"image": image}, training=False), specs, autograph=False)
        return _quietly_converted(tf2onnx, network, specs, opset)

    @tf.function(input_signature=specs, autograph=False)
    def forward(*inputs):
        count = tf.shape(inputs[0])[0]
        if batch is None:  # ONNX Runtime has no convolutions of empty batches: a row is added and removed again
            inputs = [
                tf.pad(tensor, [[0, 1], *[[0, 0]] * (len(tensor.shape) - 1)])[: tf.maximum(count, 1)]
                for tensor in inputs
            ]
        asked = dict(zip(names, inputs, strict=True))
        maps = tf.reshape(model(asked, training=False)["heatmaps"], [-1, *model.output["heatmaps"].shape[-3:]])
        people = tf.shape(asked["instance"])[:2] if "instance" in asked else tf.shape(maps)[:1]

        def per_person(values):
            return tf.reshape(values, tf.concat([people, values.shape[1:]], axis=0))[:count]

        if answer == "heatmaps":
            return {"heatmaps": per_person(tf.transpose(maps, [0, 3, 1, 2]))}
        if "instance" not in asked:
            people = tf.concat([people, [1]], axis=0)
        found = map(per_person, decode(model.preset, maps))
        return dict(zip(output_names(model.preset), found, strict=True))

    return _quietly_converted(tf2onnx, forward, specs, opset)


def _quietly_converted(tf2onnx, function, specs, opset: int):
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it logs every step of a conversion
    try:
        proto, _ = tf2onnx.convert.from_function(function, input_signature=specs, opset=opset)
        return proto
    finally:
        logger.setLevel(level)


def _name_dimensions(proto) -> None:
    """Names the dynamic dimensions: "batch" for the first, "queries" for the second."""
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        for place, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = ("batch", "queries")[place]
