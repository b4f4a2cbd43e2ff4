"""Bodies in space: proportions, angles of a posture, and where they put the joints.

Axes are the camera's: x to the picture's right, y up, z towards the viewer. A person who faces the viewer has the own
left side at +x. The unit of length is the height of the standing person; the origin is the middle of the hips.
"""

from dataclasses import dataclass

import numpy as np

from kpzoo.scenes.figures.textures import pick

VIEW_DISTANCE = 4.0  # body heights from the camera to the hips: what is nearer is drawn larger


@dataclass(frozen=True)
class Build:
    """Lengths of one body; `girth` scales how thick everything is, `head` is the height of the head."""

    head: float
    neck: float
    shoulders: float  # half the distance of the shoulder joints
    hips: float  # half the distance of the hip joints
    torso: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    foot: float
    girth: float


def sample_build(rng: np.random.Generator) -> Build:
    """Returns the proportions of an adult or (one in five) a child, slim to broad."""
    youth = rng.uniform(0.4, 1.0) if rng.random() < 0.2 else rng.uniform(0.0, 0.15)
    girth = np.clip(rng.normal(1.03, 0.17), 0.75, 1.5)
    stretch = rng.normal(1.0, 0.04)
    legs, arms = stretch * (1 - 0.14 * youth), stretch * (1 - 0.08 * youth)
    return Build(
        head=0.138 + 0.05 * youth + rng.normal(0, 0.003),
        neck=0.052 - 0.02 * youth,
        shoulders=(0.113 + rng.normal(0, 0.006)) * (0.85 + 0.15 * girth),
        hips=(0.058 + rng.normal(0, 0.004)) * (0.85 + 0.15 * girth),
        torso=0.29 + rng.normal(0, 0.008),
        upper_arm=0.172 * arms,
        forearm=0.145 * arms,
        hand=0.055 * arms,
        thigh=0.245 * legs,
        shin=0.235 * legs,
        foot=0.125,
        girth=girth,
    )


@dataclass(frozen=True)
class Posture:
    """Angles in degrees. Arms and legs: left, right, each (flexion, abduction, twist, elbow or knee)."""

    name: str
    lean: float
    bend: float
    twist: float
    roll: float
    head: tuple[float, float, float]  # down, to the own left, tilt
    arms: np.ndarray
    legs: np.ndarray


