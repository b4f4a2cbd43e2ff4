"""What exports of person detectors hold: the network, and for servers the way from an encoded picture to boxes."""

import numpy as np
import tensorflow as tf

from kpzoo.boxes import MAX_CANDIDATES, PAD
from kpzoo.inference.folded_model import FoldedModel
from kpzoo.pose_model import PersonModel

MAX_IOU, MAX_PEOPLE = 0.6, 100  # as `kpzoo.inference.person_detector.PersonDetector` has them


def serving_module(model: PersonModel, pixels_of) -> tf.Module:
    """Returns a module that holds each weight once, with its signatures in `served`; see `to_savedmodel`."""
    folded, (height, width) = FoldedModel(model), model.preset.image_hw
    module = tf.Module()
    module.kept = [tf.Variable(weight, trainable=False) for weight in folded.weights()]
    module.kept = module.kept or [variable.value for variable in model.variables]
    image_spec = tf.TensorSpec((None, height, width, 3), tf.float32, name="image")
    contents_spec = tf.TensorSpec((), tf.string, name="contents")
    score_spec = tf.TensorSpec((), tf.float32, name="min_score")

    @tf.function(input_signature=[image_spec], autograph=False)
    def forward(image):
        return folded({"image": image}, [variable.read_value() for variable in module.kept])

    @tf.function(input_signature=[contents_spec, score_spec], autograph=False)
    def predict_image(contents, min_score):
        image, scale = letterboxed(pixels_of(contents), (height, width))
        answer = forward(image[None])
        return separate_people(answer["person_logits"][0], answer["person_boxes"][0] / scale, min_score)

    module.served = {"serving_default": forward, "predict_image": predict_image}
    return module


def letterboxed(pixels: tf.Tensor, size_hw: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (H, W, 3) float32 with a picture scaled into its upper left, the rest grey, and the scales (4,)."""
    own_hw = tf.cast(tf.shape(pixels)[:2], tf.float32)
    scale = tf.reduce_min(tf.constant(size_hw, tf.float32) / own_hw)
    new_hw = tf.maximum(tf.cast(tf.round(own_hw * scale), tf.int32), 1)
    pixels = tf.cast(pixels, tf.float32)[None]
    small = tf.cond(
        scale < 1.0,
        lambda: tf.raw_ops.ResizeArea(images=pixels, size=new_hw),
        lambda: tf.raw_ops.ResizeBilinear(images=pixels, size=new_hw, half_pixel_centers=True),
    )[0]
    free = tf.constant(size_hw) - new_hw
    padded = tf.pad(small, [[0, free[0]], [0, free[1]], [0, 0]], constant_values=float(PAD))
    return tf.ensure_shape(padded, (*size_hw, 3)), tf.tile((tf.cast(new_hw, tf.float32) / own_hw)[::-1], [2])


def separate_people(logits: tf.Tensor, boxes: tf.Tensor, min_score: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `boxes_xywh` (P, 4) and `scores` (P,), best first, of (A,) logits and (A, 4) corners."""
    scores, best = tf.math.top_k(tf.sigmoid(logits), min(MAX_CANDIDATES, logits.shape[0]))
    corners = tf.gather(boxes, best)
    # TensorFlow's own takes (y0, x0, y1, x1); an IoU does not change where x and y change places.
    kept = tf.image.non_max_suppression(corners, scores, MAX_PEOPLE, MAX_IOU, min_score)
    corners = tf.gather(corners, kept)
    size = corners[:, 2:] - corners[:, :2]
    return {"boxes_xywh": tf.concat([corners[:, :2], size], axis=1), "scores": tf.gather(scores, kept)}


def drawn_pictures(scenes, image_hw: tuple[int, int]) -> np.ndarray:
    """Returns (B, H, W, 3) of (h, w, 3) pictures, scaled to a network's input."""
    return np.stack([letterboxed(tf.constant(scene), image_hw)[0].numpy() for scene in scenes])
