"""Boxes, crops and the affine transforms between image and crop.

Coordinates are pixel indices: (0, 0) is the centre of the first pixel, as in OpenCV's warps. Boxes are (x, y, width,
height), as in COCO. A matrix `a_to_b` has shape (2, 3) and maps column vectors (x, y, 1) of frame a to frame b.
"""

from dataclasses import dataclass

import numpy as np

MAX_CROPS = 65_536  # per batch; more do not fit into memory


@dataclass(frozen=True)
class CropRule:
    """How a person box is enlarged to the region that is cropped.

    Args:
        grow_xy: Factors of the box's width and height, applied before it is extended to the crop's aspect ratio.
        padding: Factor of both sides, applied afterwards.
        fill_rgb: RGB colour of pixels outside the image, 0 … 255.
    """

    grow_xy: tuple[float, float] = (1.0, 1.0)
    padding: float = 1.0
    fill_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)


CROP_RULES = {
    # tf-cpn and pytorch-cpn grow boxes by 0.1 and 0.15 on each side and fill with the mean colour. They also round the
    # corners to integer pixels and resize the slice; here the crop is not rounded.
    "cpn": CropRule(grow_xy=(1.2, 1.3), fill_rgb=(122.7717, 115.9465, 102.9801)),
    # HRNet, SimpleBaseline, MIPNet: scale times 1.25, black outside.
    "hrnet": CropRule(padding=1.25),
}


def views(boxes_image_xywh: np.ndarray, rule: CropRule, image_hw: tuple[int, int]) -> np.ndarray:
    """Enlarges person boxes to views: the regions to crop, with the aspect ratio of the crop.

    Args:
        boxes_image_xywh: (P, 4) person boxes in image pixels.
        rule: Crop rule of the model, `model.preset.rules.crop`.
        image_hw: (height, width) of the crop in pixels.

    Returns:
        (P, 4) float32: centre x, centre y, width, height in image pixels.
    """
    boxes = np.asarray(boxes_image_xywh, np.float64).reshape(-1, 4)
    height, width = image_hw
    # Boxes are at least one pixel wide and high, so that the transform to the crop is finite.
    sizes = np.maximum(boxes[:, 2:], 1.0) * rule.grow_xy
    grown_width = np.maximum(sizes[:, 0], sizes[:, 1] * width / height) * rule.padding
    sizes = np.stack([grown_width, grown_width * height / width], axis=1)
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, sizes], axis=1).astype(np.float32)


def crop_to_image(view: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """Returns the transforms from crop pixels to image pixels, (P, 2, 3), of (P, 4) views without rotation or flip."""
    view = np.asarray(view, np.float64).reshape(-1, 4)
    step = view[:, 2:] / (image_hw[1], image_hw[0])
    matrix = np.zeros((len(view), 2, 3))
    matrix[:, 0, 0], matrix[:, 1, 1] = step.T
    matrix[:, :, 2] = view[:, :2] - view[:, 2:] / 2
    return matrix


def transform(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Applies (..., 2, 3) affine transforms to (..., n, 2) points."""
    matrix = np.asarray(matrix)
    return np.einsum("...ij,...nj->...ni", matrix[..., :2], points_xy) + matrix[..., None, :, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverts (..., 2, 3) affine transforms."""
    linear = np.linalg.inv(np.asarray(matrix, np.float64)[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)