# weight, (lean, roll), arm a, arm b, leg a, leg b, spread of all. Which side is a and which is b is drawn by lot.
# Arms turn in the frame of the chest, legs in that of the ground.
_ROWS = {
    "stand": (12, (2, 0), (2, 9, 0, 14), (0, 9, 0, 12), (2, 4, 6, 3), (-2, 4, 6, 4), 5),
    "relaxed": (6, (2, 0), (5, 12, -10, 25), (15, 14, -40, 75), (-4, 6, 8, 2), (14, 9, 12, 22), 7),
    "akimbo": (4, (0, 0), (-14, 46, -78, 98), (-14, 46, -78, 98), (0, 7, 8, 3), (2, 8, 10, 6), 6),
    "folded": (4, (2, 0), (32, 8, -62, 98), (30, 8, -60, 95), (0, 5, 8, 3), (2, 5, 8, 6), 6),
    "phone": (5, (5, 0), (34, 8, -20, 112), (4, 9, 0, 16), (0, 4, 6, 4), (4, 5, 8, 8), 7),
    "pocket": (4, (2, 0), (-16, 20, -35, 62), (2, 9, 0, 14), (0, 5, 8, 3), (4, 6, 8, 10), 5),
    "walk": (13, (5, 0), (-26, 8, 0, 18), (24, 8, 0, 32), (26, 2, 2, 8), (-20, 2, 2, 26), 7),
    "stride": (6, (4, 0), (-16, 8, 0, 22), (14, 8, 0, 30), (20, 2, 2, 48), (-3, 2, 2, 4), 7),
    "run": (8, (14, 0), (-48, 12, 0, 88), (38, 12, -15, 98), (58, 2, 0, 78), (-24, 2, 0, 62), 9),
    "sit": (10, (4, 0), (26, 10, -18, 48), (24, 10, -18, 52), (84, 9, 2, 84), (84, 9, 2, 88), 7),
    "perch": (5, (16, 0), (40, 12, -30, 70), (30, 10, -15, 60), (78, 14, 2, 98), (70, 8, 2, 60), 9),
    "crouch": (7, (34, 0), (52, 12, -25, 62), (46, 12, -25, 55), (112, 18, 4, 128), (100, 16, 4, 126), 9),
    "cheer": (7, (-3, 0), (158, 22, 0, 22), (160, 22, 0, 26), (2, 7, 6, 5), (0, 7, 6, 6), 11),
    "wave": (6, (0, 0), (24, 78, -6, 96), (2, 9, 0, 18), (0, 5, 6, 4), (2, 6, 6, 6), 9),
    "reach": (8, (10, 0), (92, 10, 0, 16), (8, 12, 0, 32), (20, 4, 2, 22), (-12, 5, 4, 10), 13),
    "spread": (4, (0, 0), (8, 86, 0, 10), (8, 86, 0, 12), (4, 14, 4, 6), (-2, 14, 4, 6), 10),
    "bend": (7, (68, 0), (72, 6, 0, 14), (66, 6, 0, 18), (2, 6, 4, 8), (-4, 6, 4, 10), 10),
    "lunge": (6, (14, 0), (60, 30, -15, 50), (-25, 34, 0, 40), (64, 10, 2, 72), (-30, 10, 4, 26), 12),
    "kick": (4, (-8, 0), (30, 52, 0, 32), (-20, 42, 0, 40), (74, 14, 0, 24), (-4, 4, 4, 12), 12),
    "jump": (4, (6, 0), (120, 48, 0, 32), (96, 56, 0, 40), (42, 12, 0, 74), (6, 10, 0, 70), 14),
    "swing": (4, (18, 0), (66, 4, -34, 36), (76, 0, -42, 44), (12, 14, 4, 22), (4, 16, 4, 18), 10),
    "dive": (2, (20, 48), (130, 22, 0, 24), (100, 30, 0, 30), (12, 10, 0, 20), (-12, 14, 0, 34), 14),
    "lie": (1, (6, 86), (30, 20, 0, 40), (20, 16, 0, 34), (24, 8, 0, 40), (2, 8, 0, 18), 12),
    "hug": (0, (8, 0), (74, 20, -52, 46), (60, 22, -56, 58), (4, 5, 4, 6), (-2, 5, 4, 6), 8),
    "embrace": (0, (2, 0), (4, 76, 8, 36), (6, 12, -20, 40), (2, 5, 6, 4), (-1, 5, 6, 4), 9),
    "wrestle": (0, (38, 0), (68, 22, -26, 42), (80, 16, -34, 56), (38, 14, 4, 52), (-14, 14, 6, 34), 12),
}
POSTURES = {name: row[0] for name, row in _ROWS.items() if row[0]}
PARTNERS = {"hug": 180, "embrace": 0, "wrestle": 180}  # only of people who touch; how far the other is turned
SEATED = ("sit", "perch")


def sample_posture(rng: np.random.Generator, name: str | None = None) -> Posture:
    """Returns angles around the row `name` of the table, by default around a random row."""
    name = name or pick(rng, POSTURES)
    _, (lean, roll), *limbs, spread = _ROWS[name]
    limbs = np.array(limbs, float) + rng.normal(0, 1, (4, 4)) * (spread, spread * 0.6, spread * 1.5, spread)
    limbs[:, 3] = np.clip(limbs[:, 3], 2, 145)  # elbows and knees bend one way only
    limbs[:, 1] = np.maximum(limbs[:, 1], -3)
    a, b = rng.permutation(2)
    return Posture(
        name=name,
        lean=lean + rng.normal(0, 0.5 * spread),
        bend=rng.normal(0, 0.4 * spread),
        twist=rng.normal(0, 1.2 * spread),
        roll=(1 if rng.random() < 0.5 else -1) * roll + rng.normal(0, 3),
        head=(rng.normal(6 + 0.15 * abs(lean), 12), np.clip(rng.normal(0, 25), -65, 65), rng.normal(0, 6)),
        arms=limbs[:2][[a, b]],
        legs=limbs[2:][[a, b]],
    )


def sample_yaw(rng: np.random.Generator) -> float:
    """Returns the direction in which a person looks, in degrees: 0 faces the viewer, 180 turns the back."""
    return rng.normal(0, 40) if rng.random() < 0.45 else rng.uniform(-180, 180)


def _about(axis: int, degrees: float) -> np.ndarray:
    """(3, 3) right-handed rotation about x (0), y (1) or z (2)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if axis == 0:
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == 1:
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _limb(frame: np.ndarray, angles: np.ndarray, side: int, hinge: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frames of the upper and the lower half; a limb hangs along -y of its frame."""
    flexion, abduction, twist, bend = angles
    upper = frame @ _about(2, side * abduction) @ _about(0, -flexion) @ _about(1, side * twist)
    return upper, upper @ _about(0, hinge * bend)


