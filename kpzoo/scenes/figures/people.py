"""Draws one clothed person: a `Body` becomes pixels, a map of its parts and 17 joints with their visibility."""

from dataclasses import dataclass

import cv2
import numpy as np

from kpzoo.scenes.figures.canvas import CIRCLE, PART, PARTS, SHIFT, SIDES, Canvas, Painter, fixed, hull
from kpzoo.scenes.figures.clothes import Look
from kpzoo.scenes.figures.heads import draw_curtain, draw_head
from kpzoo.scenes.figures.postures import SEATED, Body, project
from kpzoo.skeletons import COCO17

# A joint is visible if the nearest surface at its position is one of these parts of the same person.
_CARRIERS = {
    "shoulder": ("upper_arm", "torso"),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("thigh", "torso", "pelvis", "skirt"),
    "knee": ("thigh", "shin", "skirt"),
    "ankle": ("shin", "foot", "skirt"),
}


def _carriers() -> np.ndarray:
    """(17, parts) bool: which body parts show which joint."""
    table = np.zeros((COCO17.num_keypoints, len(PARTS)), bool)
    for k, name in enumerate(COCO17.keypoints):
        side, _, joint = name.partition("_")
        for part in _CARRIERS.get(joint, ("head",)):
            table[k, PART[part if part in PART else f"{side}_{part}"]] = True
    return table


CARRIERS = _carriers()


@dataclass(frozen=True)
class Figure:
    """A drawn person.

    Args:
        rgba: (h, w, 4) uint8 premultiplied colours.
        parts: (h, w) uint8 indices into `PARTS`, 0 where the person is not.
        origin_xy: The picture's pixel at which `rgba` begins.
        keypoints_image_xy: (17, 2) joints, inside the picture or not.
        bare: (17,) bool: neither the own body nor the own hair hides the joint.
        feet_xy: Where its shadow lies on the ground.
        height: Pixels that the person would measure standing upright.
        seated: Whether something should stand under the hips.
    """

    rgba: np.ndarray
    parts: np.ndarray
    origin_xy: np.ndarray
    keypoints_image_xy: np.ndarray
    bare: np.ndarray
    feet_xy: np.ndarray
    height: float
    seated: bool


def _between(start: np.ndarray, end: np.ndarray, *shares: float) -> np.ndarray:
    return np.stack([start + share * (end - start) for share in shares])


def _ring(centre: np.ndarray, frame: np.ndarray, half_width: float, half_depth: float) -> np.ndarray:
    """(13, 3) ellipse around the trunk."""
    return centre + CIRCLE @ np.stack([half_width * frame[:, 0], half_depth * frame[:, 2]])


def _add_arm(painter: Painter, side: str) -> None:
    points, look, thick = painter.body.points, painter.look, painter.body.build.girth**0.6
    shoulder, elbow, wrist = (points[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))

    def upper() -> None:
        part = f"{side}_upper_arm"
        radii = np.array([0.034, 0.033, 0.026]) * thick
        root = shoulder - painter.body.chest @ (0.012 if side == "left" else -0.012, 0.014, 0)
        if look.sleeve < 0.5:
            painter.chain(_between(root, elbow, 0, 0.4, 1), radii, look.skin, part)
        if look.sleeve > 0:
            ends = _between(root, elbow, 0, min(2 * look.sleeve, 1.0))
            painter.chain(ends, (radii[0] + 0.004, radii[1] + 0.003 + look.flare), look.top, part)

    def lower() -> None:
        part, radii = f"{side}_forearm", np.array([0.026, 0.027, 0.017]) * thick
        if look.sleeve < 1:
            return painter.chain(_between(elbow, wrist, 0, 0.3, 1), radii, look.skin, part)
        painter.chain(_between(elbow, wrist, 0, 0.3, 0.97), radii + 0.004 + look.flare * 0.8, look.top, part)

    def hand() -> None:
        fingers = points[f"{side}_fingers"]
        painter.chain(_between(wrist, fingers, 0, 0.55, 1.05), (0.015, 0.021, 0.012), look.skin, f"{side}_hand")

    painter.add((shoulder + elbow)[2] / 2 + 0.05, upper)
    painter.add((elbow + wrist)[2] / 2 + 0.055, lower)
    painter.add(points[f"{side}_fingers"][2] + 0.054, hand)


