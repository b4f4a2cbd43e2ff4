"""Export as OpenVINO IR: a graph in `NAME.xml` and its weights in `NAME.bin`."""

import json
import os
from functools import partial
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.export.description import check_file_export, description
from kpzoo.files import written_whole
from kpzoo.inference.engines import imported
from kpzoo.inference.folded_model import FoldedModel, decode, frozen_graph, output_names
from kpzoo.pose_model import PersonModel, PoseModel, ZooModel

DESCRIPTION = "kpzoo"  # of the model, as JSON in the runtime information of the graph


def to_openvino(model: ZooModel, path: str | Path, *, overwrite: bool = False) -> Path:
    """Exports a model as OpenVINO IR in float32, with batch normalization folded into the convolutions.

    Inputs: `image` (B, H, W, 3) float32 RGB in [0, 255], and for MIPNets `instance` (B, M, N) float32 one-hot, B ≥ 1.
    Outputs, float32: the model's `heatmaps`, `keypoints_crop_xy` (B, M, K, 2) in crop pixels and `keypoint_scores`
    (B, M, K), with M = 1 for models without the input `instance`, and for models with a `preset.confidence`
    `keypoint_covariance_crop` (B, M, K, 2, 2) in crop pixels² and `pose_scores` (B, M) for a box score of
    1; of a person detector its `person_logits` (B, A) and `person_boxes` (B, A, 4). The description of the model is
    JSON in the graph, `model.get_rt_info(["kpzoo"])`.

    Pass `{"INFERENCE_PRECISION_HINT": "f32"}` to `compile_model`: OpenVINO's default on CPUs with bfloat16 is that, and
    it moves keypoints.

    Args:
        model: Any model of the zoo, built with the float32 policy.
        path: The .xml file to write; the .bin file is written next to it. An .xml file never stands beside the weights
            of another export.
        overwrite: Whether to replace existing files.

    Returns:
        The path.
    """
    openvino = imported("openvino", "openvino")
    path = Path(path).expanduser()
    check_file_export(model, path, "OpenVINO", ".xml")
    if path.suffix != ".xml":
        raise UserError(f"OpenVINO exports are .xml files with a .bin file beside them. Received: {str(path)!r}.")
    weights = path.with_suffix(".bin")
    with written_whole(path, overwrite=overwrite) as part, written_whole(weights, overwrite=overwrite) as weights_part:
        graph = _converted(model)
        told = description(model)
        told["versions"]["openvino"] = metadata.version("openvino")
        graph.set_rt_info(json.dumps(told), [DESCRIPTION])
        try:
            openvino.save_model(graph, part, compress_to_fp16=False)
            os.replace(part.with_suffix(".bin"), weights_part)
        finally:
            part.with_suffix(".bin").unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # of an earlier export, before its weights are replaced
    return path


def _converted(model: ZooModel):
    """Returns the `openvino.Model` of the network and, for poses, its decoder."""
    from kpzoo.inference.openvino_engine import converted

    folded, names = FoldedModel(model), list(model.input)
    if not folded.is_folded:
        raise UserError(f"Model {model.name!r} has layers with loops or branches, which OpenVINO exports cannot have.")
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in model.input.items()]
    boxes = isinstance(model, PersonModel)
    outputs = tuple(model.output) if boxes else ("heatmaps", *output_names(model.preset))
    return converted(frozen_graph(folded, partial(_answers, model, names), specs, outputs), outputs)


def _answers(model: ZooModel, names: list[str], *inputs, forward) -> tuple[tf.Tensor, ...]:
    found = forward(dict(zip(names, inputs, strict=True)))
    return tuple(found.values()) if isinstance(model, PersonModel) else _of_poses(model, found["heatmaps"])


def _of_poses(model: PoseModel, maps: tf.Tensor) -> tuple[tf.Tensor, ...]:
    people = maps if "instance" in model.input else maps[:, tf.newaxis]
    return maps, *decode(model.preset, people)
