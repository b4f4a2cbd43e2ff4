"""Keypoints of the Keras model for crops of people, which other ways to run its network must reach."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from kpzoo import crops, geometry, heatmaps
from kpzoo.errors import UserError
from kpzoo.inference.folded_model import flip_test_heatmaps, instance_heatmaps
from kpzoo.pose_model import PoseModel
from kpzoo.scenes import drawn

HEATMAP_LIMIT = 1e-5  # relative to the largest value of the Keras model's heatmaps
KEYPOINT_LIMIT = 0.01  # crop pixels
NUM_CROPS = 4


@dataclass(frozen=True)
class Reference:
    """Inputs, and the outputs of the Keras model for them.

    Args:
        inputs: `image` (B, H, W, 3) and `instance` (B, N, N), the identity matrix for each crop.
        heatmaps: (B, N, h, w, K).
        keypoints: (B, N, K, 2) in crop pixels.
        decided: (B, N, K) bool, whether the keypoint is compared.
    """

    inputs: dict[str, np.ndarray]
    heatmaps: np.ndarray
    keypoints: np.ndarray
    decided: np.ndarray

    def distances(self, keypoints_crop_xy: np.ndarray) -> np.ndarray:
        """Returns how far the compared keypoints are from those of (B, N, K, 2), in crop pixels."""
        return np.linalg.norm(np.asarray(keypoints_crop_xy) - self.keypoints, axis=-1)[self.decided]


def reference(
    model: PoseModel, num_crops: int = NUM_CROPS, *, image: np.ndarray | None = None, flip: bool = False
) -> Reference:
    """Returns the outputs of the Keras model for all instances in crops.

    Args:
        model: The model.
        num_crops: Number of crops of drawn people.
        image: (B, H, W, 3) crops in place of drawn ones.
        flip: Whether to average the heatmaps with those of the mirrored crops.
    """
    codec = model.preset.rules
    image = drawn_crops(model, num_crops) if image is None else image
    maps = (flip_test_heatmaps if flip else instance_heatmaps)(model, tf.constant(image)).numpy()
    keypoints = heatmaps.decode(codec, maps)[0].numpy()
    decided = _decided(codec, maps, keypoints)
    if not decided.any():
        raise UserError(f"Model {model.name!r} predicts constant heatmaps: there are no keypoints to compare.")
    instance = np.tile(np.eye(maps.shape[1], dtype=np.float32), (len(image), 1, 1))
    return Reference({"image": image, "instance": instance}, maps, keypoints, decided)


def drawn_crops(model: PoseModel, count: int = NUM_CROPS) -> np.ndarray:
    """Returns (count, H, W, 3) crops of people in drawn scenes with fixed seeds."""
    image_hw = model.preset.image_hw
    rule = model.preset.rules.crop
    found, seed = [], 0
    while len(found) < count:
        pixels, persons = drawn.draw_scene(seed, crowding=0.5)
        boxes = np.array([person["bbox"] for person in persons], float).reshape(-1, 4)
        matrices = geometry.crop_to_image(geometry.views(boxes, rule, image_hw), image_hw).astype(np.float32)
        pixels = tf.constant(pixels)
        found += [crops.crop(pixels, matrix, image_hw, rule.fill_rgb).numpy() for matrix in matrices]
        seed += 1
    return np.stack(found[:count])


def _decided(codec, maps: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Returns (B, N, K) bool: whether the keypoint is unchanged if the heatmaps are perturbed by `HEATMAP_LIMIT`."""
    rng = np.random.default_rng(0)
    stays = np.ones(keypoints.shape[:-1], bool)
    size = np.float32(HEATMAP_LIMIT * np.abs(maps).max())
    for _ in range(3):
        shaken = maps + size * rng.choice([-1, 1], maps.shape).astype(np.float32)
        stays &= np.abs(heatmaps.decode(codec, shaken)[0].numpy() - keypoints).max(axis=-1) <= KEYPOINT_LIMIT
    return stays
