"""One graph from pictures to keypoints: SavedModels that serve without kpzoo."""

import os
import shutil
from pathlib import Path

import tensorflow as tf

from kpzoo import geometry, heatmaps
from kpzoo.data import crops
from kpzoo.errors import UserError
from kpzoo.inference import SECOND_INSTANCE_DECAY, ask_all, ask_both_sides
from kpzoo.pose_model import PoseModel


def to_savedmodel(model: PoseModel, folder: str | Path, overwrite: bool = False) -> Path:
    """Writes the model as a SavedModel whose signatures crop, run, flip, decode and rank inside the graph.

    Signatures, all with any number of rows:

    * `serving_default`: `image` (B, H, W, 3) float32 RGB 0 … 255, and for MIPNets `instance` (B, M, N) one-hot, to the
      model's outputs.
    * `predict_crops`: `image`, `flip` () bool to `keypoints_crop_xy` (B, N, K, 2), `keypoint_scores` (B, N, K).
    * `predict_image`: `contents` () string, an encoded JPEG or PNG picture, `boxes_xywh` (P, 4) float32 and `flip` to
      `keypoints_xy` (P, N, K, 2) in image pixels, `keypoint_scores` (P, N, K), `scores` (P, N).

    Args:
        model: Any model of the zoo.
        folder: The version's folder, for TensorFlow Serving a number below the model's name.
        overwrite: Whether an existing folder may be replaced.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise UserError(f"{str(folder)!r} exists already. Pass `overwrite=True`, or another version's folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        module = _serving_module(model)
        tf.saved_model.save(module, str(part), signatures=module.served)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _serving_module(model: PoseModel) -> tf.Module:
    """Returns a module that holds each weight once, with its signatures in `served`."""
    preset = model.preset
    codec = heatmaps.CODECS[preset.codec]
    rule = geometry.CROP_RULES[codec.crop_rule]
    image_spec = tf.TensorSpec((None, *preset.image_hw, 3), tf.float32, name="image")
    flip_spec = tf.TensorSpec((), tf.bool, name="flip")

    def decoded(image, flip):
        # Convolutions on no rows at all fail on some CPUs: a row is added, and taken away from the answer.
        image, count = tf.pad(image, [[0, 1], [0, 0], [0, 0], [0, 0]]), tf.shape(image)[0]
        image = image[: tf.maximum(count, 1)]
        maps = tf.cond(flip, lambda: ask_both_sides(model, image), lambda: ask_all(model, image))
        keypoints, scores = heatmaps.decode(codec, maps)
        return keypoints[:count], scores[:count]

    inputs = {name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in model.input.items()}

    @tf.function(input_signature=[inputs])
    def forward(inputs):
        return {name: tf.cast(value, tf.float32) for name, value in model(inputs, training=False).items()}

    @tf.function(input_signature=[image_spec, flip_spec])
    def predict_crops(image, flip):
        keypoints, scores = decoded(image, flip)
        return {"keypoints_crop_xy": keypoints, "keypoint_scores": scores}

    @tf.function(
        input_signature=[
            tf.TensorSpec((), tf.string, name="contents"),
            tf.TensorSpec((None, 4), tf.float32, name="boxes_xywh"),
            flip_spec,
        ]
    )
    def predict_image(contents, boxes_xywh, flip):
        views = crops.views_in_graph(boxes_xywh, rule, preset.image_hw)
        pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
        pixels = tf.ensure_shape(pixels, (None, None, 3))

        def one(view):
            matrix = crops.view_matrix(view, 1.0, tf.constant(0.0), tf.constant(False), preset.image_hw)
            return crops.crop(pixels, matrix, preset.image_hw, rule.fill_rgb), matrix

        shapes = (tf.TensorSpec((*preset.image_hw, 3), tf.float32), tf.TensorSpec((2, 3), tf.float32))
        image, matrices = tf.map_fn(one, views, fn_output_signature=shapes)
        keypoints, scores = decoded(image, flip)
        decay = tf.where(tf.range(preset.num_instances) > 0, SECOND_INSTANCE_DECAY, 1.0)
        return {
            "keypoints_xy": crops.to_image(matrices, keypoints),
            "keypoint_scores": scores,
            "scores": heatmaps.pose_scores(codec, scores, decay),
        }

    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]
    module.served = {
        "serving_default": forward,
        "predict_crops": predict_crops,
        "predict_image": predict_image,
    }
    return module
