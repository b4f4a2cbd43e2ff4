"""Export as LiteRT (TensorFlow Lite) files, from crops to heatmaps and keypoints, for mobile and embedded devices."""

import json
import zipfile
from pathlib import Path

import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.export.description import check_file_export, description
from kpzoo.files import written_whole
from kpzoo.inference.folded_model import decode, output_names
from kpzoo.pose_model import PersonModel, PoseModel

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of LiteRT files
DESCRIPTION = "kpzoo.json"


def to_litert(model: PoseModel, path: str | Path, *, overwrite: bool = False) -> Path:
    """Exports a model as a LiteRT file with one signature.

    Inputs: `image` (B, H, W, 3) float32 RGB in [0, 255], and for MIPNets `instance` (B, M, N) float32 one-hot, B ≥ 1.
    Outputs, float32: the model's `heatmaps`, `keypoints_crop_xy` (B, M, K, 2) in crop pixels and `keypoint_scores`
    (B, M, K), with M = 1 for models without the input `instance`, and for models with a `preset.confidence`
    `keypoint_covariance_crop` (B, M, K, 2, 2) in crop pixels² and `pose_scores` (B, M) for a box score of 1.

    The description of the model is the file `kpzoo.json` in a zip archive appended to the graph, where LiteRT stores
    associated files of its metadata. `unzip` and Python's zipfile read it; interpreters ignore it.

    Args:
        model: Any model of the zoo, built with the float32 policy.
        path: File to write.
        overwrite: Whether to replace an existing file.

    Returns:
        The path.
    """
    path = Path(path).expanduser()
    if isinstance(model, PersonModel):
        raise UserError(f"Person detectors are written as SavedModel or ONNX. Received: LiteRT for {model.name!r}.")
    check_file_export(model, path, "LiteRT", ".tflite")
    with written_whole(path, overwrite=overwrite) as part:
        owner = tf.Module()
        owner.kept = [variable.value for variable in model.variables]  # the converter needs an owner of the variables
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
        return {"heatmaps": maps, **dict(zip(output_names(model.preset), decode(model.preset, people), strict=True))}

    return forward.get_concrete_function()
