"""LiteRT (TensorFlow Lite) files from crops to heatmaps and keypoints, for phones and small boards."""

import json
import zipfile
from pathlib import Path

import tensorflow as tf

from kpzoo import heatmaps
from kpzoo.export.description import check_file_export, description
from kpzoo.files import written_whole
from kpzoo.pose_model import PoseModel

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every file
DESCRIPTION = "kpzoo.json"


def to_litert(model: PoseModel, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the model as a LiteRT file with one signature.

    Inputs: `image` (B, H, W, 3) float32 RGB 0 … 255, and for MIPNets `instance` (B, M, N) float32 one-hot; at least
    one row. Outputs, float32: the model's `heatmaps`, `keypoints_crop_xy` (B, M, K, 2) in crop pixels and
    `keypoint_scores` (B, M, K), with M = 1 for models that take no queries.

    What a client must know is the JSON file `kpzoo.json` in a zip archive behind the graph, where LiteRT keeps the
    files of its own metadata: `unzip` and Python's zipfile read it, and interpreters pass over it.

    Args:
        model: Any model of the zoo, built under the float32 policy.
        path: The file.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path.
    """
    path = Path(path)
    check_file_export(model, path, "LiteRT", ".tflite")
    with written_whole(path, overwrite=overwrite) as part:
        owner = tf.Module()
        owner.kept = [variable.value for variable in model.variables]  # variables without an owner come out empty
        converter = tf.lite.TFLiteConverter.from_concrete_functions([_graph(model)], owner)
        part.write_bytes(converter.convert())
        with zipfile.ZipFile(part, "a", zipfile.ZIP_DEFLATED) as behind:
            behind.writestr(DESCRIPTION, json.dumps(description(model), indent=1))
    return path


def _graph(model: PoseModel):
    """Returns the graph of the model and its decoder."""
    names = list(model.input)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in model.input.items()]

    @tf.function(input_signature=specs, autograph=False)
    def forward(*inputs):
        maps = model(dict(zip(names, inputs, strict=True)), training=False)["heatmaps"]
        people = maps if "instance" in names else maps[:, tf.newaxis]
        keypoints, scores = heatmaps.decode(model.preset.rules, people)
        return {"heatmaps": maps, "keypoints_crop_xy": keypoints, "keypoint_scores": scores}

    return forward.get_concrete_function()
