"""Paints the shapes of one person back to front and remembers which part of the body each pixel shows."""

import math

import cv2
import numpy as np

from kpzoo.scenes.figures.clothes import Look
from kpzoo.scenes.figures.postures import Body, project
from kpzoo.scenes.figures.textures import CLOTH_HW, shaded

SHIFT = 4  # cv2 draws with coordinates in 1/16 pixel
_UNIT = 1 << SHIFT
_SHARE = np.float32(1 / 255)

SIDES = ("left", "right")
PARTS = (
    *("nothing", "torso", "pelvis", "skirt", "neck", "head", "hair", "bag"),
    *(f"{side}_{part}" for side in SIDES for part in ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")),
)
PART = {name: index for index, name in enumerate(PARTS)}


def fixed(xy: np.ndarray) -> np.ndarray:
    """Returns points as cv2 wants them together with `shift=SHIFT`."""
    return np.rint(np.asarray(xy) * _UNIT).astype(np.int32)


class Canvas:
    """The window of the picture that one person covers; shapes are painted back to front."""

    def __init__(self, corners_xyxy: np.ndarray, light_xy: np.ndarray):
        x0, y0, x1, y1 = corners_xyxy
        self.origin_xy = np.array([x0, y0], float)
        self.left, self.top = int(x0), int(y0)
        self.rgba = np.zeros((max(y1 - y0, 1), max(x1 - x0, 1), 4), np.uint8)
        self.parts = np.zeros(self.rgba.shape[:2], np.uint8)
        self.light_x, self.light_y = map(float, light_xy)

    def paint(self, outline_xy: np.ndarray, cloth: np.ndarray, axis: tuple, part: int, gain: float = 1.0) -> None:
        """Fills a convex outline (n, 2) with `cloth`, whose middle line runs along `axis` (start, end, half width)."""
        outline = fixed(outline_xy - self.origin_xy)
        left, top, wide, tall = cv2.boundingRect(outline)
        height, width = self.parts.shape
        x0, y0 = max((left >> SHIFT) - 1, 0), max((top >> SHIFT) - 1, 0)
        x1, y1 = min((left + wide >> SHIFT) + 3, width), min((top + tall >> SHIFT) + 3, height)
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(mask, outline - (x0 << SHIFT, y0 << SHIFT), 255, cv2.LINE_AA, SHIFT)
        (start_x, start_y), (end_x, end_y), half = axis
        run_x, run_y = end_x - start_x, end_y - start_y
        length = math.hypot(run_x, run_y)
        if length < 1:
            run_x, run_y, length = 0.0, 1.0, 1.0
        aside_x, aside_y = -run_y / length, run_x / length
        frame = np.array(
            [
                [2 * half * aside_x / CLOTH_HW[1], run_x / CLOTH_HW[0], start_x - self.left - x0 - half * aside_x],
                [2 * half * aside_y / CLOTH_HW[1], run_y / CLOTH_HW[0], start_y - self.top - y0 - half * aside_y],
            ]
        )
        texture = shaded(cloth, aside_x * self.light_x + aside_y * self.light_y, gain)
        texture = cv2.warpAffine(texture, frame, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
        window = self.rgba[y0:y1, x0:x1]
        share = mask * _SHARE
        window[...] = cv2.blendLinear(texture, window, share, 1 - share)
        self.parts[y0:y1, x0:x1][mask > 127] = part


_TURN = np.arange(13) * 2 * np.pi / 13
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


def hull(points_xy: np.ndarray) -> np.ndarray:
    """(n, 2) convex hull."""
    return cv2.convexHull(points_xy.astype(np.float32))[:, 0]


class Painter:
    """Collects the shapes of one person and paints them in the order of their depth."""

    def __init__(self, canvas: Canvas, body: Body, look: Look, height: float, hips_xy: np.ndarray):
        self.canvas, self.body, self.look, self.height, self.hips_xy = canvas, body, look, height, hips_xy
        self.pieces: list[tuple] = []

    def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns picture points (..., 2) and pixels per unit of length (...)."""
        xy, scale = project(points)
        return self.hips_xy + self.height * xy, self.height * scale

    def add(self, depth: float, paint, *arguments) -> None:
        self.pieces.append((depth, paint, arguments))

    def finish(self) -> None:
        for _, paint, arguments in sorted(self.pieces, key=lambda piece: piece[0]):
            paint(*arguments)

    def chain(self, points: np.ndarray, radii: tuple, cloth: np.ndarray, part: str) -> None:
        """Paints the hull of discs of `radii` around `points` (n, 3): a limb that may bulge."""
        xy, scale = self.place(points)
        radii = radii * scale
        outline = hull((xy[:, None] + CIRCLE * radii[:, None, None]).reshape(-1, 2))
        gain = min(max(1 + 0.3 * float(points[0, 2] + points[-1, 2]), 0.78), 1.1)  # what is far is darker
        first, *_, last = xy.tolist()
        self.canvas.paint(outline, cloth, (first, last, max(radii.tolist())), PART[part], gain)

    def rings(self, rings: list[np.ndarray], cloth: np.ndarray, part: str) -> None:
        """Paints the hull of rings (n, 3) around the trunk, from top to bottom."""
        xy = [self.place(ring)[0] for ring in rings]
        start, end = xy[0].mean(0), xy[-1].mean(0)
        outline = hull(np.concatenate(xy))
        run = end - start
        normal = np.array([-run[1], run[0]]) / max(np.hypot(*run), 1e-6)
        self.canvas.paint(outline, cloth, (start, end, np.abs((outline - start) @ normal).max()), PART[part])
