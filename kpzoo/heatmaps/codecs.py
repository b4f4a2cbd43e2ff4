"""Codecs: how the references crop boxes, encode keypoints as heatmaps and decode them.

A heatmap cell is `HEATMAP_STRIDE` crop pixels wide. CPN truncates a coordinate to its cell, so the centre of cell c is
crop pixel 4c + 2. HRNet, SimpleBaseline and MIPNet round to the nearest cell, so the centre of cell c is crop pixel 4c.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from kpzoo import geometry
from kpzoo.errors import unknown

HEATMAP_STRIDE = 4  # heatmaps of all families have a quarter of the crop's size


@dataclass(frozen=True)
class Codec:
    """How a reference implementation crops boxes, encodes keypoints and decodes heatmaps.

    Args:
        crop_rule: Name of the crop rule, a key of `geometry.CROP_RULES`; `crop` is the rule.
        labels: "blurred" (a one, blurred with one kernel size per level), "exact" (Gaussians of these widths at the
            keypoint instead of its cell) or "gaussian" (the same sigma for all levels).
        peak: Maximum of a label.
        cell_centre: Crop pixels from `cell * HEATMAP_STRIDE` to the centre of the cell.
        decoder: "second_peak", "sign" or "log_quadratic".
        flip_shift: Whether heatmaps of the mirrored crop are shifted one cell to the right before averaging.
        widest_last: Whether the finest level, instead of the coarsest, has the widest label.
        visibility: Default visibility rule for COCO data, a key of `VISIBILITY`.
    """

    crop_rule: str
    labels: str
    peak: float
    cell_centre: float
    decoder: str
    flip_shift: bool
    widest_last: bool = False
    visibility: str = "labelled"

    @property
    def crop(self) -> geometry.CropRule:
        """How person boxes are enlarged to crops."""
        return geometry.CROP_RULES[self.crop_rule]


CODECS = {
    # tf-cpn pairs its finest level with its widest Gaussian. Kept for comparability with its weights.
    "cpn_official": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, widest_last=True, visibility="cpn"),
    "cpn_pytorch": Codec("cpn", "blurred", 255.0, 2.0, "second_peak", False, visibility="cpn"),
    "hrnet": Codec("hrnet", "gaussian", 1.0, 0.0, "sign", True),
    # For the models without a reference: labels and decoder of DARK (arXiv:1910.06278), exact to a fraction of a cell.
    "cpn_exact": Codec("cpn", "exact", 255.0, 2.0, "log_quadratic", False, visibility="cpn"),
}

# How the loss treats v = 1 (labelled, hidden) and v = 0 (not labelled): (final heatmaps, levels), each a pair of
# (lowest v with a nonzero label, lowest v included in the loss).
VISIBILITY = {
    "labelled": ((1, 1), (1, 1)),  # hidden keypoints are treated as visible ones (HRNet, MIPNet)
    "cpn": ((1, 1), (2, 0)),  # GlobalNet's targets of hidden and unlabelled keypoints are zero
    "visible": ((2, 2), (2, 2)),  # hidden keypoints are excluded from the loss
    "hidden_empty": ((2, 1), (2, 1)),  # targets of hidden keypoints are zero
}


def visibility_thresholds(rule: str) -> tuple:
    """Returns the value of a key of `VISIBILITY`."""
    if rule not in VISIBILITY:
        raise unknown("visibility rule", rule, VISIBILITY)
    return VISIBILITY[rule]


def blur_matrix(size: int, kernel: int, border: str) -> np.ndarray:
    """Returns a (size, size) float32 matrix equivalent to `cv2.GaussianBlur` with sigma 0 along one axis.

    Args:
        size: Length of the axis.
        kernel: Odd kernel size. Sigma is derived from it as in OpenCV.
        border: "reflect" (OpenCV's default; the edge cell is not repeated) or "zero".
    """
    taps = cv2.getGaussianKernel(kernel, 0)[:, 0]
    half = kernel // 2
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, tap in zip(range(-half, half + 1), taps, strict=True):
            column = row + offset
            if border == "reflect":
                column = abs(column) % (2 * size - 2)
                column = min(column, 2 * size - 2 - column)
            if 0 <= column < size:
                matrix[row, column] += tap
    return matrix.astype(np.float32)
