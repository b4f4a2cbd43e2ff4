"""Keypoints of programs and data sets whose files hold numbers and no names."""

from kpzoo import skeletons
from kpzoo.convert.model import Category

_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
_FEET = ("big_toe", "small_toe", "heel")


def _of(side: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts)


def _both(*parts: str) -> tuple[str, ...]:
    return tuple(name for part in parts for name in _of("left", part) + _of("right", part))


_ARMS = _of("right", *_ARM) + _of("left", *_ARM)
_LEGS = _of("right", *_LEG) + _of("left", *_LEG)
_FACE = ("right_eye", "left_eye", "right_ear", "left_ear")

# OpenPose: doc/02_output.md of its repository.
BODY25 = ("nose", "neck", *_ARMS, "mid_hip", *_LEGS, *_FACE, *_of("left", *_FEET), *_of("right", *_FEET))
OPENPOSE18 = ("nose", "neck", *_ARMS, *_LEGS, *_FACE)
MPI15 = ("head", "neck", *_ARMS, *_LEGS, "chest")

# Halpe-FullBody: its README. The face has the 68 points of iBUG, a hand the 21 of OpenPose.
HALPE26 = (*skeletons.COCO17.keypoints, "head", "neck", "hip", *_both(*_FEET))
_HALPE_REST = tuple(f"face_{k}" for k in range(68)) + tuple(
    f"{side}_hand_{k}" for side in ("left", "right") for k in range(21)
)
HALPE136 = (*HALPE26, *_HALPE_REST)
# COCO-WholeBody: feet are big toe, small toe, heel of the left, then of the right foot.
WHOLEBODY133 = (*skeletons.COCO17.keypoints, *_of("left", *_FEET), *_of("right", *_FEET), *_HALPE_REST)

# Leeds Sports Pose: the order of its joints.mat, with the names of LSPET's neck and top of the head.
LSP14 = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    *("neck", "head_top"),
)
# OCHuman: `keypoint_names` of its file.
OCHUMAN19 = (*_ARMS, *_LEGS, "head", "neck", "right_ear", "left_ear", "nose", "right_eye", "left_eye")

_BY_COUNT = {26: HALPE26, 136: HALPE136, 133: WHOLEBODY133}


def category(keypoints: tuple[str, ...]) -> Category:
    """Returns the category of a person with some keypoints, with the links of limbs and torso that they allow."""
    links = [pair for pair in skeletons.COCO17.links if set(pair) <= set(keypoints)]
    pairs = None
    if "face_0" in keypoints:
        own = [(f"left_{name[6:]}", name) for name in keypoints if name.startswith("right_")]
        pairs = own + [(f"face_{a}", f"face_{b}") for a, b in _FACE_PAIRS]
    return Category("person", list(keypoints), links, pairs)


def of_count(count: int) -> Category | None:
    """Returns the category with this number of keypoints that AlphaPose and its kin write; None if it is unknown."""
    if count == skeletons.COCO17.num_keypoints:
        return Category.of(skeletons.COCO17)
    return category(_BY_COUNT[count]) if count in _BY_COUNT else None


# Left and right of iBUG's 68 points: jaw, brows, nostrils, eyes, outer and inner lips.
_FACE_PAIRS = [
    *((k, 16 - k) for k in range(8)),
    *((k, 43 - k) for k in range(17, 22)),
    *((31, 35), (32, 34)),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (59, 55), (58, 56)),
    *((60, 64), (61, 63), (67, 65)),
]