def _add_leg(painter: Painter, side: str) -> None:
    points, look, thick = painter.body.points, painter.look, painter.body.build.girth**0.8
    hip, knee, ankle = (points[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
    heel, toe = points[f"{side}_heel"], points[f"{side}_toe"]

    def thigh() -> None:
        radii = np.array([0.058, 0.053, 0.038]) * thick
        if look.trouser < 0.5:
            painter.chain(_between(hip, knee, 0, 0.35, 1), radii, look.skin, f"{side}_thigh")
        if look.trouser > 0:
            end = min(2 * look.trouser, 1.0)
            width = radii + 0.003 + look.flare
            width[2] = radii[1] * (1 - end) + radii[2] * end + look.flare
            painter.chain(_between(hip, knee, 0, 0.35 * end, end), width, look.bottom, f"{side}_thigh")

    def shin() -> None:
        radii = np.array([0.036, 0.041, 0.022]) * thick
        if look.trouser < 1:
            return painter.chain(_between(knee, ankle, 0, 0.3, 1), radii, look.skin, f"{side}_shin")
        wide = radii + (0.002, 0.003, 0.006) + look.flare
        painter.chain(_between(knee, ankle, 0, 0.3, 0.98), wide, look.bottom, f"{side}_shin")

    def foot() -> None:
        sole = np.stack([ankle, heel, toe])
        painter.chain(sole[[0, 1, 2]], (0.02 * thick, 0.021, 0.018), look.shoe, f"{side}_foot")

    painter.add((hip + knee)[2] / 2 - 0.6 * hip[2], thigh)
    painter.add((knee + ankle)[2] / 2 - 0.005, shin)
    painter.add((heel + toe)[2] / 2 - 0.01, foot)


def _trunk_rings(body: Body, look: Look) -> list[np.ndarray]:
    """Returns five rings (13, 3): root of the neck, shoulders, chest, waist, hips."""
    points, chest, pelvis, g = body.points, body.chest, body.pelvis, body.build.girth
    collar, shoulders = points["collar"], body.build.shoulders
    belly = 1.0 + 1.2 * max(g - 1.15, 0)
    loose = look.flare * 0.7 + (0.012 if look.coat else 0)
    return [
        _ring(collar + chest @ (0, 0.034, -0.005), chest, 0.048, 0.04),
        _ring(collar + chest @ (0, 0.012, 0), chest, shoulders - 0.004, 0.06 * g),
        _ring(collar - chest @ (0, 0.075, 0), chest, 0.93 * shoulders + loose, 0.086 * g + loose),
        _ring(points["waist"], pelvis, (0.7 * shoulders + 0.01) * belly + loose, 0.074 * g * belly + loose),
        _ring(pelvis @ (0, -0.012, 0), pelvis, body.build.hips + 0.042 * g + loose, 0.084 * g + loose),
    ]


def _add_trunk(painter: Painter) -> None:
    body, look, build = painter.body, painter.look, painter.body.build
    points, collar = body.points, body.points["collar"]
    rings = _trunk_rings(body, look)
    middle = (points["left_hip"] + points["right_hip"])[2] / 2
    painter.add(middle + 0.01, painter.rings, rings[3:], look.bottom, "pelvis")
    painter.add((collar[2] + points["waist"][2] + middle) / 3 + 0.03, _draw_shirt, painter, rings)
    base = points["skull"] - body.head @ (0, 0.3 * build.head, 0.1 * build.head)
    radius = 0.03 * build.girth**0.5 * build.head / 0.138
    neck = _between(collar + body.chest @ (0, 0.026, 0), base, 0, 1)
    painter.add((collar + base)[2] / 2 + 0.038, painter.chain, neck, (1.15 * radius, radius), look.skin, "neck")
    if look.hem:
        hem = [_between(points[f"{side}_hip"], points[f"{side}_knee"], look.hem)[0] for side in SIDES]
        width = 0.055 * build.girth + 0.5 * look.flare + 0.012
        below = np.concatenate([_ring(point, np.eye(3), width, width) for point in hem])
        depth = max((hem[0] + points["left_hip"])[2], (hem[1] + points["right_hip"])[2]) / 2
        cloth = look.top if look.coat else look.bottom
        painter.add(max(depth, middle) + 0.022, painter.rings, [*rings[3:], below], cloth, "skirt")
    if look.bag is not None:
        corners = [[(x, y, z) for x in (-0.075, 0.075) for z in (-0.15, -0.06)] for y in (0.0, -0.2)]
        bag = [collar + np.array(level) @ body.chest.T for level in corners]
        painter.add(collar[2] - 0.12 * body.chest[2, 2] + 0.03, painter.rings, bag, look.bag, "bag")


def _draw_shirt(painter: Painter, rings: list[np.ndarray]) -> None:
    """Draws the upper garment; its neckline or front edge tells the front of a person from the back."""
    body, look, canvas, g = painter.body, painter.look, painter.canvas, painter.body.build.girth
    collar, chest = body.points["collar"], body.chest
    if look.trouser == 1 or look.coat:
        painter.rings(rings[3:], look.top, "torso")
    painter.rings(rings[:4], look.top, "torso")
    if chest[2, 2] < 0.15:
        return
    if look.coat:
        edge, _ = painter.place(np.stack([collar + chest @ (0, 0, 0.06 * g), body.pelvis @ (0, -0.02, 0.08 * g)]))
        colour = (*(0.5 * look.top[0, 0, :3]).tolist(), 255)
        cv2.line(canvas.rgba, *fixed(edge - canvas.origin_xy), colour, 1, cv2.LINE_AA, SHIFT)
    else:
        neckline = collar + np.array([(-0.036, 0.034, 0.03), (0.036, 0.034, 0.03), (0, -0.03, 0.06)]) @ chest.T
        xy, scale = painter.place(neckline)
        canvas.paint(hull(xy), look.skin, (xy[:2].mean(0), xy[2], 0.05 * scale[0]), PART["torso"], 0.92)


_NEAR = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)


def pixels_around(picture: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """(n, 9) values of `picture` (h, w) in the 3x3 pixels around points (n, 2); beyond the edge its border repeats."""
    near = np.clip(np.rint(points_xy).astype(int)[:, None] + _NEAR, 0, (picture.shape[1] - 1, picture.shape[0] - 1))
    return picture[near[..., 1], near[..., 0]]


def _bare(painter: Painter, keypoints_image_xy: np.ndarray) -> np.ndarray:
    """(17,) bool: the joint's own flesh or cloth is what the part map shows around it, and it faces the viewer."""
    body = painter.body
    around = pixels_around(painter.canvas.parts, keypoints_image_xy - painter.canvas.origin_xy)
    bare = np.take_along_axis(CARRIERS, around.astype(int), 1).mean(1) > 0.5
    trunk = {"shoulder": body.build.shoulders, "hip": body.build.hips}
    for k, name in enumerate(COCO17.keypoints):
        side, _, joint = name.partition("_")
        if joint in trunk:  # the far one of a person seen from the side lies behind the trunk
            other = body.points[f"{'right' if side == 'left' else 'left'}_{joint}"]
            bare[k] &= body.points[name][2] - other[2] > -1.7 * trunk[joint]
        elif joint == "ear":
            outward = body.head[2, 0] * (1 if side == "left" else -1)
            bare[k] &= outward > -0.3 and painter.look.hair != "long"
        elif joint == "eye":
            bare[k] &= body.head[2] @ (0.35 if side == "left" else -0.35, 0.05, 0.9) > 0.05
        elif name == "nose":
            bare[k] &= body.head[2, 2] > -0.25
    return bare


def draw_figure(
    body: Body, look: Look, height: float, hips_xy: np.ndarray, image_hw: tuple[int, int], light_xy: np.ndarray
) -> Figure:
    """Draws a person.

    Args:
        body: Where the joints are, in body heights.
        look: Skin, hair and clothes.
        height: Pixels that the person would measure standing upright.
        hips_xy: Where the middle of the hips goes, in picture pixels.
        image_hw: Size of the picture; what lies outside is not drawn.
        light_xy: (2,) direction from which light comes; its length, at most 1, says how much from the side.
    """
    points, _ = project(np.stack(list(body.points.values())))
    points = hips_xy + height * points
    margin = 0.13 * height
    size_xy = np.array(image_hw[::-1])
    low = np.clip(np.floor(points.min(0) - margin), 0, size_xy - 1).astype(int)  # who is wholly outside gets one pixel
    high = np.clip(np.ceil(points.max(0) + margin), low + 1, size_xy).astype(int)
    canvas = Canvas(np.concatenate([low, high]), light_xy)
    painter = Painter(canvas, body, look, height, hips_xy)
    for side in SIDES:
        _add_arm(painter, side)
        _add_leg(painter, side)
    _add_trunk(painter)
    forward, skull = body.head[2, 2], body.points["skull"]
    painter.add(skull[2] + 0.06, draw_head, painter)
    if look.hair == "long":
        painter.add(body.points["collar"][2] - 0.1 * forward + 0.02, draw_curtain, painter)
    painter.finish()
    keypoints, _ = painter.place(np.stack([body.points[name] for name in COCO17.keypoints]))
    feet_xy = np.array([hips_xy[0], points[:, 1].max()])
    seated, bare = body.posture.name in SEATED, _bare(painter, keypoints)
    return Figure(canvas.rgba, canvas.parts, low, keypoints, bare, feet_xy, height, seated)
