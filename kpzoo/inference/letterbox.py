"""Images at the size of a detector's input, and boxes back at the size of the image."""

from typing import NamedTuple

import cv2
import numpy as np

from kpzoo.errors import unknown

FITS = ("corner", "centre", "stretch")


class Placed(NamedTuple):
    """An image within a detector's input.

    Args:
        pixels: (H, W, 3) uint8.
        scale_xy: Input pixels per image pixel.
        offset_xy: Place of the image's upper left corner.
    """

    pixels: np.ndarray
    scale_xy: tuple[float, float]
    offset_xy: tuple[int, int]

    def to_image(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Returns boxes (N, 4) as x, y, width, height in image pixels, from corners in input pixels."""
        corners = (boxes_xyxy - np.tile(self.offset_xy, 2)) / np.tile(self.scale_xy, 2)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def placed(image_rgb: np.ndarray, size_hw: tuple[int, int], fit: str = "corner", fill: int = 0) -> Placed:
    """Brings an image to a size: "corner" and "centre" keep its aspect ratio and fill the rest, "stretch" does not."""
    if fit not in FITS:
        raise unknown("fit", fit, FITS)
    height, width = image_rgb.shape[:2]
    scale_xy = size_hw[1] / width, size_hw[0] / height
    if fit != "stretch":
        scale_xy = (min(scale_xy),) * 2
    size = max(1, round(width * scale_xy[0])), max(1, round(height * scale_xy[1]))
    shrinks = min(scale_xy) < 1
    small = cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    rest = size_hw[1] - size[0], size_hw[0] - size[1]
    x, y = (rest[0] // 2, rest[1] // 2) if fit == "centre" else (0, 0)
    margins = ((y, rest[1] - y), (x, rest[0] - x), (0, 0))
    return Placed(np.pad(small, margins, constant_values=fill), scale_xy, (x, y))
