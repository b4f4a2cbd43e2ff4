"""Colours of the clothes of a person, by which a tracker recognises people who were hidden."""

import numpy as np

from kpzoo.poses import Poses
from kpzoo.skeletons import Skeleton

_BINS = 4  # per colour channel
_ALONG, _ACROSS = np.linspace(0.1, 0.9, 9), np.linspace(-1, 1, 5)  # of the pixels that are looked at
_WIDE = {"trunk": 0.25, "thigh": 0.12}  # half the width of a part, in its lengths


def clothes(poses: Poses, image_rgb: np.ndarray) -> np.ndarray:
    """Returns (P, C) descriptions of the colours of the trunk and of the thighs.

    A description holds the square roots of two colour histograms, so that the product of two descriptions is the
    similarity of the colours in 0 … 1. It is 0 for a skeleton without shoulders, hips or knees.

    Args:
        poses: The poses in the image.
        image_rgb: (H, W, 3) uint8.
    """
    found = np.zeros((len(poses), 2 * _BINS**3))
    joints = _joints(poses.skeleton)
    if joints is None:
        return found
    for row, points in enumerate(poses.keypoints_xy):
        left, right = points[joints[0]], points[joints[1]]  # shoulder, hip, knee
        trunk = _pixels(image_rgb, (left[0] + right[0]) / 2, (left[1] + right[1]) / 2, _WIDE["trunk"])
        thighs = [_pixels(image_rgb, side[1], side[2], _WIDE["thigh"]) for side in (left, right)]
        found[row] = np.concatenate([_histogram(trunk), _histogram(np.concatenate(thighs))])
    return np.sqrt(found / 2)


def _joints(skeleton: Skeleton) -> list[list[int]] | None:
    names = [[f"{side}_{joint}" for joint in ("shoulder", "hip", "knee")] for side in ("left", "right")]
    if not {name for side in names for name in side} <= set(skeleton.keypoints):
        return None
    return [[skeleton.keypoints.index(name) for name in side] for side in names]


def _pixels(image_rgb: np.ndarray, start_xy: np.ndarray, end_xy: np.ndarray, wide: float) -> np.ndarray:
    """Returns the (N, 3) pixels of a bar between two points."""
    along = end_xy - start_xy
    across = wide * np.array([-along[1], along[0]])
    places = start_xy + _ALONG[:, None, None] * along + _ACROSS[None, :, None] * across
    size_xy = np.array(image_rgb.shape[1::-1])
    x, y = np.clip(np.rint(np.nan_to_num(places)), 0, size_xy - 1).astype(int).reshape(-1, 2).T
    return image_rgb[y, x]


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Returns the shares of the pixels in each of the colour bins."""
    index = (pixels.astype(int) * _BINS // 256) @ (_BINS**2, _BINS, 1)
    return np.bincount(index, minlength=_BINS**3) / len(index)
