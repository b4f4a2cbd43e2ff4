"""Boxes, crops and the affine maps between them.

A coordinate is a pixel index: (0, 0) is the centre of the first pixel, as OpenCV's warps count. Boxes are COCO's
(x, y, width, height). A matrix `a_to_b` has shape (2, 3) and maps a column (x, y, 1) of frame a to (x, y) of frame b.
"""

from dataclasses import dataclass

import numpy as np

MAX_CROPS = 65_536  # in a batch: more fit into no memory


@dataclass(frozen=True)
class CropRule:
    """How a person's box becomes the part of the image that is cropped.

    Args:
        grow_xy: Factors for the box's width and height before it gets the crop's aspect.
        padding: Factor for both sides after it has the crop's aspect.
        fill_rgb: Colour outside of the image, 0 … 255.
    """

    grow_xy: tuple[float, float] = (1.0, 1.0)
    padding: float = 1.0
    fill_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)


CROP_RULES = {
    # tf-cpn and pytorch-cpn widen by 0.1 and 0.15 on each side and fill with the mean colour. They cut the corners to
    # whole pixels and resize the slice; here the crop stays where the box is.
    "cpn": CropRule(grow_xy=(1.2, 1.3), fill_rgb=(122.7717, 115.9465, 102.9801)),
    # HRNet, SimpleBaseline, MIPNet: scale times 1.25, black outside.
    "hrnet": CropRule(padding=1.25),
}


def views(boxes_image_xywh: np.ndarray, rule: CropRule, image_hw: tuple[int, int]) -> np.ndarray:
    """Returns the boxes that are cropped, with the aspect of the crop.

    Args:
        boxes_image_xywh: (P, 4) person boxes in image pixels.
        rule: How boxes grow.
        image_hw: (height, width) of the crop in pixels.

    Returns:
        (P, 4) float32: centre x, centre y, width, height in image pixels.
    """
    boxes = np.asarray(boxes_image_xywh, np.float64).reshape(-1, 4)
    height, width = image_hw
    # A box of no size still shows one pixel, so that the map into the crop stays finite.
    sizes = np.maximum(boxes[:, 2:], 1.0) * rule.grow_xy
    grown_width = np.maximum(sizes[:, 0], sizes[:, 1] * width / height) * rule.padding
    sizes = np.stack([grown_width, grown_width * height / width], axis=1)
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, sizes], axis=1).astype(np.float32)


def crop_to_image(view: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """Returns the (P, 2, 3) maps from crop pixels to image pixels for (P, 4) views without rotation or mirroring."""
    view = np.asarray(view, np.float64).reshape(-1, 4)
    step = view[:, 2:] / (image_hw[1], image_hw[0])
    matrix = np.zeros((len(view), 2, 3))
    matrix[:, 0, 0], matrix[:, 1, 1] = step.T
    matrix[:, :, 2] = view[:, :2] - view[:, 2:] / 2
    return matrix


def transform(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Returns (..., n, 2) points mapped by (..., 2, 3) matrices."""
    matrix = np.asarray(matrix)
    return np.einsum("...ij,...nj->...ni", matrix[..., :2], points_xy) + matrix[..., None, :, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """Returns the (..., 2, 3) maps back."""
    linear = np.linalg.inv(np.asarray(matrix, np.float64)[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)
