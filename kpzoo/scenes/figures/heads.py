"""Draws the head of a figure: skull, hair or hat, and the face on the side to which the head is turned.

Nothing else tells the front of a drawn person from the back, and with it left from right.
"""

import cv2
import numpy as np

from kpzoo.scenes.figures.canvas import CIRCLE, PART, SHIFT, Painter, fixed, hull
from kpzoo.scenes.figures.postures import HEAD_AXES
from kpzoo.scenes.figures.textures import make_plain


def _filled(outline: list, middle: tuple[float, float]) -> np.ndarray:
    """Returns an outline with points between and within, so that some lie near any edge of what can be seen."""
    corners = np.array(outline, float)
    edge = np.concatenate([corners + share * (np.roll(corners, -1, 0) - corners) for share in (0, 0.34, 0.67)])
    return np.concatenate([middle + share * (edge - middle) for share in (0.35, 0.7, 1.0)])


# Places on the skull: degrees to the own left of straight ahead, degrees upwards.
_PLACES = {
    "face": _filled(
        [
            *((72, 8), (60, 30), (30, 42), (0, 45), (-30, 42), (-60, 30)),
            *((-72, 8), (-66, -28), (-40, -62), (0, -78), (40, -62), (66, -28)),
        ],
        (0, -10),
    ),
    "beard": _filled(
        [
            *((64, -26), (30, -31), (0, -29), (-30, -31), (-64, -26)),
            *((-60, -36), (-38, -64), (0, -80), (38, -64), (60, -36)),
        ],
        (0, -45),
    ),
    "hat": [(aside, up) for aside in range(-180, 180, 18) for up in (24, 40, 60, 85)],
    "brim": [(-55, 27), (-30, 24), (0, 22), (30, 24), (55, 27), (0, 34)],
    "mouth": [(-17, -40), (0, -43), (17, -40)],
    "eyes": [(21, 5), (-21, 5)],
    "left_brow": [(12, 16), (34, 17)],
    "right_brow": [(-12, 16), (-34, 17)],
    "bridge": [(0, 8)],
}


def _on_sphere(degrees: np.ndarray) -> np.ndarray:
    """(n, 3) left, up and forward of points on the unit sphere."""
    aside, up = np.radians(degrees).T
    return np.stack([np.sin(aside) * np.cos(up), np.sin(up), np.cos(aside) * np.cos(up)], 1)


_POINTS = _on_sphere(np.concatenate([np.array(places, float) for places in _PLACES.values()]))
_NORMALS = _POINTS / HEAD_AXES / np.linalg.norm(_POINTS / HEAD_AXES, axis=1, keepdims=True)
_ENDS = np.cumsum([len(places) for places in _PLACES.values()]).tolist()
_SLICES = {name: slice(end - len(_PLACES[name]), end) for name, end in zip(_PLACES, _ENDS, strict=True)}


