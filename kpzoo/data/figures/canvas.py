"""Paints the shapes of one person back to front and remembers which part of the body each pixel shows."""

import cv2
import numpy as np

from kpzoo.data.figures.clothes import Look
from kpzoo.data.figures.postures import Body, project
from kpzoo.data.figures.textures import CLOTH_HW, shaded

SHIFT = 4  # cv2 draws with coordinates in 1/16 pixel
_UNIT = 1 << SHIFT

SIDES = ("left", "right")
PARTS = (
    *("nothing", "torso", "pelvis", "skirt", "neck", "head", "hair", "bag"),
    *(f"{side}_{part}" for side in SIDES for part in ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")),
)
PART = {name: index for index, name in enumerate(PARTS)}


def fixed(xy: np.ndarray) -> np.ndarray:
    """Returns points as cv2 wants them together with `shift=SHIFT`."""
    return np.round(np.asarray(xy) * _UNIT).astype(np.int32)


class Canvas:
    """The window of the picture that one person covers; shapes are painted back to front."""

    def __init__(self, corners_xyxy: np.ndarray, light_xy: np.ndarray):
        x0, y0, x1, y1 = corners_xyxy
        self.origin_xy = np.array([x0, y0], float)
        self.rgba = np.zeros((max(y1 - y0, 1), max(x1 - x0, 1), 4), np.uint8)
        self.parts = np.zeros(self.rgba.shape[:2], np.uint8)
        self.light_xy = light_xy

    def paint(self, outline_xy: np.ndarray, cloth: np.ndarray, axis: tuple, part: int, gain: float = 1.0) -> None:
        """Fills a convex outline (n, 2) with `cloth`, whose middle line runs along `axis` (start, end, half width)."""
        outline = outline_xy - self.origin_xy
        height, width = self.parts.shape
        x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0).tolist()
        x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, (width, height)).tolist()
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(mask, fixed(outline - (x0, y0)), 255, cv2.LINE_AA, SHIFT)
        start, end, half = axis
        run = end - start
        normal = np.array([-run[1], run[0]]) / max(np.hypot(*run), 1e-6)
        corner = start - self.origin_xy - (x0, y0) - half * normal
        frame = np.stack([2 * half * normal / CLOTH_HW[1], run / CLOTH_HW[0], corner], 1)
        texture = shaded(cloth, float(normal @ self.light_xy), gain)
        if np.hypot(*run) < 1:
            frame[:, 1] = (-normal[1], normal[0])
        texture = cv2.warpAffine(texture, frame, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
        window = self.rgba[y0:y1, x0:x1]
        share = mask * np.float32(1 / 255)
        window[...] = cv2.blendLinear(texture, window, share, 1 - share)
        self.parts[y0:y1, x0:x1][mask > 127] = part


_TURN = np.arange(13) * 2 * np.pi / 13
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


def hull(points_xy: np.ndarray) -> np.ndarray:
    """(n, 2) convex hull."""
    return cv2.convexHull(points_xy.astype(np.float32))[:, 0].astype(float)


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
        radii = np.asarray(radii) * scale
        outline = hull((xy[:, None] + CIRCLE * radii[:, None, None]).reshape(-1, 2))
        gain = float(np.clip(1 + 0.6 * points[:, 2].mean(), 0.78, 1.1))
        self.canvas.paint(outline, cloth, (xy[0], xy[-1], radii.max()), PART[part], gain)

    def rings(self, rings: list[np.ndarray], cloth: np.ndarray, part: str) -> None:
        """Paints the hull of rings (n, 3) around the trunk, from top to bottom."""
        xy = [self.place(ring)[0] for ring in rings]
        start, end = xy[0].mean(0), xy[-1].mean(0)
        outline = hull(np.concatenate(xy))
        run = end - start
        normal = np.array([-run[1], run[0]]) / max(np.hypot(*run), 1e-6)
        self.canvas.paint(outline, cloth, (start, end, np.abs((outline - start) @ normal).max()), PART[part])