@dataclass(frozen=True)
class Body:
    """A posed body: points (name → (3,)) and frames (3, 3), whose columns are left, up and forward."""

    build: Build
    posture: Posture
    yaw: float
    points: dict[str, np.ndarray]
    pelvis: np.ndarray
    chest: np.ndarray
    head: np.ndarray


def pose_body(build: Build, posture: Posture, yaw: float, tilt: float) -> Body:
    """Returns where the joints are, for a person turned by `yaw` degrees and a camera that looks down by `tilt`."""
    ground = _about(2, posture.roll) @ _about(0, tilt) @ _about(1, yaw)
    pelvis = ground @ _about(0, 0.6 * posture.lean) @ _about(1, -0.3 * posture.twist)
    chest = ground @ _about(2, posture.bend) @ _about(0, posture.lean) @ _about(1, posture.twist)
    down, left, tilted = posture.head
    relief = -0.35 * np.clip(posture.lean, 0, 90)  # who bends still looks ahead
    head = chest @ _about(1, left) @ _about(0, down + relief) @ _about(2, tilted)
    collar = pelvis @ (0, 0.45 * build.torso, 0) + chest @ (0, 0.55 * build.torso, 0)
    points = {"waist": pelvis @ (0, 0.42 * build.torso, 0), "collar": collar}
    for side, name, arm, leg in ((1, "left", *_pair(posture, 0)), (-1, "right", *_pair(posture, 1))):
        upper, lower = _limb(chest, arm, side, -1)
        shrug = 0.016 * (1 - (chest.T @ upper)[1, 1])  # a raised arm lifts its shoulder
        points[f"{name}_shoulder"] = collar + chest @ (side * (build.shoulders - shrug), shrug, 0)
        points[f"{name}_elbow"] = points[f"{name}_shoulder"] - build.upper_arm * upper[:, 1]
        points[f"{name}_wrist"] = points[f"{name}_elbow"] - build.forearm * lower[:, 1]
        points[f"{name}_fingers"] = points[f"{name}_wrist"] - build.hand * lower[:, 1]
        upper, lower = _limb(ground, leg, side, 1)
        points[f"{name}_hip"] = pelvis @ (side * build.hips, 0, 0)
        points[f"{name}_knee"] = points[f"{name}_hip"] - build.thigh * upper[:, 1]
        points[f"{name}_ankle"] = points[f"{name}_knee"] - build.shin * lower[:, 1]
        foot = lower @ _about(0, 8)
        points[f"{name}_heel"] = points[f"{name}_ankle"] + foot @ (0, -0.03, -0.022)
        points[f"{name}_toe"] = points[f"{name}_ankle"] + foot @ (0, -0.036, build.foot - 0.03)
    neck = chest + 0.6 * (head - chest)
    points["skull"] = collar + neck @ (0, build.neck + 0.36 * build.head, 0.16 * build.head)
    half = build.head / 2
    for name, place in _FACE.items():
        points[name] = points["skull"] + head @ (half * np.array(place))
    return Body(build, posture, yaw, points, pelvis, chest, head)


def _pair(posture: Posture, side: int) -> tuple[np.ndarray, np.ndarray]:
    return posture.arms[side], posture.legs[side]


# left, up and forward of the head's middle, in halves of its height
_FACE = {
    "nose": (0.0, -0.16, 1.0),
    "left_eye": (0.29, 0.1, 0.76),
    "right_eye": (-0.29, 0.1, 0.76),
    "left_ear": (0.69, -0.04, -0.06),
    "right_ear": (-0.69, -0.04, -0.06),
}
HEAD_AXES = np.array([0.68, 1.0, 0.84])  # half width, height and depth of the skull, in halves of the head's height


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (..., 2) picture coordinates, x to the right and y down, and (...) the scale at that depth."""
    scale = VIEW_DISTANCE / (VIEW_DISTANCE - points[..., 2])
    return points[..., :2] * (1, -1) * scale[..., None], scale


def extent(body: Body) -> np.ndarray:
    """(4,) left, top, right, bottom of the drawn body, in body heights around the middle of the hips."""
    names = list(body.points)
    xy, _ = project(np.array([body.points[name] for name in names]))
    radius = np.full(len(names), 0.03 * body.build.girth)
    radius[names.index("skull")] = 0.5 * body.build.head
    return np.concatenate([(xy - radius[:, None]).min(0), (xy + radius[:, None]).max(0)])