class _Skull:
    """Where the places of a head are in the picture, and which of them face the viewer."""

    def __init__(self, painter: Painter):
        body = painter.body
        centre, scale = painter.place(body.points["skull"])
        self.centre_xy, self.size, self.frame = centre, float(body.build.head / 2 * scale), body.head
        self.flat = self.size * (self.frame * HEAD_AXES)[:2] * [[1], [-1]]  # (2, 3) unit sphere → picture
        self.offsets_xy = _POINTS @ self.flat.T
        self.facing = _NORMALS @ self.frame[2]

    def silhouette(self, swell: float) -> np.ndarray:
        return self.centre_xy + swell * CIRCLE @ np.linalg.cholesky(self.flat @ self.flat.T).T

    def surface(self, name: str, swell: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Returns (n, 2) picture points and (n,) how much the surface there faces the viewer, -1..1."""
        return self.centre_xy + swell * self.offsets_xy[_SLICES[name]], self.facing[_SLICES[name]]

    def patch(self, name: str, swell: float = 1.0) -> np.ndarray | None:
        """Returns the outline (n, 2) of the part of a region that can be seen, None when it is turned away."""
        points, facing = self.surface(name, swell)
        seen = points[facing > 0]
        return hull(seen) if len(seen) > 4 else None

    def axis(self) -> tuple:
        top = self.flat[:, 1]
        return self.centre_xy + top, self.centre_xy - top, 0.85 * self.size


def draw_head(painter: Painter) -> None:
    """Draws the head of the painter's person into its canvas."""
    look, skull = painter.look, _Skull(painter)
    canvas, axis = painter.canvas, skull.axis()
    hair = make_plain(look.hair_rgb)
    swell = {"curly": 1.24, "bald": 1.0, "cap": 1.03}.get(look.hair, 1.08)
    if look.hair == "bun":
        bun, _ = painter.place(painter.body.points["skull"] - 0.55 * painter.body.build.head * skull.frame[:, 2])
        canvas.paint(bun + 0.42 * skull.size * CIRCLE, hair, axis, PART["hair"])
    canvas.paint(skull.silhouette(swell), look.skin if look.hair == "bald" else hair, axis, PART["head"])
    _draw_ears(painter, skull)
    face, beard, hat = skull.patch("face"), skull.patch("beard", 1.02), skull.patch("hat", 1.1)
    if face is not None:
        _draw_nose(painter, skull, bridge=False)
        canvas.paint(face, look.skin, axis, PART["head"], 1.04)
        if look.beard and beard is not None:
            canvas.paint(beard, hair, axis, PART["head"])
        _draw_features(painter, skull)
    if look.hair == "cap" and hat is not None:
        canvas.paint(hat, make_plain(look.hat_rgb), axis, PART["head"])
        if skull.frame[2, 2] > -0.5:
            brim = skull.surface("brim", 1.12)[0]
            brim[[1, 2, 3]] += 0.35 * skull.size * (skull.frame[:2, 2] * (1, -1))
            canvas.paint(hull(brim), make_plain(0.8 * look.hat_rgb), axis, PART["head"])


def _draw_ears(painter: Painter, skull: _Skull) -> None:
    if painter.look.hair == "long":
        return
    for side, sign in (("left", 1), ("right", -1)):
        if skull.frame[2, 0] * sign < -0.35:
            continue
        centre, _ = painter.place(painter.body.points[f"{side}_ear"])
        ear = CIRCLE * (0.1 + 0.12 * abs(skull.frame[2, 0]), 0.2) * skull.size
        tilt = skull.frame[:2, 1] * (1, -1)
        ear = ear @ np.array([[-tilt[1], tilt[0]], [tilt[0], tilt[1]]])
        axis = (centre - 0.2 * skull.size * tilt, centre + 0.2 * skull.size * tilt, 0.2 * skull.size)
        painter.canvas.paint(centre + ear, painter.look.skin, axis, PART["head"], 0.86)


def _draw_nose(painter: Painter, skull: _Skull, bridge: bool) -> None:
    """Draws the nose: first what sticks out of a profile, then (`bridge`) the shade upon the face."""
    tip, _ = painter.place(painter.body.points["nose"])
    (root,), _ = skull.surface("bridge")
    axis = (root, tip, 0.12 * skull.size)
    if not bridge:
        outline = hull(np.stack([root, *(tip + 0.1 * skull.size * CIRCLE)]))
        return painter.canvas.paint(outline, painter.look.skin, axis, PART["head"])
    skin = painter.look.skin_rgb
    _line(painter, np.stack([root, tip]), 0.82 * skin, 0.07 * skull.size)
    side = skull.frame[:2, 0] * (1, -1) * 0.15 * skull.size
    under = tip - skull.frame[:2, 1] * (1, -1) * 0.07 * skull.size
    _line(painter, np.stack([under - side, under + side]), 0.62 * skin, 0.08 * skull.size)


def _draw_features(painter: Painter, skull: _Skull) -> None:
    look, size = painter.look, skull.size
    skin = look.skin_rgb
    brows = 0.7 * look.hair_rgb if look.hair_rgb.mean() < 130 else 0.55 * skin
    eyes, facing = skull.surface("eyes")
    for eye, seen, brow in zip(eyes, facing, ("left_brow", "right_brow"), strict=True):
        if seen < 0.12:
            continue
        wide = np.array([0.14 * min(1.0, 0.35 + seen), 0.08]) * size
        _blob(painter, eye, wide * 1.25, 0.68 * skin)
        _blob(painter, eye, wide, np.array([225, 222, 215]))
        _blob(painter, eye, np.array([0.07, 0.078]) * size, np.array([32, 24, 22]))
        _line(painter, skull.surface(brow)[0], brows, 0.09 * size)
    if look.glasses and facing.max() > 0.12:
        for eye, seen in zip(eyes, facing, strict=True):
            if seen > 0:
                _blob(painter, eye, np.array([0.24 * min(1.0, 0.3 + seen), 0.18]) * size, np.array([30, 30, 34]), 1)
    mouth, facing = skull.surface("mouth")
    if facing[1] > 0.0:
        _line(painter, mouth, np.array([150, 60, 58]) * 0.5 + 0.35 * skin, 0.11 * size)
    _draw_nose(painter, skull, bridge=True)


def _line(painter: Painter, points_xy: np.ndarray, rgb: np.ndarray, width: float) -> None:
    points = fixed(points_xy - painter.canvas.origin_xy)
    colour = (*rgb.tolist(), 255)
    cv2.polylines(painter.canvas.rgba, [points], False, colour, max(1, round(width)), cv2.LINE_AA, SHIFT)


def _blob(painter: Painter, centre_xy: np.ndarray, radii_xy: np.ndarray, rgb: np.ndarray, thickness: int = -1) -> None:
    centre, radii = fixed(centre_xy - painter.canvas.origin_xy), fixed(radii_xy)
    tilt = float(np.degrees(np.arctan2(*(painter.body.head[:2, 1] * (-1, 1)))))
    colour = (*rgb.tolist(), 255)
    cv2.ellipse(painter.canvas.rgba, centre, radii, -tilt, 0, 360, colour, thickness, cv2.LINE_AA, SHIFT)


def draw_curtain(painter: Painter) -> None:
    """Draws long hair down to the shoulders, behind the face."""
    body, skull = painter.body, _Skull(painter)
    half = body.build.head / 2
    back = body.points["skull"] + skull.frame @ (0, 0.1 * half, -0.25 * half)
    low = body.points["collar"] + body.chest @ (0, -0.35 * body.build.head, -0.45 * body.build.head)
    hair = make_plain(painter.look.hair_rgb)
    painter.chain(np.stack([back, low]), (0.86 * half, 0.72 * half), hair, "hair")
